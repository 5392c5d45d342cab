//! The memory actor: embeds texts, and writes, searches and deletes memories.

mod embedding;
mod forget;
pub mod messages;
mod options;
mod qdrant;
mod recall;
mod reindex;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt as _, AsyncContext, Context, Handler, ResponseFuture, WrapFuture as _};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::observe::ActorMetrics;
use crate::phoebe;
use crate::phoebe::search::{LOCAL_TENANT, MemoryIndex};
use crate::{NyxError, RequestContext};
use messages::{Embed, Embeddings, Forget, Forgotten, MemoryHit, NewMemory, Recall, Remember, RememberMany};
use nyx_domain::Memory;

use forget::RETAIN_EVERY;

pub use embedding::EmbeddingService;

pub use options::{MemoryOptions, StoreKind};
pub use qdrant::QdrantIndex;
pub use recall::{HybridSearch, RecallOptions};
pub use reindex::Indexer;

/// Maximum size of a memory in bytes.
const MAX_TEXT: usize = 32 << 10;
/// Maximum number of memories stored by one request.
const MAX_BATCH: usize = 1000;
/// Maximum number of memories returned by a search.
const MAX_K: usize = 100;
/// Interval between checks for changes that the Qdrant server lacks.
const DRAIN_EVERY: Duration = Duration::from_secs(5);

/// Shared components of the memory actor. Cheap to clone.
#[derive(Clone)]
pub struct MemoryParts {
    pub embedding: EmbeddingService,
    pub index: MemoryIndex,
    /// If set, replaces phoebe's index for vector search.
    pub server: Option<Arc<QdrantIndex>>,
    /// Days to keep a memory after it was stored; `None` is unlimited.
    pub retention_days: Option<u32>,
    pub recall: RecallOptions,
}

/// The actor.
pub struct MemoryKeeper {
    parts: MemoryParts,
    metrics: Arc<ActorMetrics>,
}

impl MemoryKeeper {
    pub fn new(parts: MemoryParts, metrics: Arc<ActorMetrics>) -> Self {
        Self { parts, metrics }
    }
}

impl Actor for MemoryKeeper {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let parts = self.parts.clone();
        let maintenance = async move {
            let mut retained: Option<Instant> = None;
            loop {
                if retained.is_none_or(|at| at.elapsed() >= RETAIN_EVERY) {
                    match parts.retain().await {
                        Ok(()) => retained = Some(Instant::now()),
                        Err(error) => tracing::warn!(%error, "deleting expired memories failed; retrying later"),
                    }
                }
                parts.index.truncate_log().await;
                if let Some(server) = &parts.server
                    && let Err(error) = server.drain(&parts.index).await
                {
                    tracing::warn!(%error, "updating the Qdrant server failed; retrying later");
                }
                tokio::time::sleep(DRAIN_EVERY).await;
            }
        };
        context.spawn(maintenance.into_actor(self).map(|(), _, _| ()));
    }
}

impl MemoryParts {
    /// Embeds the memories, then writes rows, vectors and full text in one transaction.
    async fn remember(&self, context: RequestContext, memories: Vec<NewMemory>) -> Result<Vec<Memory>, NyxError> {
        if !(1..=MAX_BATCH).contains(&memories.len()) {
            return Err(NyxError::invalid("memories", format!("memories are {}, expected 1 to {MAX_BATCH}", memories.len())));
        }
        let memories = memories.into_iter().map(memory).collect::<Result<Vec<Memory>, _>>()?;
        let passages = memories.iter().map(Memory::passage).collect();
        let vectors = context.bound("the memory was embedded", self.embedding.embed(passages)).await?.vectors;
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

    fn search(&self) -> HybridSearch<'_> {
        HybridSearch { index: &self.index, server: self.server.as_deref(), options: &self.recall }
    }

    async fn embed(&self, context: RequestContext, texts: Vec<String>) -> Result<Embeddings, NyxError> {
        context.bound("texts were embedded", self.embedding.embed(texts)).await
    }
}

/// Validates a memory and assigns its id.
fn memory(told: NewMemory) -> Result<Memory, NyxError> {
    let NewMemory { text, speaker, when, conversation, caption } = told;
    let [speaker, conversation] = [speaker, conversation].map(|name| name.map(composed));
    check_text("text", &text)?;
    phoebe::storable("text", &text)?;
    if let Some(caption) = &caption {
        check_text("caption", caption)?;
        phoebe::storable("caption", caption)?;
    }
    for (param, name) in [("speaker", &speaker), ("conversation", &conversation)] {
        name.as_deref().map_or(Ok(()), |name| phoebe::storable_name(param, name))?;
    }
    Ok(Memory { id: Uuid::now_v7(), text, speaker, when: when.map(microseconds), conversation, stored_at: phoebe::now(), caption })
}

/// Normalises a name to NFC: keyboards and file systems encode the same letters differently.
fn composed(name: String) -> String {
    use unicode_normalization::UnicodeNormalization as _;
    if unicode_normalization::is_nfc(&name) { name } else { name.nfc().collect() }
}

fn check_text(param: &str, text: &str) -> Result<(), NyxError> {
    if text.trim().is_empty() {
        return Err(NyxError::invalid(param, format!("{param} is empty, expected some text")));
    }
    if text.len() > MAX_TEXT {
        return Err(NyxError::invalid(param, format!("{param} has {} bytes, expected at most {MAX_TEXT}", text.len())));
    }
    Ok(())
}

/// Truncates to the precision that the databases store.
fn microseconds(when: DateTime<Utc>) -> DateTime<Utc> {
    chrono::SubsecRound::trunc_subsecs(when, 6)
}

impl Handler<Remember> for MemoryKeeper {
    type Result = ResponseFuture<Result<Memory, NyxError>>;

    fn handle(&mut self, request: Remember, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move {
            let kept = parts.remember(request.context, vec![request.memory]).await?.pop();
            kept.ok_or_else(|| NyxError::Internal("a memory was stored but not returned".into()))
        })
    }
}

impl Handler<RememberMany> for MemoryKeeper {
    type Result = ResponseFuture<Result<Vec<Memory>, NyxError>>;

    fn handle(&mut self, request: RememberMany, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move { parts.remember(request.context, request.memories).await })
    }
}

impl Handler<Forget> for MemoryKeeper {
    type Result = ResponseFuture<Result<Forgotten, NyxError>>;

    fn handle(&mut self, request: Forget, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move { parts.forget(request).await })
    }
}

impl Handler<Recall> for MemoryKeeper {
    type Result = ResponseFuture<Result<Vec<MemoryHit>, NyxError>>;

    fn handle(&mut self, request: Recall, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move { parts.recall(request).await })
    }
}

impl Handler<Embed> for MemoryKeeper {
    type Result = ResponseFuture<Result<Embeddings, NyxError>>;

    fn handle(&mut self, request: Embed, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move { parts.embed(request.context, request.texts).await })
    }
}
