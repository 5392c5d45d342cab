//! `timing`: answers in full, short or later, by the expected reward in the time that is left.
//! Rewarded for being in time.

use std::sync::Arc;

use serde::Deserialize;

use super::interface::{
    ActivationSource, Generated, Generation, GenerationRequest, ParsedAnswer, Search, Strategy,
};
use super::settings;
use crate::limits::within;
use crate::reward::{AutomaticReward, Outcome, reward_of, timeliness};
use crate::time::{PlanRequest, Quality, plan};

/// `[settings]` of `timing`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Timing {
    /// Number of memories, 1 to 50.
    k: usize,
    /// Cosine similarity, in [-1, 1]; see [`Search::Memories`].
    min_score: f32,
    /// The fraction in [0, 1] by which an answer that takes all of its time is worth less.
    penalty: f64,
    /// Expected quality of a full and of a short answer, in [0, 1], before the penalty.
    full: f64,
    short: f64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { k: 5, min_score: 0.0, penalty: 0.5, full: 1.0, short: 0.8 }
    }
}

impl Strategy for Timing {
    fn retrieve(&self) -> Vec<Search> {
        vec![Search::Memories { k: self.k, min_score: self.min_score }]
    }

    fn generate(&self, request: &GenerationRequest) -> Generation {
        let &GenerationRequest {
            answers,
            prompt_tokens,
            max_tokens,
            remaining_ms,
            may_defer,
            pace,
        } = request;
        let quality = Quality { full: self.full, short: self.short };
        let request = PlanRequest {
            prompt_tokens,
            max_tokens,
            remaining_ms,
            quality,
            penalty: self.penalty,
            may_defer,
        };
        Generation { samples: answers, plan: Some(plan(&request, pace)) }
    }

    fn parse(&self, generated: Generated<'_>) -> ParsedAnswer {
        ParsedAnswer::with_citations(generated)
    }

    fn reward(&self, outcome: &Outcome<'_>) -> Option<AutomaticReward> {
        let activation = timeliness(outcome, self.penalty);
        Some(AutomaticReward {
            activation,
            reward: reward_of(activation),
            rule: "timeliness".into(),
        })
    }

    fn activation(&self) -> ActivationSource {
        ActivationSource::Automatic
    }

    fn delay_penalty(&self) -> f64 {
        self.penalty
    }
}

pub(super) fn make(table: Option<toml::Table>) -> Result<Arc<dyn Strategy>, String> {
    let made: Timing = settings::read(table)?;
    settings::memories("k", made.k, made.min_score, 1)?;
    within("settings.penalty", made.penalty, 0.0, 1.0)?;
    within("settings.full", made.full, 0.0, 1.0)?;
    within("settings.short", made.short, 0.0, 1.0)?;
    Ok(Arc::new(made))
}
