//! `recall`: answers from memories and cites them. Rewarded by the support of what it cites.

use std::sync::Arc;

use serde::Deserialize;

use super::interface::{ActivationSource, Generated, ParsedAnswer, Search, Strategy};
use super::settings;
use crate::reward::{AutomaticReward, Outcome, support_reward};

/// `[settings]` of `recall`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Recall {
    /// Number of memories, 1 to 50.
    k: usize,
    /// Cosine similarity, in [-1, 1]; see [`Search::Memories`].
    min_score: f32,
}

impl Default for Recall {
    fn default() -> Self {
        Self { k: 5, min_score: 0.0 }
    }
}

impl Strategy for Recall {
    fn retrieve(&self) -> Vec<Search> {
        vec![Search::Memories { k: self.k, min_score: self.min_score }]
    }

    fn parse(&self, generated: Generated<'_>) -> ParsedAnswer {
        ParsedAnswer::with_citations(generated)
    }

    fn reward(&self, outcome: &Outcome<'_>) -> Option<AutomaticReward> {
        support_reward(outcome)
    }

    fn activation(&self) -> ActivationSource {
        ActivationSource::Automatic
    }
}

pub(super) fn make(table: Option<toml::Table>) -> Result<Arc<dyn Strategy>, String> {
    let made: Recall = settings::read(table)?;
    settings::memories("k", made.k, made.min_score, 1)?;
    Ok(Arc::new(made))
}
