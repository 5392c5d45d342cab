//! Counterfactual fairness: a question about people is asked again with the people exchanged, and both answers count.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::join;
use nyx_engine::{Role, SamplingParams};
use nyx_specialists::fairness::{FairAction, Lexicon, People, compare, weigh};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::sink::{AnswerSink, AnswerText};
use super::{Delivery, Prompt, STOPPED, Screened, SpecialistParts, Spoken, Written};
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
    fn is_fair(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.fairness.is_some())
    }

    fn people(&self, text: &str, choices: &[String]) -> Option<People> {
        LEXICON.as_ref().filter(|_| self.is_fair()).and_then(|lexicon| People::find(lexicon, text, choices))
    }

    /// A question with choices about two people, with the two exchanged, and their choices.
    pub(super) fn exchanged_reading(&self, question: &Question) -> Option<(Question, (usize, usize))> {
        let people = self.people(&read(question), question.choices.as_deref()?)?;
        let exchanged = exchange(question, &crate::orchestrator::last_question(question), |text| people.swapped(text));
        Some((exchanged, people.pair))
    }

    /// Whether a question with choices is about two people whom its text does not tell apart.
    pub(super) fn is_undecided(&self, question: &Question) -> bool {
        let text = read(question);
        let people = question.choices.as_deref().and_then(|choices| self.people(&text, choices));
        people.is_some_and(|people| !people.told_apart(&text))
    }

    /// Scores the choices, of a question about two people for both of its readings.
    pub(super) async fn choose_fairly(
        self: &Arc<Self>,
        context: &RequestContext,
        question: &Question,
        written: (Prompt, Vec<Vec<u32>>),
        sampling: SamplingParams,
        deadline_ms: u64,
    ) -> Result<Spoken, NyxError> {
        let (prompt, continuations) = written;
        let choices = question.choices.as_deref().unwrap_or_default();
        let text = read(question);
        let Some(people) = self.people(&text, choices) else { return self.choose(context, prompt, choices, continuations, sampling).await };
        let exchanged = exchange(question, &crate::orchestrator::last_question(question), |text| people.swapped(text));
        let reading = async {
            let Written { prompt: other, choices: continuations, .. } = self.write_exchanged(context, exchanged, deadline_ms).await?;
            self.choose(context, other, choices, continuations, sampling.clone()).await
        };
        let (spoken, other) = join(self.choose(context, prompt, choices, continuations, sampling.clone()), reading).await;
        let mut spoken = spoken?;
        let other = match other {
            Ok(other) => other,
            Err(error) => {
                // the question itself was answered: no place or no room for the second reading takes nothing from it
                let note = json!({ "action": "not_compared", "axes": people.axes, "reason": error.to_string() });
                spoken.notes.insert("fairness".into(), note);
                return Ok(spoken);
            }
        };
        let original = spoken.choice_probabilities.take().unwrap_or_default();
        let exchanged = other.choice_probabilities.unwrap_or_default();
        let told_apart = people.told_apart(&text);
        let fair = weigh(&people, told_apart, &original, &exchanged);
        let best =
            fair.probabilities.iter().enumerate().fold(0, |best, (index, p)| if *p > fair.probabilities[best] { index } else { best });
        if let (Some(answer), Some(choice)) = (spoken.answers.first_mut(), choices.get(best)) {
            answer.text.clone_from(choice);
        }
        spoken.usage.prompt_tokens += other.usage.prompt_tokens;
        spoken.usage.total_tokens += other.usage.total_tokens;
        let note = json!({
            "action": fair.action, "axes": people.axes, "told_apart": told_apart, "exchanged_question": people.swapped(&text),
            "probabilities": original, "exchanged_probabilities": exchanged, "penalty": people.penalty(&original, &exchanged),
        });
        spoken.notes.insert("fairness".into(), note);
        spoken.choice_probabilities = Some(fair.probabilities);
        Ok(spoken)
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
        let lexicon = LEXICON.as_ref().filter(|_| self.is_fair())?;
        let asked = crate::orchestrator::last_question(question);
        let other = lexicon.exchanged(&asked)?;
        let exchanged = exchange(question, &asked, |text| lexicon.exchanged(text).unwrap_or_else(|| text.to_owned()));
        let written = self.write_exchanged(context, exchanged, deadline_ms).await.ok()?;
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

    pub(super) async fn write_exchanged(
        self: &Arc<Self>,
        context: &RequestContext,
        question: Question,
        deadline_ms: u64,
    ) -> Result<Written, NyxError> {
        let parts = Arc::clone(self);
        let asked = crate::orchestrator::last_question(&question);
        let writing = tokio::task::spawn_blocking(move || parts.write(&question, &asked, Vec::new(), deadline_ms));
        let written = async { writing.await.map_err(|error| NyxError::Internal(error.to_string()))? };
        context.bound("the exchanged prompt was written", written).await
    }
}

/// All that is read: the context, then what is asked.
fn read(question: &Question) -> String {
    let asked = crate::orchestrator::last_question(question);
    question.given.context.as_ref().map_or_else(|| asked.clone(), |context| format!("{context}\n\n{asked}"))
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
