//! What may be asked of phoebe.

use std::collections::BTreeMap;

use actix::Message;
use chrono::{DateTime, Utc};
use nyx_specialists::bandit::BanditSettings;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::feedback::{DecisionName, Feedback, FeedbackResult, NewFeedback, OpenForecast};
use crate::{Decision, NyxError};

/// Commits a decision (and its automatic reward, when there is one) in one transaction. Answers only when it is durable.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NyxError>")]
pub struct RecordDecision {
    pub decision: Box<Decision>,
    /// The automatic reward in [-1, 1] with the rule that gave it.
    pub reward: Option<(f64, String)>,
    /// It is on record as deferred, and this completes it.
    pub completes: bool,
}

#[derive(Debug, Message)]
#[rtype(result = "Result<Decision, NyxError>")]
pub struct GetDecision(pub Uuid);

/// Newest first.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Result<Vec<Decision>, NyxError>")]
pub struct ListDecisions {
    pub specialist: Option<String>,
    pub conversation: Option<String>,
    /// Only decisions older than this one.
    pub before: Option<Uuid>,
    /// 1..=1000.
    pub limit: u64,
}

/// A memory as it is kept in `nyx_subjective_memory`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    pub id: Uuid,
    pub text: String,
    pub speaker: Option<String>,
    /// When it happened, as told; not when it was stored.
    pub when: Option<DateTime<Utc>>,
    pub conversation: Option<String>,
    pub stored_at: DateTime<Utc>,
    /// What a shared picture shows.
    #[serde(default)]
    pub caption: Option<String>,
}

impl Memory {
    /// When it happened, or when it was stored where that was not told.
    pub fn at(&self) -> DateTime<Utc> {
        self.when.unwrap_or(self.stored_at)
    }

    /// The text that is embedded and whose words are searched: who said it, what, and what a picture showed.
    pub fn passage(&self) -> String {
        let speaker = self.speaker.as_ref().map_or(String::new(), |speaker| format!("{speaker}: "));
        let caption = self.caption.as_ref().map_or(String::new(), |caption| format!(" [shares {caption}]"));
        format!("{speaker}{}{caption}", self.text)
    }
}

/// The turns around memories: for each of `ids` that is there and has a conversation, up to `before` memories before it and `after`
/// memories after it, in the order of the conversation (when they happened, then their ids).
#[derive(Debug)]
pub struct Neighbours {
    pub tenant: String,
    /// Up to 1000.
    pub ids: Vec<Uuid>,
    pub before: u32,
    pub after: u32,
}

/// A memory that stands near another one in their conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour {
    /// The one that was asked for.
    pub of: Uuid,
    /// Places from that one: -1 is the turn before it. Never 0.
    pub distance: i64,
    pub memory: Memory,
}

/// Which memories are to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemorySelector {
    /// One; [`NyxError::NotFound`] when there is none.
    Id(Uuid),
    Ids(Vec<Uuid>),
    /// Those that match all that is given.
    Matching {
        conversation: Option<String>,
        before: Option<DateTime<Utc>>,
    },
    /// Those that were stored before this moment, whenever they happened.
    StoredBefore(DateTime<Utc>),
    All,
}

/// Memories of a tenant in the order of their ids, after `after`.
#[derive(Debug)]
pub struct ListMemories {
    pub tenant: String,
    pub after: Option<Uuid>,
    pub limit: u64,
}

/// The current weight of each of these specialists that has one.
#[derive(Debug, Message)]
#[rtype(result = "Result<BTreeMap<String, f64>, NyxError>")]
pub struct LoadTraitWeights(pub Vec<String>);

/// Appends to the history in `nyx_trait_weights`; the newest row of a name is its weight.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<TraitWeightChange, NyxError>")]
pub struct StoreTraitWeight {
    pub name: String,
    pub to: f64,
    /// `admin` or the operator's own, or the source of the reward that moved it.
    pub reason: String,
    pub reward: Option<f64>,
    pub decision: Option<Uuid>,
}

/// How a trait weight came to be what it is, newest first.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<TraitWeightChange>, NyxError>")]
pub struct ListTraitWeightChanges {
    pub name: String,
    /// 1..=1000.
    pub limit: u64,
}

/// One row of the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraitWeightChange {
    pub name: String,
    pub from: f64,
    pub to: f64,
    pub reason: String,
    pub reward: Option<f64>,
    pub decision: Option<Uuid>,
    pub at: DateTime<Utc>,
}

/// The decisions of a name, oldest first; there is at least one.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Decision>, NyxError>")]
pub struct NamedDecisions(pub DecisionName);

/// Puts entries on record, all or none, each with its reward, and moves the trait weights of the decisions' candidates in the same transaction. Those
/// that say what counts already change nothing.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<FeedbackResult>, NyxError>")]
pub struct RecordFeedback {
    pub entries: Vec<NewFeedback>,
    /// How weights follow; `None` leaves them as they are.
    pub learning: Option<BanditSettings>,
}

/// All entries on a decision, in the order in which they were told.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Feedback>, NyxError>")]
pub struct ListFeedback(pub Uuid);

/// Forecasts (decisions with a probability), newest first.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Result<Vec<OpenForecast>, NyxError>")]
pub struct ListOpenForecasts {
    /// Only those without an outcome, or only those with one.
    pub open: Option<bool>,
    /// Only forecasts older than this decision.
    pub before: Option<Uuid>,
    /// 1..=1000.
    pub limit: u64,
}

/// Decisions whose truth has become known, the newest 20,000 entries' worth, each with the feedback that counts.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<(Decision, Feedback)>, NyxError>")]
pub struct ListJudged;

/// Answers when the database does.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NyxError>")]
pub struct Ping;
