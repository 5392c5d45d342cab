//! The cell decision: the whole record of one request.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::adapter::AdapterVersion;
use crate::evidence::Evidence;
use crate::message::ChatMessage;
use crate::question::RequestInputs;
use crate::trace::Trace;

/// How a decision ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The answer is complete.
    Answered,
    /// The deadline ended the answer: it holds the text generated until then.
    Partial,
    /// The answer is generated later; the record is completed then.
    Deferred,
    /// The client closed the connection.
    Cancelled,
    /// There is no answer; `error` says why.
    Failed,
}

impl Status {
    /// The name, as serialised.
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

/// One of the `n` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// `stop`, `length`, `deadline`, `cancelled`, `content_filter`, or `choice` where choices were
    /// given.
    pub finish_reason: String,
}

/// Tokens of the whole decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Prompt tokens taken from the prefix cache.
    pub cached_tokens: u64,
    /// Generated tokens of all answers.
    pub completion_tokens: u64,
    /// Prompt and completion.
    pub total_tokens: u64,
}

/// Durations of the parts of a request, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Routing.
    pub decide_ms: f64,
    /// Retrieval of evidence.
    pub retrieve_ms: f64,
    /// Waiting for a device.
    pub queue_ms: f64,
    /// Processing of the prompt.
    pub prefill_ms: f64,
    /// Generation.
    pub decode_ms: f64,
    /// From the request to the first token of the answer; `None` without one.
    pub first_token_ms: Option<f64>,
    /// From the request to the end of the answer, before it was recorded.
    pub total_ms: f64,
}

/// The record of one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// UUID v7.
    pub id: Uuid,
    /// When the request arrived.
    pub asked_at: DateTime<Utc>,
    /// The Nyx process that answered.
    pub instance: String,
    /// The conversation's id.
    pub conversation: Option<String>,
    /// The endpoint that received the request: `/infer`, `/v1/chat/completions`, `ask`.
    pub endpoint: String,
    /// The requested model: `nyx`, `nyx/NAME` or `nyx/base`.
    pub requested: String,
    /// The messages of the request.
    pub messages: Vec<ChatMessage>,
    /// The other inputs.
    pub inputs: RequestInputs,
    /// The last user message, which was used for routing and retrieval.
    pub question: String,
    /// The specialist that answered, or `base`.
    pub specialist: String,
    /// The base model's score of each candidate, less its content-free score; empty when the
    /// caller chose, and where they came too late. They decide only where there are no
    /// similarities.
    pub scores: BTreeMap<String, f64>,
    /// Similarity of the question to each candidate's examples; empty where the scores alone
    /// decided.
    pub similarities: BTreeMap<String, f64>,
    /// The similarity times its scale (without one the score), plus the trait weight: the
    /// propensities follow from these.
    pub logits: BTreeMap<String, f64>,
    /// The probability with which each candidate could have been chosen.
    pub propensities: BTreeMap<String, f64>,
    /// The trait weights at the time of routing.
    pub trait_weights: BTreeMap<String, f64>,
    /// The propensity of the chosen one; 1 when the caller chose.
    pub propensity: f64,
    /// The evidence in the prompt.
    pub evidence: Vec<Evidence>,
    /// The `n` answers.
    pub answers: Vec<Answer>,
    /// The caller's choices.
    pub choices: Option<Vec<String>>,
    /// In the order of `choices`.
    pub choice_probabilities: Option<Vec<f64>>,
    /// A forecast's probability, where the specialist gives one.
    pub probability: Option<f64>,
    /// Estimated probability that the answer is right; `None` where it cannot be estimated.
    pub confidence: Option<f64>,
    /// Trait activation in [0, 1]; `None` until it is known.
    pub activation: Option<f64>,
    /// Sum of the rewards so far.
    pub reward: f64,
    /// The adapter that was active.
    pub adapter: Option<AdapterVersion>,
    /// Digest of the base model.
    pub base_sha256: String,
    /// The sampling parameters, seed included.
    pub sampling: serde_json::Value,
    /// Tokens used.
    pub usage: TokenUsage,
    /// Durations.
    pub timings: Timings,
    /// What took part in the answer.
    pub trace: Trace,
    /// How it ended.
    pub status: Status,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// The expected duration of a deferred answer of which nothing is known, in milliseconds.
const UNKNOWN_DURATION_MS: f64 = 1_000.0;

impl Decision {
    /// Expected duration until a deferred decision's answer is there; `None` if it is not deferred.
    pub fn retry_after(&self) -> Option<Duration> {
        if self.status != Status::Deferred {
            return None;
        }
        let timing = self.trace.timing.as_ref();
        let expected_ms =
            timing.map_or(UNKNOWN_DURATION_MS, |timing| timing.plan.chosen.duration_ms);
        Some(Duration::try_from_secs_f64(expected_ms / 1e3).unwrap_or(Duration::from_secs(1)))
    }

    /// The first answer's text; empty when there is none.
    pub fn answer(&self) -> &str {
        self.answers.first().map_or("", |answer| answer.text.as_str())
    }
}
