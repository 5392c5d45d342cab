//! Outcomes and feedback on decisions.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::decision::Decision;

/// The kind of a feedback entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedbackKind {
    /// What became of a forecast.
    Outcome,
    /// A user's rating.
    Feedback,
}

impl FeedbackKind {
    /// The name, also of the source of its rewards.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outcome => "outcome",
            Self::Feedback => "feedback",
        }
    }

    /// The kind with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Outcome, Self::Feedback].into_iter().find(|kind| kind.as_str() == name)
    }

    /// The rule that turns it into a reward.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Outcome => "brier",
            Self::Feedback => "rating",
        }
    }
}

/// Refers to decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecisionName {
    /// The decision's id.
    Id(Uuid),
    /// The caller's own name, which several decisions may have.
    External(String),
}

/// A recorded feedback entry. The entries of one decision and kind are numbered; the last one is in
/// effect, earlier ones are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// UUID v7.
    pub id: Uuid,
    /// The decision that it is about.
    pub decision: Uuid,
    /// Outcome or rating.
    pub kind: FeedbackKind,
    /// The caller's idempotency key.
    pub key: Option<String>,
    /// An outcome: in [0, 1], or the index of the choice that came true. A rating: in [-1, 1].
    pub value: f64,
    /// As it was submitted.
    pub input: Value,
    /// The rule's, in [-1, 1], plus the calibration term: at least `-1 - rewards.calibration`.
    pub reward: f64,
    /// A user's comment.
    pub comment: Option<String>,
    /// The answer that would have been right.
    pub correction: Option<String>,
    /// 1 is the first entry, higher numbers are amendments.
    pub revision: u64,
    /// When it was recorded.
    pub at: DateTime<Utc>,
}

/// The effect of a feedback entry.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedbackResult {
    /// The entry.
    pub feedback: Feedback,
    /// The specialist that answered.
    pub specialist: String,
    /// False when the same entry had been submitted before.
    pub new: bool,
    /// Sum of the decision's rewards now.
    pub reward: f64,
    /// The trait activation in [0, 1] that it shows, if it shows one.
    pub activation: Option<f64>,
    /// The trait weights that it changed.
    pub weights: Vec<TraitWeightChange>,
}

/// A forecast and its outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenForecast {
    /// The decision with the forecast.
    pub decision: Decision,
    /// The outcome in effect.
    pub outcome: Option<Feedback>,
}

/// An outcome as it is submitted.
#[derive(Debug, Clone, PartialEq)]
pub enum OutcomeInput {
    /// Whether the event happened.
    Happened(bool),
    /// The fraction of the event that happened, in [0, 1], or a choice's index.
    Number(f64),
    /// The text of the choice that came true.
    Choice(String),
}

/// A user's feedback as it is submitted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FeedbackInput {
    /// In [-1, 1].
    pub value: f64,
    /// A comment.
    pub comment: Option<String>,
    /// The answer that would have been right.
    pub correction: Option<String>,
    /// The submitted JSON.
    pub input: Value,
}

/// One row of the history of trait weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraitWeightChange {
    /// The specialist.
    pub name: String,
    /// The weight before.
    pub from: f64,
    /// The weight after.
    pub to: f64,
    /// `admin` or the administrator's own text, or the source of the reward that caused the change.
    pub reason: String,
    /// The reward that caused it.
    pub reward: Option<f64>,
    /// The rewarded decision.
    pub decision: Option<Uuid>,
    /// When it was recorded.
    pub at: DateTime<Utc>,
}
