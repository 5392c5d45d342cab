//! `verify`: answers from rows of registered tables and from memories, and cites them. Rewarded by
//! the support of what it cites.

use std::sync::Arc;

use serde::Deserialize;

use super::interface::{ActivationSource, Generated, ParsedAnswer, Search, Strategy};
use super::settings;
use crate::limits::count;
use crate::reward::{AutomaticReward, Outcome, support_reward};

/// `[settings]` of `verify`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Verify {
    /// Number of rows, 1 to 50.
    rows: usize,
    /// Number of memories beside them, 0 to 50.
    memories: usize,
    /// Cosine similarity, in [-1, 1]; see [`Search::Memories`].
    min_score: f32,
}

impl Default for Verify {
    fn default() -> Self {
        Self { rows: 5, memories: 3, min_score: 0.0 }
    }
}

impl Strategy for Verify {
    fn retrieve(&self) -> Vec<Search> {
        let memories = Search::Memories { k: self.memories, min_score: self.min_score };
        let memories = (self.memories > 0).then_some(memories);
        std::iter::once(Search::Rows { k: self.rows }).chain(memories).collect()
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
    let made: Verify = settings::read(table)?;
    count("settings.rows", made.rows, 50)?;
    settings::memories("memories", made.memories, made.min_score, 0)?;
    Ok(Arc::new(made))
}
