//! `nyx ask`: one request in this process, without a server.

use std::time::Duration;

use clap::Args;
use nyx_actors::{Nyx, NyxBuilder, NyxError};
use nyx_domain::{ChatMessage, Decision, Question, Role, SamplingOverrides, StreamEvent, Target};
use tokio::sync::mpsc;

use super::error::{CommandError, make_data_dir};
use super::output;
use crate::http::InferResponse;
use crate::settings::Settings;

/// Capacity of the channel between the device and the terminal; an event that does not fit cancels
/// the answer.
const EVENTS: usize = 16_384;
/// Maximum time for the shutdown after the answer.
const GRACE: Duration = Duration::from_secs(5);

/// Answer one question in this process, without a server.
#[derive(Debug, Args)]
pub(super) struct Ask {
    /// The question
    question: String,
    /// The specialist that answers, by name, or "base" [default: the master model chooses]
    #[arg(long, value_name = "NAME")]
    specialist: Option<String>,
    /// Print the whole decision as JSON, as POST /infer returns it
    #[arg(long)]
    json: bool,
    /// Maximum number of tokens of the answer
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Answer with the most likely of these, separated by commas
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    choices: Option<Vec<String>>,
    /// Deadline of the answer in milliseconds
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u64>,
    /// Seed of the sampling, for repeatable answers
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Ask {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        let options = settings.nyx_options()?;
        make_data_dir(&settings)?;
        let nyx = NyxBuilder::new(options).start().await?;
        let answered = self.answer(&nyx).await;
        nyx.shutdown(GRACE).await;
        answered
    }

    async fn answer(&self, nyx: &Nyx) -> Result<(), CommandError> {
        let _permit = nyx.admission.admit()?;
        let context = nyx.admission.context(self.deadline_ms)?;
        if self.json {
            let decision = nyx.decisions.ask(context, self.question(), None).await?;
            let json = serde_json::to_string_pretty(&InferResponse::from(decision));
            return Ok(output::line(
                &json.map_err(|error| NyxError::Internal(error.to_string()))?,
            )?);
        }
        let (events, stream) = mpsc::channel(EVENTS);
        let (decision, streamed) =
            tokio::join!(nyx.decisions.ask(context, self.question(), Some(events)), print(stream));
        let decision = decision?;
        // a choice is not streamed
        let rest = if streamed? { "" } else { decision.answer() };
        output::line(rest)?;
        output::note(&summary(&decision));
        Ok(())
    }

    fn question(&self) -> Question {
        let target = match self.specialist.as_deref() {
            None => Target::Master,
            Some("base") => Target::Base,
            Some(name) => Target::Specialist(name.to_owned()),
        };
        Question {
            choices: self.choices.clone(),
            sampling: SamplingOverrides {
                max_tokens: self.max_tokens,
                seed: self.seed,
                ..SamplingOverrides::default()
            },
            ..Question::new(
                vec![ChatMessage::new(Role::User, self.question.clone())],
                target,
                "ask",
            )
        }
    }
}

/// Prints the answer as it streams; returns whether anything was printed.
async fn print(mut stream: mpsc::Receiver<StreamEvent>) -> std::io::Result<bool> {
    let mut any = false;
    while let Some(event) = stream.recv().await {
        if let StreamEvent::Token { text, .. } = event {
            output::write(&text)?;
            any = true;
        }
    }
    Ok(any)
}

/// The summary for stderr: specialist, decision id and time.
fn summary(decision: &Decision) -> String {
    let chosen = if decision.propensities.is_empty() {
        String::new()
    } else {
        format!(" (propensity {:.2})", decision.propensity)
    };
    format!(
        "-- {}{chosen}, decision {}, {:.1} s",
        decision.specialist,
        decision.id,
        decision.timings.total_ms / 1000.0
    )
}
