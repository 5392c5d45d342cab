//! `nyx eval reproduce`: trains and gates everything on the evaluation data, and prints a table of results.

use std::path::PathBuf;

use clap::Args;
use nyx_actors::{Nyx, NyxError};
use nyx_evals::{
    Dataset, EvalEnvironment, FeedbackLoopReport, Listening, feedback_loop_options,
    run_feedback_loop, summary, train_adapter,
};
use serde_json::json;

use super::error::{CommandError, make_data_dir};
use super::output;
use crate::http::{self, HttpOptions};
use crate::settings::Settings;

/// The specialists that answer questions with choices.
const SUITES: [&str; 4] = ["kairos", "eleos", "aletheia", "moira"];

/// Train on evaluation data through the gate (the adapters, and a loop on feedback alone), and
/// report the results on dev.
#[derive(Debug, Args)]
pub(super) struct Reproduce {
    /// The folder of evaluation data sets [default: $NYX_EVALS, else ../shared/trials]
    #[arg(long, value_name = "DIR")]
    evals: Option<PathBuf>,
    /// Only this suite; repeatable
    #[arg(long, value_name = "NAME", value_parser = SUITES)]
    suite: Vec<String>,
    /// Maximum number of questions per suite, sampled with the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Passes over the examples
    #[arg(long, value_name = "N", default_value_t = 1)]
    epochs: u32,
    /// Requests of the feedback loop; 0: no loop
    #[arg(long, value_name = "N", default_value_t = 800)]
    requests: u32,
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The folder for report.json and the fitted artifacts
    #[arg(long, value_name = "DIR", default_value = "target/reproduce")]
    out: PathBuf,
    /// A report of the trainer's comparison with PyTorch and PEFT, to include
    #[arg(long, value_name = "FILE")]
    peft: Option<PathBuf>,
}

impl Reproduce {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        std::fs::create_dir_all(&self.out)
            .map_err(|source| CommandError::Write { path: self.out.clone(), source })?;
        let dataset = Dataset {
            dir: self.evals.clone().unwrap_or_else(Dataset::default_dir),
            split: "train".into(),
        };
        let mut training = settings.training.clone();
        training.epochs = self.epochs as usize;
        let limit = self.limit.map(|limit| limit as usize);
        let mut options = settings.nyx_options()?;
        // training is started explicitly here
        options.training.auto = false;
        options.specialists.iter_mut().for_each(|policy| policy.adapter = None);
        let mut report = json!({ "suites": {}, "loop": null, "peft": null });
        if let Some(path) = &self.peft {
            let text = std::fs::read(path)
                .map_err(|source| CommandError::Write { path: path.clone(), source })?;
            report["peft"] = serde_json::from_slice(&text)
                .map_err(|error| NyxError::Internal(format!("{}: {error}", path.display())))?;
        }
        let all = self.suite.is_empty();
        let mut lines = Vec::new();
        for suite in SUITES
            .into_iter()
            .filter(|suite| all || self.suite.iter().any(|wanted| wanted == suite))
        {
            let environment =
                EvalEnvironment::start(options.clone(), self.seed, limit, None).await?;
            let trained = train_adapter(&environment, &dataset, suite, &training).await;
            environment.shutdown().await;
            let trained = trained?;
            lines.push(summary(suite, &trained));
            report["suites"][suite] = json!(trained);
            // intermediate results are saved, because the whole run takes long
            self.keep(&report)?;
        }
        if self.requests > 0 {
            let environment = EvalEnvironment::start(
                feedback_loop_options(options, &training),
                self.seed,
                limit,
                None,
            )
            .await?;
            let ran =
                Box::pin(run_feedback_loop(&environment, &dataset, self.requests as usize, serve))
                    .await;
            environment.shutdown().await;
            let ran: FeedbackLoopReport = ran?;
            lines.extend(ran.lines());
            report["loop"] = json!(ran);
            self.keep(&report)?;
        }
        lines.iter().try_for_each(|line| output::line(line))?;
        output::note(&format!("the report: {}", self.out.join("report.json").display()));
        Ok(())
    }

    fn keep(&self, report: &serde_json::Value) -> Result<(), CommandError> {
        let text = serde_json::to_string_pretty(report)
            .map_err(|error| NyxError::Internal(error.to_string()))?;
        self.write("report.json", &text)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), CommandError> {
        let path = self.out.join(name);
        std::fs::write(&path, text).map_err(|source| CommandError::Write { path, source })
    }
}

/// Serves on a free loopback port.
fn serve(nyx: Nyx) -> std::io::Result<Listening> {
    let options = HttpOptions { port: 0, ..HttpOptions::default() };
    let listener = http::listen(&options)?;
    let base = format!("http://{}", listener.local_addr()?);
    let server = http::serve(listener, &options, nyx)?;
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(Listening { base, stop: Box::pin(async move { handle.stop(false).await }) })
}
