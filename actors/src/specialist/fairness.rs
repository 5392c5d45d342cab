//! Counterfactual fairness of an answer in words: a question that names a group is asked again about another one.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use nyx_engine::{Role, SamplingParams};
use nyx_specialists::fairness::{FairAction, Lexicon, compare};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::sink::{AnswerSink, AnswerText};
use super::{Delivery, Prompt, STOPPED, Screened, SpecialistParts, Spoken};
use crate::gpu::Generate;
use crate::question::{Question, StreamEvent};
use crate::{NyxError, RequestContext};

/// Time that must be left for asking about another group as well.
const LEAST_ROOM: Duration = Duration::from_secs(5);
/// How much longer than the answer itself the other one is waited for at most.
const PATIENCE: Duration = Duration::from_secs(3);
/// Said after an answer that came out differently about another group.
const WIDENED: &str =
    "I answered the same question about another group differently, so please do not take this as something that is true of a group.";

/// `None` only if the shipped lists were broken, which a test rules out.
static LEXICON: LazyLock<Option<Lexicon>> = LazyLock::new(|| Lexicon::shipped().ok());

/// A generated answer to the question about another group, on its way.
struct Other {
    asked: String,
    axes: Vec<String>,
    ending: oneshot::Receiver<Result<AnswerText, NyxError>>,
    cancel: CancellationToken,
}

impl SpecialistParts {
    /// The words for people's groups, of a specialist that is fair.
    pub(super) fn fair_lexicon(&self) -> Option<&'static Lexicon> {
        let fair = self.policy.as_ref().is_some_and(|policy| policy.fairness.is_some());
        LEXICON.as_ref().filter(|_| fair)
    }

    /// Generates an answer, and of a question that names a group another one about another group, as time allows. When the two differ in tone or say
    /// the opposite, the answer says so at its end.
    pub(super) async fn generate_fairly(
        self: &Arc<Self>,
        context: &RequestContext,
        prompt: Prompt,
        question: &Question,
        asking: (SamplingParams, &Screened, u64),
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<Spoken, NyxError> {
        let (sampling, screened, deadline_ms) = asking;
        let other = if question.n == 1 && context.remaining() >= LEAST_ROOM {
            self.ask_of_another_group(context, question, &sampling, screened, deadline_ms).await
        } else {
            None
        };
        let Some(other) = other else {
            return self.generate(context, prompt, question, sampling, Delivery { screened, events, open_end: false }).await;
        };
        let _no_longer_than_this = other.cancel.clone().drop_guard();
        let delivery = Delivery { screened, events: events.clone(), open_end: true };
        let mut spoken = self.generate(context, prompt, question, sampling, delivery).await?;
        let Some(answer) = spoken.answers.first_mut() else { return Ok(spoken) };
        let whole = matches!(answer.finish_reason.as_str(), "stop" | "length");
        let patience = if whole { PATIENCE.min(context.remaining() / 2) } else { Duration::ZERO };
        let told = tokio::time::timeout(patience, other.ending).await.ok().and_then(Result::ok).and_then(Result::ok);
        let told = told.filter(|told| told.finish_reason != STOPPED);
        let note = match (told, LEXICON.as_ref(), self.policy.as_ref().and_then(|policy| policy.fairness)) {
            (Some(told), Some(lexicon), Some(tolerance)) => {
                let comparison = compare(lexicon, &answer.text, &told.text);
                let differ = comparison.penalty() > tolerance;
                if differ {
                    let text = format!("\n\n{WIDENED}");
                    answer.text.push_str(&text);
                    tell(events.as_ref(), StreamEvent::Token { index: 0, text, logprobs: Vec::new() });
                }
                let action = if differ { FairAction::Widened } else { FairAction::Agreed };
                json!({
                    "action": action, "axes": other.axes, "exchanged_question": other.asked, "exchanged_answer": told.text,
                    "comparison": comparison, "penalty": comparison.penalty(),
                })
            }
            _ => json!({ "action": "not_compared", "axes": other.axes, "exchanged_question": other.asked }),
        };
        tell(events.as_ref(), StreamEvent::Finished { index: 0, finish_reason: answer.finish_reason.clone() });
        spoken.notes.insert("fairness".into(), note);
        Ok(spoken)
    }

    /// Hands the question about another group to the pool; `None` where it names no group, or no device takes it.
    async fn ask_of_another_group(
        self: &Arc<Self>,
        context: &RequestContext,
        question: &Question,
        sampling: &SamplingParams,
        screened: &Screened,
        deadline_ms: u64,
    ) -> Option<Other> {
        let lexicon = self.fair_lexicon()?;
        let asked = crate::orchestrator::last_question(question);
        let other = lexicon.exchanged(&asked)?;
        let exchanged = exchange(question, &asked, |text| lexicon.exchanged(text).unwrap_or_else(|| text.to_owned()));
        let written = self.write_apart(context, &Arc::new(exchanged), Vec::new(), None, deadline_ms).await.ok()?;
        let cancel = context.cancel.child_token();
        let context = RequestContext { cancel: cancel.clone(), ..context.clone() };
        // not the answer of this decision: it is told to no one
        let (sink, ending) = AnswerSink::new(
            1,
            &context,
            self.policy.as_ref().map_or("", |policy| &policy.name),
            &self.cells,
            None,
            screened.guard().silent(),
        );
        let job = Generate {
            context: context.clone(),
            prompt: written.prompt.tokens,
            cacheable_prefix: written.prompt.cacheable_prefix,
            params: SamplingParams { logprobs: None, ..sampling.clone() },
            adapter: self.adapter_lease(),
            group: self.pool_group(),
            sink: Box::new(sink),
        };
        // a device that is full has no room for a second opinion
        context.bound("a device was found", self.pool.send(job)).await.ok()?;
        Some(Other { axes: lexicon.axes(&asked), asked: other, ending, cancel })
    }
}

/// The question with its context and its last user message changed.
fn exchange(question: &Question, asked: &str, change: impl Fn(&str) -> String) -> Question {
    let mut exchanged = question.clone();
    exchanged.given.context = question.given.context.as_deref().map(&change);
    if let Some(last) = exchanged.messages.iter_mut().rfind(|message| message.role == Role::User) {
        last.content = change(asked);
    }
    exchanged
}

pub(super) fn tell(events: Option<&mpsc::Sender<StreamEvent>>, event: StreamEvent) {
    // whether a reader is still there no longer matters
    let _ = events.map(|events| events.try_send(event));
}
