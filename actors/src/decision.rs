//! The cell decision: one request's whole story, as the doors show it and phoebe keeps it.

use std::collections::BTreeMap;

use std::time::Duration;

use chrono::{DateTime, Utc};
use nyx_engine::ChatMessage;
use nyx_specialists::Evidence;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::question::RequestInputs;

/// How a decision ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Answered,
    /// Cut by the deadline: the answer holds what there was.
    Partial,
    /// To be answered later: the record is completed when it is.
    Deferred,
    /// The caller went away.
    Cancelled,
    Failed,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Partial => "partial",
            Self::Deferred => "deferred",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Which adapter spoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterVersion {
    pub name: String,
    /// SHA-256 of configuration, weights and base.
    pub id: String,
    /// The specialist's generation; 0 of an adapter that is only tried.
    pub generation: u64,
}

/// One of the `n` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub text: String,
    /// `stop`, `length`, `deadline`, `cancelled`, or `choice` where choices were given.
    pub finish_reason: String,
}

/// Tokens of the whole decision; `cached_tokens` came from the prefix cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
}

/// Where the time went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    pub decide_ms: f64,
    pub retrieve_ms: f64,
    pub queue_ms: f64,
    pub prefill_ms: f64,
    pub decode_ms: f64,
    /// From the question to the first token of the answer; `None` when there was none.
    pub first_token_ms: Option<f64>,
    /// From the question to the end of the answer, before it was recorded.
    pub total_ms: f64,
}

/// One request's whole story.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// UUID v7.
    pub id: Uuid,
    pub asked_at: DateTime<Utc>,
    /// The Nyx process that answered.
    pub instance: String,
    pub conversation: Option<String>,
    /// The door it came through: `/infer`, `/v1/chat/completions`, `ask`.
    pub endpoint: String,
    /// What the caller asked for: `nyx`, `nyx/NAME` or `nyx/base`.
    pub requested: String,
    pub messages: Vec<ChatMessage>,
    /// What the caller gave beside them.
    pub inputs: RequestInputs,
    /// The last user message: what was routed and retrieved for.
    pub question: String,
    /// Who spoke: a specialist's name, or `base`.
    pub specialist: String,
    /// The base model's score of each candidate, less its content-free score; empty when the caller chose, and where they came too late. They decide only
    /// where there are no similarities.
    pub scores: BTreeMap<String, f64>,
    /// How like the question is to each candidate's examples; empty where the scores alone decided.
    pub similarities: BTreeMap<String, f64>,
    /// The similarity times its scale (without one the score), with the trait weight: the propensities follow from these.
    pub logits: BTreeMap<String, f64>,
    pub propensities: BTreeMap<String, f64>,
    pub trait_weights: BTreeMap<String, f64>,
    /// The propensity of the one chosen; 1 when the caller chose.
    pub propensity: f64,
    pub evidence: Vec<Evidence>,
    pub answers: Vec<Answer>,
    pub choices: Option<Vec<String>>,
    /// In the order of `choices`.
    pub choice_probabilities: Option<Vec<f64>>,
    /// A forecast's probability, where the specialist gives one.
    pub probability: Option<f64>,
    pub confidence: Option<f64>,
    /// Trait activation in [0, 1]; `None` until it can be known.
    pub activation: Option<f64>,
    /// Sum of the rewards so far.
    pub reward: f64,
    pub adapter: Option<AdapterVersion>,
    pub base_sha256: String,
    /// The sampling parameters, seed included.
    pub sampling: serde_json::Value,
    pub usage: TokenUsage,
    pub timings: Timings,
    /// What took part in the answer and why it came out so, by the part's name (`forecast`, `safety`, ...), each as that part documents it.
    pub trace: BTreeMap<String, serde_json::Value>,
    pub status: Status,
    pub error: Option<String>,
}

impl Decision {
    /// Of a deferred decision, how long its answer is expected to take.
    pub fn retry_after(&self) -> Option<Duration> {
        if self.status != Status::Deferred {
            return None;
        }
        let expected_ms = self.trace.get("timing").and_then(|note| note.pointer("/plan/chosen/duration_ms")?.as_f64()).unwrap_or(1_000.0);
        Some(Duration::try_from_secs_f64(expected_ms / 1e3).unwrap_or(Duration::from_secs(1)))
    }

    /// The first answer's text; empty when there is none.
    pub fn answer(&self) -> &str {
        self.answers.first().map_or("", |answer| answer.text.as_str())
    }
}
