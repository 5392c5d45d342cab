//! Validates outcomes and feedback, and computes their rewards.

use nyx_domain::{Decision, Feedback, FeedbackInput, FeedbackKind, OutcomeInput};
use nyx_specialists::strategy::ActivationSource;
use nyx_specialists::{SpecialistPolicy, calibration, choices_reward, delayed, quadratic_reward};
use serde_json::Value;
use uuid::Uuid;

use crate::confidence::is_right;
use crate::phoebe::{storable, storable_name};
use crate::{NyxError, RewardOptions};

/// Maximum bytes of a comment or a correction.
const MAX_TEXT: usize = 32_768;

/// A feedback entry to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct NewFeedback {
    pub decision: Uuid,
    pub kind: FeedbackKind,
    /// The caller's idempotency key: the same entry under the same key is recorded once.
    pub key: Option<String>,
    pub value: f64,
    pub input: Value,
    /// The rule's reward plus the calibration term.
    pub reward: f64,
    /// The calibration term, in [-`rewards.calibration`, 0]; `None` without a confidence, or where
    /// the entry does not say whether the answer was right.
    pub calibration: Option<f64>,
    pub comment: Option<String>,
    pub correction: Option<String>,
    /// The trait activation in [0, 1] that it shows, if it shows one.
    pub activation: Option<f64>,
}

impl NewFeedback {
    pub(crate) fn rule(&self) -> &'static str {
        self.kind.rule()
    }

    /// Whether it repeats another entry.
    pub(crate) fn repeats(&self, other: &Feedback) -> bool {
        // both were computed in the same way: equal bits, or another entry
        self.value.total_cmp(&other.value).is_eq()
            && self.comment == other.comment
            && self.correction == other.correction
    }
}

/// Validates and scores an outcome of a decision.
///
/// A forecast accepts true or false, the fraction of the event that happened in [0, 1], or, with
/// two choices, the one that came true: the forecast is of the first. A decision with choices that
/// is no forecast accepts the choice that came true, by its text or its index.
pub(crate) fn outcome(
    decision: &Decision,
    policy: Option<&SpecialistPolicy>,
    weights: &RewardOptions,
    input: &OutcomeInput,
    key: Option<String>,
) -> Result<NewFeedback, NyxError> {
    let choices = decision.choices.as_deref().unwrap_or_default();
    let (value, reward) = match (decision.probability, decision.choice_probabilities.as_deref()) {
        (Some(probability), _) => {
            let happened = fraction_happened(input, choices)?;
            (happened, quadratic_reward(probability, happened))
        }
        (None, Some(probabilities)) => {
            let index = choice_index(input, choices)?;
            (index as f64, choices_reward(probabilities, index))
        }
        (None, None) => {
            let message = format!(
                "decision {} is no forecast: it has neither a probability nor choices; rate it by /v1/feedback",
                decision.id
            );
            return Err(NyxError::invalid("decision_id", message));
        }
    };
    let input = match input {
        OutcomeInput::Happened(happened) => Value::from(*happened),
        OutcomeInput::Number(number) => Value::from(*number),
        OutcomeInput::Choice(text) => Value::from(text.as_str()),
    };
    let reward = after_delay(reward, decision, policy);
    let activation = policy
        .is_some_and(|policy| policy.strategy.activation() == ActivationSource::Outcome)
        .then_some((reward + 1.0) / 2.0);
    let (kind, id) = (FeedbackKind::Outcome, decision.id);
    let (calibration, comment, correction) = (None, None, None);
    let feedback = NewFeedback {
        decision: id,
        kind,
        key,
        value,
        input,
        reward,
        calibration,
        comment,
        correction,
        activation,
    };
    feedback.calibrated(decision, weights).checked()
}

