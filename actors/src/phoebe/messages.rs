//! Messages of the phoebe actor.

use std::collections::BTreeMap;

use actix::Message;
use nyx_domain::{
    Decision, DecisionName, Feedback, FeedbackResult, Memory, OpenForecast, TraitWeightChange,
};
use nyx_specialists::bandit::BanditSettings;
use uuid::Uuid;

use crate::NyxError;
use crate::feedback::NewFeedback;

/// Commits a decision (and its automatic reward, if any) in one transaction. The reply is sent only
/// when the decision is durable.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NyxError>")]
pub struct RecordDecision {
    pub decision: Box<Decision>,
    /// The automatic reward in [-1, 1] and the name of the rule that computed it.
    pub reward: Option<(f64, String)>,
    /// The decision is on record as deferred, and this message completes it.
    pub completes: bool,
}

#[derive(Debug, Message)]
#[rtype(result = "Result<Decision, NyxError>")]
pub struct GetDecision(pub Uuid);

/// Lists decisions, newest first.
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

/// The turns around memories: for each of `ids` that exists and has a conversation, up to `before`
/// memories before it and up to `after` memories after it, in conversation order (by time of the
/// event, then by id).
#[derive(Debug)]
pub struct Neighbours {
    pub tenant: String,
    /// At most 1000.
    pub ids: Vec<Uuid>,
    pub before: u32,
    pub after: u32,
}

/// A memory close to another one in the same conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour {
    /// The requested memory.
    pub of: Uuid,
    /// Distance from the requested memory in turns: -1 is the turn before it. Never 0.
    pub distance: i64,
    pub memory: Memory,
}

/// Memories of a tenant in the order of their ids, starting after the id `after`.
#[derive(Debug)]
pub struct ListMemories {
    pub tenant: String,
    pub after: Option<Uuid>,
    pub limit: u64,
}

/// The current weight of each of these specialists; specialists without one are omitted.
#[derive(Debug, Message)]
#[rtype(result = "Result<BTreeMap<String, f64>, NyxError>")]
pub struct LoadTraitWeights(pub Vec<String>);

/// Appends to the history in `nyx_trait_weights`; a name's newest row holds its weight.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<TraitWeightChange, NyxError>")]
pub struct StoreTraitWeight {
    pub name: String,
    pub to: f64,
    /// `admin` or the administrator's own text, or the source of the reward that caused the change.
    pub reason: String,
    pub reward: Option<f64>,
    pub decision: Option<Uuid>,
}

/// The history of a trait weight, newest first.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<TraitWeightChange>, NyxError>")]
pub struct ListTraitWeightChanges {
    pub name: String,
    /// 1..=1000.
    pub limit: u64,
}

/// The decisions with an id or external key, oldest first; at least one.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Decision>, NyxError>")]
pub struct NamedDecisions(pub DecisionName);

/// Records feedback entries with their rewards and updates the trait weights of the decisions'
/// candidates, all in one transaction. Entries equal to those in effect change nothing.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<FeedbackResult>, NyxError>")]
pub struct RecordFeedback {
    pub entries: Vec<NewFeedback>,
    /// Settings of the weight update; `None` leaves the weights unchanged.
    pub learning: Option<BanditSettings>,
}

/// All feedback entries on a decision, in the order in which they were recorded.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Feedback>, NyxError>")]
pub struct ListFeedback(pub Uuid);

/// Forecasts (decisions with a probability), newest first.
#[derive(Debug, Clone, Default, Message)]
#[rtype(result = "Result<Vec<OpenForecast>, NyxError>")]
pub struct ListOpenForecasts {
    /// `Some(true)`: only forecasts without an outcome; `Some(false)`: only those with one.
    pub open: Option<bool>,
    /// Only forecasts older than this decision.
    pub before: Option<Uuid>,
    /// 1..=1000.
    pub limit: u64,
}

/// Decisions with feedback (from the newest 20,000 feedback entries), each with the entry in
/// effect.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<(Decision, Feedback)>, NyxError>")]
pub struct ListJudged;

/// Replies once the database answers.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NyxError>")]
pub struct Ping;
