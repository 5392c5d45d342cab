//! The one validation of a request: what passes is a [`ValidQuestion`], and actors accept nothing
//! else.

use std::ops::Deref;
use std::sync::Arc;

use chrono::Datelike;
use nyx_domain::{Question, Role, Target};
use nyx_engine::EngineError;

use crate::NyxError;
use crate::phoebe::{storable, storable_name};

const MAX_CHOICES: usize = 64;
const MAX_ANSWERS: usize = 8;
const MAX_MESSAGES: usize = 1024;
const MAX_STOPS: usize = 4;

/// A question that has been validated. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ValidQuestion(Arc<Question>);

impl Deref for ValidQuestion {
    type Target = Question;

    fn deref(&self) -> &Question {
        &self.0
    }
}

impl ValidQuestion {
    /// The same question with another permission to defer its answer.
    pub(crate) fn with_allow_defer(&self, allow_defer: bool) -> Self {
        let mut question = (*self.0).clone();
        question.inputs.allow_defer = allow_defer;
        Self(Arc::new(question))
    }
}

/// What a question must fit.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The context window in tokens.
    pub context_length: usize,
    /// Bytes of the vocabulary's longest token: what has more bytes than the window's tokens cannot
    /// fit, however it is tokenised.
    pub longest_token: usize,
    /// The names that a caller may choose from.
    pub specialists: Vec<String>,
}

impl Limits {
    /// Validates a question.
    ///
    /// # Errors
    /// [`NyxError::InvalidRequest`] with the field, its value and what would be right;
    /// [`NyxError::UnknownSpecialist`]; [`EngineError::PromptTooLong`].
    pub fn validate(&self, question: Question) -> Result<ValidQuestion, NyxError> {
        self.target(&question)?;
        messages(&question)?;
        if !(1..=MAX_ANSWERS).contains(&question.n) {
            return Err(NyxError::invalid(
                "n",
                format!("n is {}, expected 1 to {MAX_ANSWERS}", question.n),
            ));
        }
        inputs(&question)?;
        self.size(&question)?;
        question
            .conversation
            .as_deref()
            .map_or(Ok(()), |conversation| storable_name("conversation", conversation))?;
        stops(&question.sampling.stop)?;
        question.choices.as_deref().map_or(Ok(()), choices)?;
        Ok(ValidQuestion(Arc::new(question)))
    }

    fn target(&self, question: &Question) -> Result<(), NyxError> {
        match &question.target {
            Target::Specialist(name) if !self.specialists.contains(name) => {
                Err(NyxError::UnknownSpecialist {
                    name: name.clone(),
                    known: self.specialists.join(", "),
                })
            }
            _ => Ok(()),
        }
    }

    fn size(&self, question: &Question) -> Result<(), NyxError> {
        let choices = question.choices.iter().flatten();
        let messages = question.messages.iter().map(|message| &message.content);
        let bytes: usize =
            messages.chain(choices).chain(&question.inputs.context).map(String::len).sum();
        if bytes > self.context_length.saturating_mul(self.longest_token) {
            return Err(EngineError::PromptTooLong { bytes, window: self.context_length }.into());
        }
        Ok(())
    }
}

fn messages(question: &Question) -> Result<(), NyxError> {
    let messages = &question.messages;
    if messages.is_empty() {
        return Err(NyxError::invalid(
            "messages",
            "messages is empty, expected at least one message",
        ));
    }
    if messages.len() > MAX_MESSAGES {
        let found = messages.len();
        return Err(NyxError::invalid(
            "messages",
            format!("messages has {found} entries, expected at most {MAX_MESSAGES}"),
        ));
    }
    match messages.iter().rposition(|message| message.role == Role::User) {
        None => {
            return Err(NyxError::invalid(
                "messages",
                "no message has the role \"user\", expected a question to answer",
            ));
        }
        Some(at) if messages[at].content.trim().is_empty() => {
            let message = "the last user message is empty, expected a question";
            return Err(NyxError::invalid(&format!("messages[{at}].content"), message));
        }
        Some(_) => {}
    }
    for (index, message) in messages.iter().enumerate() {
        storable(&format!("messages[{index}].content"), &message.content)?;
    }
    Ok(())
}

fn inputs(question: &Question) -> Result<(), NyxError> {
    let inputs = &question.inputs;
    inputs.context.as_deref().map_or(Ok(()), |context| storable("context", context))?;
    inputs.external_key.as_deref().map_or(Ok(()), |key| storable_name("external_key", key))?;
    if let Some(prior) = inputs.prior.filter(|prior| !(0.0..=1.0).contains(prior)) {
        return Err(NyxError::invalid(
            "prior",
            format!("prior is {prior}, expected a probability from 0 to 1"),
        ));
    }
    for (param, moment) in [
        ("now", inputs.now),
        ("memory.after", inputs.memory.after),
        ("memory.before", inputs.memory.before),
    ] {
        // sums with days and months must stay within the range of dates
        if let Some(moment) = moment.filter(|moment| !(1..=9_999).contains(&moment.year())) {
            return Err(NyxError::invalid(
                param,
                format!("{param} is {moment}, expected a moment in the years 1 to 9999"),
            ));
        }
    }
    Ok(())
}

fn stops(stops: &[String]) -> Result<(), NyxError> {
    if stops.len() > MAX_STOPS {
        return Err(NyxError::invalid(
            "stop",
            format!("stop has {} strings, expected at most {MAX_STOPS}", stops.len()),
        ));
    }
    for stop in stops {
        if stop.is_empty() {
            return Err(NyxError::invalid(
                "stop",
                "stop has an empty string, expected at least one character",
            ));
        }
        storable("stop", stop)?;
    }
    Ok(())
}

fn choices(choices: &[String]) -> Result<(), NyxError> {
    if !(2..=MAX_CHOICES).contains(&choices.len()) {
        return Err(NyxError::invalid(
            "choices",
            format!("choices has {} entries, expected 2 to {MAX_CHOICES}", choices.len()),
        ));
    }
    for (index, choice) in choices.iter().enumerate() {
        storable(&format!("choices[{index}]"), choice)?;
        if choice.trim().is_empty() || choices[..index].contains(choice) {
            return Err(NyxError::invalid(
                "choices",
                format!("choices[{index}] is {choice:?}, expected different, non-empty texts"),
            ));
        }
    }
    Ok(())
}
