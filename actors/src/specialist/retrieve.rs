//! What a specialist answers from: memories, and rows of registered tables. Never what others asked or were answered: that is on record for those who
//! operate Nyx, and no prompt reads it.

use nyx_domain::{Evidence, MemoryFilter, tail};
use nyx_specialists::Retrieval;

use super::{QUERY_CHARS, SpecialistParts};
use crate::memory::messages::Recall;
use crate::{NyxError, RequestContext};

impl SpecialistParts {
    /// Looks where the specialist's file says, for what the last question asks. Rows go before memories: the last is left out first where the window
    /// is too small.
    pub(super) async fn retrieve(&self, context: &RequestContext, asked: &str, filter: &MemoryFilter) -> Result<Vec<Evidence>, NyxError> {
        let Some(policy) = &self.policy else { return Ok(Vec::new()) };
        if asked.trim().is_empty() {
            return Ok(Vec::new());
        }
        let asked = tail(asked, QUERY_CHARS);
        match policy.retrieval {
            Retrieval::None => Ok(Vec::new()),
            Retrieval::Memory { k, min_score } => self.recalled(context, asked, filter, k, min_score).await,
            Retrieval::Tables { k, memories, min_score } => {
                let rows = context.bound("registered tables were searched", self.facts.search(asked, k));
                let (mut found, recalled) = tokio::try_join!(rows, self.recalled(context, asked, filter, memories, min_score))?;
                // beside rows, an id says of what it is one
                found.extend(recalled.into_iter().map(|memory| Evidence { id: format!("memory:{}", memory.id), ..memory }));
                Ok(found)
            }
        }
    }

    async fn recalled(
        &self,
        context: &RequestContext,
        asked: &str,
        filter: &MemoryFilter,
        k: usize,
        min_score: f32,
    ) -> Result<Vec<Evidence>, NyxError> {
        if k == 0 {
            return Ok(Vec::new());
        }
        let recall = Recall { context: context.clone(), query: asked.to_owned(), k, filter: filter.clone(), min_score };
        let hits = context.bound("memories were searched", self.memory.send(recall)).await?;
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
