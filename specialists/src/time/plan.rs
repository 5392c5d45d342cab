//! Whether to answer now, answer short or defer, by what each is expected to be worth.

use serde::{Deserialize, Serialize};

/// Share of a full answer's length that a short one has.
const SHORT_SHARE: usize = 3;
const LEAST_TOKENS: usize = 8;
/// What having to come back for an answer costs, beside the delay.
const COMING_BACK: f64 = 0.1;
/// Share of the time that predictions are trusted with: the rest is for what they miss.
const TRUSTED: f64 = 0.9;

/// How fast answers are made, as measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Milliseconds that a request waits for a device.
    pub queue_ms: f64,
    pub prefill_ms_per_token: f64,
    pub decode_ms_per_token: f64,
    /// Share of the tokens it may have that an answer takes.
    pub share_used: f64,
    /// Answers that this was measured on.
    pub answers: u64,
}

impl Default for Pace {
    /// Before anything was measured: a small model on two cores.
    fn default() -> Self {
        Self { queue_ms: 0.0, prefill_ms_per_token: 2.0, decode_ms_per_token: 20.0, share_used: 0.6, answers: 0 }
    }
}

/// One answer that was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub queue_ms: f64,
    pub prefill_ms: f64,
    /// Tokens that were not in the cache.
    pub prefilled_tokens: u64,
    pub decode_ms: f64,
    pub completion_tokens: u64,
    pub max_tokens: usize,
    /// It ended by itself or at its length.
    pub complete: bool,
}

impl Pace {
    /// Moves the pace towards an answer: by a fifth each, by more for the first ones.
    pub fn observe(&mut self, measured: &Measured) {
        self.answers += 1;
        let step = (1.0 / self.answers as f64).max(0.2);
        let towards = |value: &mut f64, found: f64| {
            if found.is_finite() && found >= 0.0 {
                *value += step * (found - *value);
            }
        };
        towards(&mut self.queue_ms, measured.queue_ms);
        if measured.prefilled_tokens > 0 {
            towards(&mut self.prefill_ms_per_token, measured.prefill_ms / measured.prefilled_tokens as f64);
        }
        // the first token comes from the prefill
        if measured.completion_tokens > 1 {
            towards(&mut self.decode_ms_per_token, measured.decode_ms / (measured.completion_tokens - 1) as f64);
        }
        if measured.complete && measured.max_tokens > 0 {
            towards(&mut self.share_used, (measured.completion_tokens as f64 / measured.max_tokens as f64).min(1.0));
        }
    }
}

/// What an answer is worth by its kind, in [0, 1], before the delay counts: a stated prior (`[timing]` of the specialist's file).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    pub full: f64,
    pub short: f64,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerMode {
    /// Answer now, as long as it takes.
    Full,
    /// Answer now in a third of the tokens.
    Short,
    /// Answer later, in the background.
    Defer,
}

/// One option with what is expected of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyEstimate {
    pub mode: AnswerMode,
    pub max_tokens: usize,
    /// Until the answer is whole.
    pub duration_ms: f64,
    /// In [0, 1], less what the deadline cuts off.
    pub quality: f64,
    pub reward: f64,
}

/// What was decided, and why: every option that there was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub chosen: LatencyEstimate,
    pub options: Vec<LatencyEstimate>,
    pub pace: Pace,
    pub remaining_ms: f64,
}

/// What is to be decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanRequest {
    pub prompt_tokens: usize,
    pub max_tokens: usize,
    pub remaining_ms: f64,
    pub quality: Quality,
    /// What an answer loses that takes all of its time, in [0, 1].
    pub penalty: f64,
    pub may_defer: bool,
}

/// The option of the highest expected reward, `quality · share that is made in time − penalty · share of the time taken`; of equals the first of full,
/// short, deferred. Deferring always takes all of the time and a little more for coming back.
pub fn plan(prospect: &PlanRequest, pace: Pace) -> Plan {
    let trusted_ms = prospect.remaining_ms * TRUSTED;
    let first_token_ms = pace.queue_ms + pace.prefill_ms_per_token * prospect.prompt_tokens as f64;
    let now = |mode, max_tokens: usize, quality: f64| {
        let tokens = (max_tokens as f64 * pace.share_used).max(1.0);
        let duration_ms = first_token_ms + pace.decode_ms_per_token * (tokens - 1.0);
        let made = if duration_ms <= trusted_ms {
            1.0
        } else {
            // the first token comes with the prefill
            let left_ms = trusted_ms - first_token_ms;
            if left_ms < 0.0 { 0.0 } else { ((1.0 + left_ms / pace.decode_ms_per_token.max(f64::MIN_POSITIVE)) / tokens).clamp(0.0, 1.0) }
        };
        let share = if prospect.remaining_ms > 0.0 { (duration_ms / prospect.remaining_ms).clamp(0.0, 1.0) } else { 1.0 };
        let quality = quality * made;
        LatencyEstimate { mode, max_tokens, duration_ms, quality, reward: quality - prospect.penalty * share }
    };
    let short = (prospect.max_tokens / SHORT_SHARE).max(LEAST_TOKENS).min(prospect.max_tokens);
    let full = now(AnswerMode::Full, prospect.max_tokens, prospect.quality.full);
    let mut options = vec![full];
    if short < prospect.max_tokens {
        options.push(now(AnswerMode::Short, short, prospect.quality.short));
    }
    if prospect.may_defer {
        let reward = prospect.quality.full - prospect.penalty - COMING_BACK;
        options.push(LatencyEstimate { mode: AnswerMode::Defer, quality: prospect.quality.full, reward, ..full });
    }
    let chosen = options.iter().fold(full, |best, option| if option.reward > best.reward { *option } else { best });
    Plan { chosen, options, pace, remaining_ms: prospect.remaining_ms }
}
