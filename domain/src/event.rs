//! Events: the live stream of cell decisions, and the stream of one answer.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::safety::Finding;

/// One step of one decision.
#[derive(Debug, Clone, Serialize)]
pub struct CellEvent {
    /// Increases by one per event, also across restarts: the first is the process's start in
    /// microseconds.
    pub id: u64,
    /// When it was published.
    pub at: DateTime<Utc>,
    /// The decision, if it belongs to one.
    pub decision: Option<Uuid>,
    /// The specialist, once one has been chosen.
    pub specialist: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub step: CellStep,
}

/// What happened; `event` is its name in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum CellStep {
    /// A request arrived.
    Asked {
        /// The requested model.
        requested: String,
        /// The last user message.
        question: String,
    },
    /// Screening found something in the question.
    Screened {
        /// The most severe first.
        findings: Vec<Finding>,
    },
    /// The candidates were scored.
    Scored {
        /// As in [`Decision::scores`](crate::Decision::scores).
        scores: BTreeMap<String, f64>,
        /// As in [`Decision::similarities`](crate::Decision::similarities).
        similarities: BTreeMap<String, f64>,
        /// As in [`Decision::logits`](crate::Decision::logits).
        logits: BTreeMap<String, f64>,
        /// Duration in milliseconds.
        decide_ms: f64,
    },
    /// A specialist was chosen.
    Decided {
        /// The probability with which it was chosen.
        propensity: f64,
        /// All candidates' propensities.
        propensities: BTreeMap<String, f64>,
        /// All candidates' trait weights.
        trait_weights: BTreeMap<String, f64>,
    },
    /// Evidence was retrieved.
    Retrieved {
        /// Ids of the evidence.
        evidence: Vec<String>,
        /// Duration in milliseconds.
        retrieve_ms: f64,
    },
    /// The first token was generated.
    FirstToken {
        /// Milliseconds since the request.
        first_token_ms: f64,
    },
    /// The answer is complete.
    Answered {
        /// The first answer's text.
        answer: String,
        /// As in [`Answer::finish_reason`](crate::Answer::finish_reason).
        finish_reason: String,
        /// Generated tokens.
        completion_tokens: u64,
        /// As in [`Decision::confidence`](crate::Decision::confidence).
        confidence: Option<f64>,
        /// Milliseconds since the request.
        total_ms: f64,
    },
    /// The decision is on record.
    Recorded {
        /// As in [`Status::as_str`](crate::Status::as_str).
        status: &'static str,
    },
    /// A reward was recorded.
    Rewarded {
        /// The reward.
        reward: f64,
        /// As in [`Decision::activation`](crate::Decision::activation).
        activation: Option<f64>,
        /// `outcome`, `feedback`, or `automatic: RULE`.
        source: String,
    },
    /// A trait weight changed.
    WeightsUpdated {
        /// The weight before.
        from: f64,
        /// The weight after.
        to: f64,
        /// Why.
        reason: String,
    },
    /// An adapter was stored.
    AdapterAdded {
        /// Its id.
        adapter: String,
    },
    /// A new generation is active in this process.
    AdapterPromoted {
        /// Its id; `None` is the base model.
        adapter: Option<String>,
        /// The generation's number.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// An earlier generation is active again in this process.
    AdapterRolledBack {
        /// Its id; `None` is the base model.
        adapter: Option<String>,
        /// The generation's number.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// An adapter's files are missing or changed.
    AdapterBad {
        /// Its id.
        adapter: String,
        /// What is wrong with them.
        reason: String,
    },
    /// An adapter became a canary.
    CanarySet {
        /// Its id.
        adapter: String,
        /// Its share of the requests, in (0, 1).
        share: f64,
    },
    /// An adapter is no longer a canary.
    CanaryCleared {
        /// Its id.
        adapter: String,
    },
    /// A training run progressed.
    Training {
        /// The run's id.
        run: String,
        /// Its status.
        status: &'static str,
        /// Loss, step and throughput, as far as they are known.
        metrics: serde_json::Value,
    },
    /// A request failed.
    Failed {
        /// As in [`ErrorCode::as_str`](crate::ErrorCode::as_str).
        error: &'static str,
        /// The message.
        message: String,
    },
}

/// A sampled token's log-probability, before temperature and penalties.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// The token's id.
    pub token: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The best alternatives, best first: id, bytes and log-probability.
    pub top: Vec<(u32, Vec<u8>, f32)>,
}

/// Events of one answer while it is generated.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamEvent {
    /// The specialist is chosen. Always the first event.
    Decided {
        /// The decision's id.
        decision: Uuid,
        /// The chosen specialist.
        specialist: String,
    },
    /// More text of an answer.
    Token {
        /// Which of the `n` answers.
        index: usize,
        /// The text.
        text: String,
        /// One entry per token when log-probabilities were requested, else empty.
        logprobs: Vec<TokenLogprob>,
    },
    /// An answer is complete.
    Finished {
        /// Which of the `n` answers.
        index: usize,
        /// As in [`Answer::finish_reason`](crate::Answer::finish_reason).
        finish_reason: String,
    },
}
