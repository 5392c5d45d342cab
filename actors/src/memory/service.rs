//! The memory service: what the actor's handlers do.

use std::sync::Arc;

use nyx_domain::Memory;

use super::embedding::EmbeddingService;
use super::messages::{Embeddings, NewMemory};
use super::options::RecallOptions;
use super::qdrant::QdrantIndex;
use super::text::memory;
use crate::phoebe::search::{LOCAL_TENANT, MemoryIndex};
use crate::{NyxError, RequestContext};

/// Maximum number of memories stored by one request.
const MAX_BATCH: usize = 1000;

/// Shared components of the memory actor. Cheap to clone.
#[derive(Clone)]
pub struct MemoryService {
    pub embedding: EmbeddingService,
    pub index: MemoryIndex,
    /// If set, replaces phoebe's index for vector search.
    pub server: Option<Arc<QdrantIndex>>,
    /// Days to keep a memory after it was stored; `None` is unlimited.
    pub retention_days: Option<u32>,
    pub recall: RecallOptions,
}

impl MemoryService {
    /// Embeds the memories, then writes rows, vectors and full text in one transaction.
    pub(super) async fn remember(
        &self,
        context: RequestContext,
        memories: Vec<NewMemory>,
    ) -> Result<Vec<Memory>, NyxError> {
        if !(1..=MAX_BATCH).contains(&memories.len()) {
            return Err(NyxError::invalid(
                "memories",
                format!("memories are {}, expected 1 to {MAX_BATCH}", memories.len()),
            ));
        }
        let memories = memories.into_iter().map(memory).collect::<Result<Vec<Memory>, _>>()?;
        let passages = memories.iter().map(Memory::passage).collect();
        let vectors =
            context.bound("the memory was embedded", self.embedding.embed(passages)).await?.vectors;
        let pairs = memories.iter().cloned().zip(vectors).collect();
        context.bound("the memory was stored", self.index.insert(LOCAL_TENANT, pairs)).await?;
        if let Some(server) = &self.server {
            let (server, index) = (Arc::clone(server), self.index.clone());
            actix_rt::spawn(async move {
                if let Err(error) = server.drain(&index).await {
                    tracing::warn!(%error, "stored, but not on the Qdrant server yet; retrying later");
                }
            });
        }
        Ok(memories)
    }

    pub(super) async fn embed(
        &self,
        context: RequestContext,
        texts: Vec<String>,
    ) -> Result<Embeddings, NyxError> {
        context.bound("texts were embedded", self.embedding.embed(texts)).await
    }
}
