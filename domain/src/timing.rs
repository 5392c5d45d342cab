//! Plans of answers by the time that is left.

use serde::{Deserialize, Serialize};

/// Measured speed of answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Milliseconds that a request waits for a device.
    pub queue_ms: f64,
    /// Milliseconds per prompt token that is not cached.
    pub prefill_ms_per_token: f64,
    /// Milliseconds per generated token.
    pub decode_ms_per_token: f64,
    /// Mean fraction of `max_tokens` that an answer uses.
    pub share_used: f64,
    /// Number of answers measured.
    pub answers: u64,
}

impl Default for Pace {
    /// The prior before any measurement: a small model on two cores.
    fn default() -> Self {
        Self {
            queue_ms: 0.0,
            prefill_ms_per_token: 2.0,
            decode_ms_per_token: 20.0,
            share_used: 0.6,
            answers: 0,
        }
    }
}

/// The answer modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerMode {
    /// Answer now, at full length.
    Full,
    /// Answer now, in a third of the tokens.
    Short,
    /// Answer later, in the background.
    Defer,
}

/// One option with its expectations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyEstimate {
    /// What is done.
    pub mode: AnswerMode,
    /// Upper bound of the answer, in tokens.
    pub max_tokens: usize,
    /// Until the answer is complete.
    pub duration_ms: f64,
    /// In [0, 1], less what the deadline cuts off.
    pub quality: f64,
    /// The quality, less the penalty of the time taken.
    pub reward: f64,
}

/// The decision and all its options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The option with the highest reward.
    pub chosen: LatencyEstimate,
    /// All options that were considered.
    pub options: Vec<LatencyEstimate>,
    /// The measurements that the expectations follow from.
    pub pace: Pace,
    /// Milliseconds until the deadline.
    pub remaining_ms: f64,
}
