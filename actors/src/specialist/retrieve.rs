//! Retrieval of evidence: memories, and rows of registered tables. Recorded questions and answers
//! of others are never evidence.

use nyx_domain::{Evidence, MemoryFilter, tail};
use nyx_specialists::strategy::Search;

use super::state::SpecialistState;
use crate::memory::messages::Recall;
use crate::{NyxError, RequestContext};

/// Characters of a question that are searched for: about the 256 tokens that the embedder reads.
pub(super) const QUERY_CHARS: usize = 1_000;

impl SpecialistState {
    /// Runs the searches of the strategy for the last user message, and joins their results in
    /// order.
    pub(super) async fn retrieve(
        &self,
        context: &RequestContext,
        asked: &str,
        filter: &MemoryFilter,
    ) -> Result<Vec<Evidence>, NyxError> {
        if asked.trim().is_empty() {
            return Ok(Vec::new());
        }
        let asked = tail(asked, QUERY_CHARS);
        let searches = self.strategy.retrieve();
        let beside_rows = searches.iter().any(|search| matches!(search, Search::Rows { .. }));
        let results = searches.into_iter().map(async |search| match search {
            Search::Rows { k } => {
                context
                    .bound("registered tables were searched", self.setup.facts.search(asked, k))
                    .await
            }
            Search::Memories { k, min_score } => {
                let mut memories = self.recalled(context, asked, filter, k, min_score).await?;
                if beside_rows {
                    // beside rows, an id names its kind
                    memories
                        .iter_mut()
                        .for_each(|memory| memory.id = format!("memory:{}", memory.id));
                }
                Ok(memories)
            }
        });
        Ok(futures_util::future::try_join_all(results).await?.into_iter().flatten().collect())
    }

    async fn recalled(
        &self,
        context: &RequestContext,
        asked: &str,
        filter: &MemoryFilter,
        k: usize,
        min_score: f32,
    ) -> Result<Vec<Evidence>, NyxError> {
        let recall = Recall {
            context: context.clone(),
            query: asked.to_owned(),
            k,
            filter: filter.clone(),
            min_score,
        };
        let hits = context.bound("memories were searched", self.setup.memory.send(recall)).await?;
        let evidence = hits.into_iter().map(|hit| Evidence {
            context: hit.exchange(),
            id: hit.memory.id.to_string(),
            text: hit.memory.text,
            score: f64::from(hit.score),
            source: "memory".into(),
            speaker: hit.memory.speaker,
            when: hit.memory.when,
        });
        Ok(evidence.collect())
    }
}