/// The fraction of a forecast event that happened, in [0, 1].
fn fraction_happened(input: &OutcomeInput, choices: &[String]) -> Result<f64, NyxError> {
    const EXPECTED: &str = "true, false or a number from 0 to 1";
    match input {
        OutcomeInput::Happened(happened) => Ok(f64::from(u8::from(*happened))),
        OutcomeInput::Number(share) if (0.0..=1.0).contains(share) => Ok(*share),
        OutcomeInput::Number(share) => {
            Err(NyxError::invalid("outcome", format!("outcome is {share}, expected {EXPECTED}")))
        }
        OutcomeInput::Choice(text) => match choices.iter().position(|choice| choice == text) {
            Some(index) => Ok(f64::from(u8::from(index == 0))),
            None => Err(unknown_choice(text, choices, EXPECTED)),
        },
    }
}

/// The index of the choice that came true.
fn choice_index(input: &OutcomeInput, choices: &[String]) -> Result<usize, NyxError> {
    let (index, given) = match input {
        OutcomeInput::Choice(text) => {
            (choices.iter().position(|choice| choice == text), format!("{text:?}"))
        }
        OutcomeInput::Number(index) => {
            let found = (0..choices.len()).find(|at| (*at as f64).total_cmp(index).is_eq());
            (found, index.to_string())
        }
        OutcomeInput::Happened(happened) => (None, happened.to_string()),
    };
    index.ok_or_else(|| unknown_choice(&given, choices, "its index"))
}

fn unknown_choice(said: &str, choices: &[String], or: &str) -> NyxError {
    let known = if choices.is_empty() { String::new() } else { format!("one of {choices:?} or ") };
    NyxError::invalid("outcome", format!("outcome is {said}, expected {known}{or}"))
}

/// A reward after the time penalty of its specialist, if there is one.
fn after_delay(reward: f64, decision: &Decision, policy: Option<&SpecialistPolicy>) -> f64 {
    let penalty = policy.map_or(0.0, |policy| policy.strategy.delay_penalty());
    // older decisions have no deadline on record
    let request = decision.trace.request;
    request.map_or(reward, |request| {
        delayed(reward, penalty, decision.timings.total_ms / request.deadline_ms as f64)
    })
}

/// Validates a user's feedback on a decision.
pub(crate) fn feedback(
    decision: &Decision,
    policy: Option<&SpecialistPolicy>,
    weights: &RewardOptions,
    input: FeedbackInput,
    key: Option<String>,
) -> Result<NewFeedback, NyxError> {
    let FeedbackInput { value, comment, correction, input } = input;
    if !(-1.0..=1.0).contains(&value) {
        return Err(NyxError::invalid(
            "value",
            format!("value is {value}, expected a number from -1 to 1"),
        ));
    }
    let by_people =
        policy.is_some_and(|policy| policy.strategy.activation() == ActivationSource::Rating);
    let reward = if by_people { value } else { after_delay(value, decision, policy) };
    let activation = by_people.then_some((reward + 1.0) / 2.0);
    let (kind, id, calibration) = (FeedbackKind::Feedback, decision.id, None);
    let feedback = NewFeedback {
        decision: id,
        kind,
        key,
        value,
        input,
        reward,
        calibration,
        comment,
        correction,
        activation,
    };
    feedback.calibrated(decision, weights).checked()
}

impl NewFeedback {
    /// Adds the calibration term, where the entry says whether the answer was right.
    fn calibrated(mut self, decision: &Decision, weights: &RewardOptions) -> Self {
        debug_assert!((-1.0..=1.0).contains(&self.reward));
        if let Some((confidence, right)) =
            decision.confidence.zip(is_right(decision, self.kind, self.value))
        {
            let added = calibration(confidence, right, weights.calibration);
            self.calibration = Some(added);
            self.reward += added;
        }
        self
    }

    fn checked(self) -> Result<Self, NyxError> {
        if let Some(key) = &self.key {
            storable_name("key", key)?;
            if key.trim().is_empty() {
                return Err(NyxError::invalid(
                    "key",
                    format!("key is {key:?}, expected a text of your own for this feedback"),
                ));
            }
        }
        for (name, text) in [("comment", &self.comment), ("correction", &self.correction)] {
            let Some(text) = text else { continue };
            storable(name, text)?;
            if text.len() > MAX_TEXT {
                return Err(NyxError::invalid(
                    name,
                    format!("{name} has {} bytes, expected at most {MAX_TEXT}", text.len()),
                ));
            }
        }
        Ok(self)
    }
}
