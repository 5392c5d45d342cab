//! A question with choices about two people: read twice under neutral names, and answered by both readings.

use std::sync::Arc;

use futures_util::future::join;
use nyx_engine::{Role, SamplingParams};
use nyx_specialists::Evidence;
use nyx_specialists::fairness::{Blinded, weigh};
use serde_json::{Value, json};

use super::{Prompt, SpecialistParts, Spoken, Written};
use crate::memory::messages::Embed;
use crate::question::Question;
use crate::{NyxError, RequestContext};

/// The share of the time left that working out whom a text fits may take: it is a help, not the answer.
const SHARE_FOR_ACCOUNT: u32 = 4;
/// How sure it must be whom a text fits to say so clearly, and to say so at all without saying that it is barely so.
const CLEAR: f64 = 0.75;
const PLAIN: f64 = 0.6;

/// A question between two people as it is read: under names that say nothing of their groups, then with the names exchanged.
pub(super) struct Readings {
    original: Question,
    exchanged: Question,
    pub(super) blinded: Blinded,
    /// How likely the first is meant, by what the text says of each; `None` where that was not worked out.
    pub(super) first: Option<f64>,
}

impl Readings {
    pub(super) fn told_apart(&self) -> bool {
        self.blinded.told_apart
    }

    /// The numbers of the two choices.
    pub(super) fn pair(&self) -> (usize, usize) {
        self.blinded.people.pair
    }

    /// The names of the first and the second in the original (`false`) or the exchanged reading.
    fn names(&self, exchanged: bool) -> [&'static str; 2] {
        let [first, second] = self.blinded.names;
        if exchanged { [second, first] } else { [first, second] }
    }

    /// What was worked out, in words.
    fn account(&self, exchanged: bool) -> Option<String> {
        let first = self.first?;
        let name = self.names(exchanged)[usize::from(first < 0.5)];
        let told = match first.max(1.0 - first) {
            sure if sure >= CLEAR => format!("what is said clearly fits {name}."),
            sure if sure >= PLAIN => format!("what is said fits {name}."),
            _ => format!("what is said fits {name} slightly better."),
        };
        Some(told)
    }

    /// For the record: whom what is said fits, and how surely.
    fn note(&self, choices: &[String], learned_id: Option<&str>) -> Value {
        let (a, b) = self.pair();
        let fits = |first: f64| if first >= 0.5 { (a, first) } else { (b, 1.0 - first) };
        self.first.map(fits).map_or(
            Value::Null,
            |(fits, probability)| json!({ "fits": choices.get(fits), "probability": probability, "learned_id": learned_id }),
        )
    }
}

impl SpecialistParts {
    /// The two readings of a question with choices about two people, of a specialist that is fair. On a thread of its own: a long text takes a while.
    ///
    /// # Errors
    /// When the deadline passes.
    pub(super) async fn readings(self: &Arc<Self>, context: &RequestContext, question: &Question) -> Result<Option<Readings>, NyxError> {
        if question.choices.is_none() || self.fair_lexicon().is_none() {
            return Ok(None);
        }
        let (parts, question) = (Arc::clone(self), question.clone());
        let reading = tokio::task::spawn_blocking(move || parts.read_twice(&question));
        let read = async { reading.await.map_err(|error| NyxError::Internal(error.to_string())) };
        context.bound("the question was read", read).await
    }

    fn read_twice(&self, question: &Question) -> Option<Readings> {
        let choices = question.choices.as_deref()?;
        let blinded = Blinded::find(self.fair_lexicon()?, &told_before(question), &crate::orchestrator::last_question(question), choices)?;
        let [first, second] = blinded.names;
        let hidden = blinded.people.hidden_choices(choices, [first, second]);
        let read = |names: [&str; 2]| {
            let mut read = question.clone();
            read.given.context = question.given.context.as_deref().map(|context| blinded.people.hidden(context, names));
            for message in read.messages.iter_mut().filter(|message| message.role != Role::System) {
                message.content = blinded.people.hidden(&message.content, names);
            }
            read.choices = Some(hidden.clone());
            read
        };
        let (original, exchanged) = (read([first, second]), read([second, first]));
        Some(Readings { original, exchanged, blinded, first: None })
    }

    /// Works out how likely the first is meant, by what the text says of each; `None` where that cannot be told.
    ///
    /// # Errors
    /// When what is said cannot be embedded.
    pub(super) async fn first_fits(&self, context: &RequestContext, readings: &Readings) -> Result<Option<f64>, NyxError> {
        let (Some(reader), Some(account)) = (self.reader.as_deref(), &readings.blinded.account) else { return Ok(None) };
        let embed = Embed { context: context.clone(), texts: account.texts() };
        let embedded = context.bound("what is said was embedded", self.memory.send(embed)).await?;
        Ok(reader.value.first(account, &embedded.vectors))
    }

