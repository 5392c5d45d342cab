//! Decides whether to answer now, answer short or defer, by expected reward.

use nyx_domain::{AnswerMode, LatencyEstimate, Pace, Plan};
use serde::{Deserialize, Serialize};

/// Length of a short answer as a fraction of a full one.
const SHORT_SHARE: usize = 3;
const LEAST_TOKENS: usize = 8;
/// Cost of having to fetch a deferred answer, beside the delay.
const COMING_BACK: f64 = 0.1;
/// Fraction of the deadline that predictions may use: the rest is a margin for their error.
const TRUSTED: f64 = 0.9;

/// The measurements of one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Time in the queue.
    pub queue_ms: f64,
    /// Time of the prefill.
    pub prefill_ms: f64,
    /// Prompt tokens that were not in the prefix cache.
    pub prefilled_tokens: u64,
    /// Time of the decode.
    pub decode_ms: f64,
    /// Generated tokens.
    pub completion_tokens: u64,
    /// Upper bound of the answer, in tokens.
    pub max_tokens: usize,
    /// Whether it ended with a stop or at its length limit.
    pub complete: bool,
}

/// Moves the estimates of `pace` towards an answer's measurements: by a fifth each, by more for the
/// first ones.
pub fn observe(pace: &mut Pace, measured: &Measured) {
    pace.answers += 1;
    let step = (1.0 / pace.answers as f64).max(0.2);
    let towards = |value: &mut f64, found: f64| {
        if found.is_finite() && found >= 0.0 {
            *value += step * (found - *value);
        }
    };
    towards(&mut pace.queue_ms, measured.queue_ms);
    if measured.prefilled_tokens > 0 {
        towards(
            &mut pace.prefill_ms_per_token,
            measured.prefill_ms / measured.prefilled_tokens as f64,
        );
    }
    // the prefill produces the first token
    if measured.completion_tokens > 1 {
        towards(
            &mut pace.decode_ms_per_token,
            measured.decode_ms / (measured.completion_tokens - 1) as f64,
        );
    }
    if measured.complete && measured.max_tokens > 0 {
        towards(
            &mut pace.share_used,
            (measured.completion_tokens as f64 / measured.max_tokens as f64).min(1.0),
        );
    }
}

/// Expected quality of an answer by its mode, in [0, 1], before the time penalty: a configured
/// prior (`[timing]` of the specialist's file).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// Of a full answer.
    pub full: f64,
    /// Of a short answer.
    pub short: f64,
}

/// The inputs of the decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanRequest {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Upper bound of the answer, in tokens.
    pub max_tokens: usize,
    /// Milliseconds until the deadline.
    pub remaining_ms: f64,
    /// Expected quality of the modes.
    pub quality: Quality,
    /// The penalty in [0, 1] of an answer that takes all of its time.
    pub penalty: f64,
    /// Whether the answer may be deferred.
    pub may_defer: bool,
}

/// The option with the highest expected reward, `quality · fraction completed in time − penalty ·
/// fraction of the time taken`; of equals the first of full, short, deferred. Deferring always
/// takes all of the time, plus the cost of fetching the answer.
pub fn plan(prospect: &PlanRequest, pace: Pace) -> Plan {
    let trusted_ms = prospect.remaining_ms * TRUSTED;
    let first_token_ms = pace.queue_ms + pace.prefill_ms_per_token * prospect.prompt_tokens as f64;
    let now = |mode, max_tokens: usize, quality: f64| {
        let tokens = (max_tokens as f64 * pace.share_used).max(1.0);
        let duration_ms = first_token_ms + pace.decode_ms_per_token * (tokens - 1.0);
        let made = if duration_ms <= trusted_ms {
            1.0
        } else {
            // the prefill produces the first token
            let left_ms = trusted_ms - first_token_ms;
            if left_ms < 0.0 {
                0.0
            } else {
                ((1.0 + left_ms / pace.decode_ms_per_token.max(f64::MIN_POSITIVE)) / tokens)
                    .clamp(0.0, 1.0)
            }
        };
        let share = if prospect.remaining_ms > 0.0 {
            (duration_ms / prospect.remaining_ms).clamp(0.0, 1.0)
        } else {
            1.0
        };
        let quality = quality * made;
        LatencyEstimate {
            mode,
            max_tokens,
            duration_ms,
            quality,
            reward: quality - prospect.penalty * share,
        }
    };
    let short = (prospect.max_tokens / SHORT_SHARE).max(LEAST_TOKENS).min(prospect.max_tokens);
    let full = now(AnswerMode::Full, prospect.max_tokens, prospect.quality.full);
    let mut options = vec![full];
    if short < prospect.max_tokens {
        options.push(now(AnswerMode::Short, short, prospect.quality.short));
    }
    if prospect.may_defer {
        let reward = prospect.quality.full - prospect.penalty - COMING_BACK;
        options.push(LatencyEstimate {
            mode: AnswerMode::Defer,
            quality: prospect.quality.full,
            reward,
            ..full
        });
    }
    let chosen = options
        .iter()
        .fold(full, |best, option| if option.reward > best.reward { *option } else { best });
    Plan { chosen, options, pace, remaining_ms: prospect.remaining_ms }
}
