//! Counterfactual fairness: a question about people is asked again with the people exchanged, and both answers count.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::join;
use nyx_engine::{Role, SamplingParams};
use nyx_specialists::fairness::{Account, FairAction, Lexicon, People, compare, weigh};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::sink::{AnswerSink, AnswerText};
use super::{Delivery, Prompt, STOPPED, Screened, SpecialistParts, Spoken, Written};
use crate::gpu::Generate;
use crate::memory::messages::Embed;
use crate::question::{Question, StreamEvent};
use crate::{NyxError, RequestContext};

/// Time that must be left for asking about another group as well.
const LEAST_ROOM: Duration = Duration::from_secs(5);
/// How much longer than the answer itself the other one is waited for at most.
const PATIENCE: Duration = Duration::from_secs(3);
/// How sure it must be whom a text fits to say so clearly.
const CLEAR: f64 = 0.75;
/// Said after an answer that came out differently about another group.
const WIDENED: &str =
    "I answered the same question about another group differently, so please do not take this as something that is true of a group.";

/// `None` only if the shipped lists were broken, which a test rules out.
static LEXICON: LazyLock<Option<Lexicon>> = LazyLock::new(|| Lexicon::shipped().ok());

/// A question between two people as it is read: twice, with their groups hidden.
pub(super) struct Readings {
    pub(super) original: Question,
    pub(super) exchanged: Question,
    pub(super) people: People,
    /// Whether the text says anything of one that it does not say of both.
    pub(super) told_apart: bool,
    names: [&'static str; 2],
    /// How likely the first is meant, by what the text says of each; `None` where that was not worked out.
    pub(super) first: Option<f64>,
}

impl Readings {
    /// What was worked out, under the names of the original (`false`) or the exchanged reading.
    fn account(&self, exchanged: bool) -> Option<String> {
        let first = self.first?;
        let person = usize::from((first < 0.5) != exchanged);
        let how = if first.max(1.0 - first) >= CLEAR { "clearly " } else { "" };
        Some(format!("what is said {how}fits {}.", self.names[person]))
    }
}

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

    /// The two readings of a question with choices about two people: under names that say nothing of their groups, then with the names exchanged.
    pub(super) async fn readings(&self, context: &RequestContext, question: &Question) -> Option<Readings> {
        let choices = question.choices.as_deref()?;
        let text = read(question);
        let people = self.people(&text, choices)?;
        let names = People::neutral_names(&format!("{text}\n{}", choices.join("\n")));
        let asked = crate::orchestrator::last_question(question);
        let hidden = people.hidden_choices(choices, names);
        let [original, exchanged] = [names, [names[1], names[0]]].map(|names| {
            let renamed = exchange(question, &asked, |text| people.hidden(text, names));
            Question { choices: Some(hidden.clone()), ..renamed }
        });
        let told_apart = people.told_apart(&text);
        let first = if told_apart { self.first_fits(context, &original, names).await } else { None };
        Some(Readings { original, exchanged, people, told_apart, names, first })
    }

    /// How likely a hidden question means the first, by what its text says of each; `None` where that cannot be told, or embedded now.
    async fn first_fits(&self, context: &RequestContext, hidden: &Question, names: [&str; 2]) -> Option<f64> {
        let reader = self.reader.as_deref()?;
        let asked = crate::orchestrator::last_question(hidden);
        let account = match &hidden.given.context {
            Some(text) => Account::of(text, &asked, names),
            None => Account::of_message(&asked, names),
        }?;
        let embed = Embed { context: context.clone(), texts: account.texts() };
        let embedded = context.bound("what is said was embedded", self.memory.send(embed)).await;
        let embedded = embedded.inspect_err(|error| tracing::debug!(%error, "two people are not compared")).ok()?;
        reader.value.first(&account, &embedded.vectors)
    }

    /// Writes the original (`false`) or the exchanged reading.
    pub(super) async fn write_reading(
        self: &Arc<Self>,
        context: &RequestContext,
        readings: &Readings,
        exchanged: bool,
        deadline_ms: u64,
    ) -> Result<Written, NyxError> {
        let question = if exchanged { &readings.exchanged } else { &readings.original };
        self.write_exchanged(context, question.clone(), readings.account(exchanged), deadline_ms).await
    }

    /// Scores the choices, of a question about two people in both of its readings.
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
        let Some(readings) = self.readings(context, question).await else {
            return self.choose(context, prompt, choices, continuations, sampling).await;
        };
        let Readings { original, exchanged, people, told_apart, first, .. } = &readings;
        let read_as = [original, exchanged].map(read);
        let reading = |exchanged: bool| {
            let (sampling, readings) = (sampling.clone(), &readings);
            async move {
                let Written { prompt, choices: continuations, .. } = self.write_reading(context, readings, exchanged, deadline_ms).await?;
                self.choose(context, prompt, choices, continuations, sampling).await
            }
        };
        let (spoken, other) = join(reading(false), reading(true)).await;
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
        let fair = weigh(people, *told_apart, &original, &exchanged);
        let best =
            fair.probabilities.iter().enumerate().fold(0, |best, (index, p)| if *p > fair.probabilities[best] { index } else { best });
        if let (Some(answer), Some(choice)) = (spoken.answers.first_mut(), choices.get(best)) {
            answer.text.clone_from(choice);
        }
        spoken.usage.prompt_tokens += other.usage.prompt_tokens;
        spoken.usage.total_tokens += other.usage.total_tokens;
        let account = first.map(|first| {
            let (fits, probability) = if first >= 0.5 { (people.pair.0, first) } else { (people.pair.1, 1.0 - first) };
            json!({ "fits": choices.get(fits), "probability": probability, "learned_id": self.reader.as_ref().map(|reader| &reader.id) })
        });
        let note = json!({
            "action": fair.action, "axes": people.axes, "told_apart": told_apart, "read_as": read_as, "account": account,
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
        let written = self.write_exchanged(context, exchanged, None, deadline_ms).await.ok()?;
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

    async fn write_exchanged(
        self: &Arc<Self>,
        context: &RequestContext,
        question: Question,
        account: Option<String>,
        deadline_ms: u64,
    ) -> Result<Written, NyxError> {
        let parts = Arc::clone(self);
        let asked = crate::orchestrator::last_question(&question);
        let writing = tokio::task::spawn_blocking(move || parts.write(&question, &asked, Vec::new(), account.as_deref(), deadline_ms));
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