    /// Writes the original (`false`) or the exchanged reading, with the evidence under neutral names as well.
    pub(super) async fn write_reading(
        self: &Arc<Self>,
        context: &RequestContext,
        readings: &Readings,
        evidence: &[Evidence],
        exchanged: bool,
        deadline_ms: u64,
    ) -> Result<Written, NyxError> {
        let question = if exchanged { &readings.exchanged } else { &readings.original };
        let hide = |text: &String| readings.blinded.people.hidden(text, readings.names(exchanged));
        let hidden = |item: &Evidence| Evidence {
            text: hide(&item.text),
            speaker: item.speaker.as_ref().map(hide),
            context: item.context.iter().map(hide).collect(),
            ..item.clone()
        };
        let evidence = evidence.iter().map(hidden).collect();
        self.write_apart(context, &Arc::new(question.clone()), evidence, readings.account(exchanged), deadline_ms).await
    }

    /// Scores the choices, of a question about two people in both of its readings.
    pub(super) async fn choose_fairly(
        self: &Arc<Self>,
        context: &RequestContext,
        question: &Question,
        evidence: &[Evidence],
        written: (Prompt, Vec<Vec<u32>>),
        sampling: SamplingParams,
        deadline_ms: u64,
    ) -> Result<Spoken, NyxError> {
        let (prompt, continuations) = written;
        let choices = question.choices.as_deref().unwrap_or_default();
        let Some(mut readings) = self.readings(context, question).await? else {
            return self.choose(context, prompt, choices, continuations, sampling).await;
        };
        let soon = context.remaining() / SHARE_FOR_ACCOUNT;
        readings.first = match tokio::time::timeout(soon, self.first_fits(context, &readings)).await {
            Ok(Ok(first)) => first,
            Ok(Err(error)) => {
                tracing::debug!(%error, "two people are not compared");
                None
            }
            Err(_) => None,
        };
        let readings = &readings;
        let reading = |exchanged: bool| {
            let sampling = sampling.clone();
            async move {
                let written = self.write_reading(context, readings, evidence, exchanged, deadline_ms).await?;
                self.choose(context, written.prompt, choices, written.choices, sampling).await
            }
        };
        let (original, exchanged) = join(reading(false), reading(true)).await;
        let (a, b) = readings.pair();
        let probabilities = |spoken: &Spoken| spoken.choice_probabilities.clone().unwrap_or_default();
        let back = |mut found: Vec<f64>| {
            found.swap(a, b);
            found
        };
        // either reading answers alone where the other found no place or no room: only what depends on a name is left in it
        let (mut spoken, original, exchanged, missing) = match (original, exchanged) {
            (Ok(mut spoken), Ok(other)) => {
                spoken.usage.prompt_tokens += other.usage.prompt_tokens;
                spoken.usage.total_tokens += other.usage.total_tokens;
                let found = [probabilities(&spoken), probabilities(&other)];
                let [original, exchanged] = found;
                (spoken, original, exchanged, None)
            }
            (Ok(spoken), Err(error)) => {
                let found = probabilities(&spoken);
                (spoken, found.clone(), back(found), Some(error))
            }
            (Err(error), Ok(spoken)) => {
                let found = probabilities(&spoken);
                (spoken, back(found.clone()), found, Some(error))
            }
            (Err(error), Err(_)) => return Err(error),
        };
        let people = &readings.blinded.people;
        let fair = weigh(people, readings.told_apart(), &original, &exchanged);
        let best =
            fair.probabilities.iter().enumerate().fold(0, |best, (index, p)| if *p > fair.probabilities[best] { index } else { best });
        if let (Some(answer), Some(choice)) = (spoken.answers.first_mut(), choices.get(best)) {
            answer.text.clone_from(choice);
        }
        let reader = self.reader.as_ref().map(|reader| reader.id.as_str());
        let mut note = json!({
            "action": fair.action, "axes": people.axes, "told_apart": readings.told_apart(), "names": readings.blinded.names,
            "read_as": read(&readings.original), "account": readings.note(choices, reader),
            "probabilities": original, "exchanged_probabilities": exchanged, "penalty": people.penalty(&original, &exchanged),
        });
        if let Some(error) = missing {
            note["missing_reading"] = json!(error.to_string());
        }
        spoken.notes.insert("fairness".into(), note);
        spoken.choice_probabilities = Some(fair.probabilities);
        Ok(spoken)
    }
}

/// The context, and what was said before the last question.
fn told_before(question: &Question) -> String {
    let last = question.messages.iter().rposition(|message| message.role == Role::User);
    let said = question.messages.iter().take(last.unwrap_or_default()).filter(|message| message.role != Role::System);
    let parts = question.given.context.iter().chain(said.map(|message| &message.content));
    parts.map(String::as_str).collect::<Vec<_>>().join("\n\n")
}

/// All that is read.
fn read(question: &Question) -> String {
    let (before, asked) = (told_before(question), crate::orchestrator::last_question(question));
    if before.is_empty() { asked } else { format!("{before}\n\n{asked}") }
}
