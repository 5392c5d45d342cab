//! The memory keeper: embeddings, and the vector index over phoebe's memories.

mod edge;
mod embedding;
mod forget;
mod indexer;
mod lexical;
pub mod messages;
mod options;
mod qdrant;
mod recall;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, ResponseFuture, WrapFuture};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::observe::Vitals;
use crate::phoebe::messages::{CountMemories, ListMemories, MarkIndexed, Memory, MemoryCounts, StoreMemories};
use crate::phoebe::{self, Phoebe};
use crate::supervise::Supervised;
use crate::{NyxError, RequestContext};
use messages::{
    Candidate, Embed, Embeddings, Forget, Forgotten, Heal, MemoryHit, NewMemory, Recall, RecallCandidates, Remember, RememberMany,
};

use forget::RETAIN_EVERY;

pub use edge::EdgeStore;
pub use embedding::EmbeddingService;
pub use indexer::{Indexer, import};
pub use options::{MemoryOptions, StoreKind};
pub use qdrant::QdrantStore;
pub use recall::{Ranking, RecallOptions};
pub use store::{Hit, IndexedMemory, MemoryFilter, MemoryStore};

/// Bytes of a memory at most.
const MAX_TEXT: usize = 32 << 10;
/// Memories that may be told at once.
const MAX_BATCH: usize = 1000;
/// Memories a search may return.
const MAX_K: usize = 100;
/// Memories indexed in one go.
const PAGE: u64 = 256;
/// Between two looks for memories that an earlier failure left out of the index.
const HEAL_EVERY: Duration = Duration::from_secs(30);

/// What the keeper works with. Cheap to clone.
#[derive(Clone)]
pub struct MemoryParts {
    pub embedding: EmbeddingService,
    pub store: Arc<dyn MemoryStore>,
    pub phoebe: Supervised<Phoebe>,
    /// The index outlives this process: phoebe is told what it holds.
    pub lasting: bool,
    /// Days that a memory is kept after it was stored; `None` is for ever.
    pub retention_days: Option<u32>,
    pub ranking: Ranking,
    /// Held while the index is being healed.
    healing: Arc<tokio::sync::Mutex<()>>,
    /// Held to read from when memories are looked up until they are in the index, and to write while forgotten ones are taken out of it.
    writing: Arc<tokio::sync::RwLock<()>>,
}

/// The actor.
pub struct MemoryKeeper {
    parts: MemoryParts,
    vitals: Arc<Vitals>,
}

impl MemoryKeeper {
    pub fn new(parts: MemoryParts, vitals: Arc<Vitals>) -> Self {
        Self { parts, vitals }
    }
}

impl Actor for MemoryKeeper {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let parts = self.parts.clone();
        let housekeeping = async move {
            let mut retained: Option<Instant> = None;
            loop {
                let due = retained.is_none_or(|at| at.elapsed() >= RETAIN_EVERY);
                match parts.keep_house(due).await {
                    Ok(()) if due => retained = Some(Instant::now()),
                    Ok(()) => {}
                    Err(error) => tracing::warn!(%error, "the index could not be brought in line with phoebe; trying again later"),
                }
                tokio::time::sleep(HEAL_EVERY).await;
            }
        };
        context.spawn(housekeeping.into_actor(self));
    }
}

impl MemoryParts {
    /// `lasting`: the index outlives this process.
    pub fn new(
        embedding: EmbeddingService,
        store: Arc<dyn MemoryStore>,
        phoebe: Supervised<Phoebe>,
        lasting: bool,
        retention_days: Option<u32>,
    ) -> Self {
        let ranking = Ranking::default();
        Self { embedding, store, phoebe, lasting, retention_days, ranking, healing: Arc::default(), writing: Arc::default() }
    }

    /// Phoebe first: once she has them, a failure of the index loses nothing and is healed later.
    async fn remember(&self, context: RequestContext, memories: Vec<NewMemory>) -> Result<Vec<Memory>, NyxError> {
        if !(1..=MAX_BATCH).contains(&memories.len()) {
            return Err(NyxError::invalid("memories", format!("memories are {}, expected 1 to {MAX_BATCH}", memories.len())));
        }
        let memories = memories.into_iter().map(memory).collect::<Result<Vec<Memory>, _>>()?;
        let writing = async { Ok(self.writing.read().await) };
        let _none_is_forgotten = context.bound("forgetting had ended", writing).await?;
        context.bound("the memory was stored", self.phoebe.send(StoreMemories(memories.clone()))).await?;
        for some in memories.chunks(PAGE as usize) {
            if let Err(error) = context.bound("the memory was indexed", self.index(some.to_vec())).await {
                tracing::warn!(%error, memories = memories.len(), "kept, but not all indexed yet");
                break;
            }
        }
        Ok(memories)
    }

    async fn index(&self, memories: Vec<Memory>) -> Result<(), NyxError> {
        let ids = memories.iter().map(|memory| memory.id).collect();
        let embedded = self.embedding.embed(memories.iter().map(Memory::passage).collect()).await?;
        let pairs = memories.into_iter().zip(embedded.vectors);
        self.store.upsert(pairs.map(|(memory, vector)| IndexedMemory { memory, vector }).collect()).await?;
        // what stands in an index of this process alone is not in the one that lasts
        if !self.lasting {
            return Ok(());
        }
        // another process may have forgotten some of them meanwhile
        let forgotten = self.phoebe.send(MarkIndexed(ids)).await?;
        if forgotten.is_empty() { Ok(()) } else { self.store.delete(forgotten).await }
    }

    /// Indexes what phoebe holds and the index lacks; everything when the index holds fewer than it should. Returns how many.
    async fn heal(&self) -> Result<usize, NyxError> {
        let _one_at_a_time = self.healing.lock().await;
        // phoebe first: what is indexed meanwhile is in the index before she knows
        let MemoryCounts { all, indexed } = self.phoebe.send(CountMemories).await?;
        let held = self.store.count().await? as u64;
        if indexed == all && held == all {
            return Ok(0);
        }
        let unindexed_only = held >= indexed && held > 0;
        let (mut after, mut healed) = (None, 0);
        loop {
            let _none_is_forgotten = self.writing.read().await;
            let page = self.phoebe.send(ListMemories { unindexed_only, after, limit: PAGE }).await?;
            let Some(last) = page.last() else { return Ok(healed) };
            after = Some(last.id);
            healed += page.len();
            self.index(page).await?;
        }
    }

    async fn embed(&self, context: RequestContext, texts: Vec<String>) -> Result<Embeddings, NyxError> {
        context.bound("texts were embedded", self.embedding.embed(texts)).await
    }
}

/// The memory that is kept, if it can be.
fn memory(told: NewMemory) -> Result<Memory, NyxError> {
    let NewMemory { text, speaker, when, conversation, caption } = told;
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

fn check_text(param: &str, text: &str) -> Result<(), NyxError> {
    if text.trim().is_empty() {
        return Err(NyxError::invalid(param, format!("{param} is empty, expected some text")));
    }
    if text.len() > MAX_TEXT {
        return Err(NyxError::invalid(param, format!("{param} has {} bytes, expected at most {MAX_TEXT}", text.len())));
    }
    Ok(())
}

/// In the precision that the databases keep.
fn microseconds(when: DateTime<Utc>) -> DateTime<Utc> {
    chrono::SubsecRound::trunc_subsecs(when, 6)
}

impl Handler<Remember> for MemoryKeeper {
    type Result = ResponseFuture<Result<Memory, NyxError>>;

    fn handle(&mut self, request: Remember, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move {
            let kept = parts.remember(request.context, vec![request.memory]).await?.pop();
            kept.ok_or_else(|| NyxError::Internal("a memory was kept and not told".into()))
        })
    }
}

impl Handler<RememberMany> for MemoryKeeper {
    type Result = ResponseFuture<Result<Vec<Memory>, NyxError>>;

    fn handle(&mut self, request: RememberMany, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move { parts.remember(request.context, request.memories).await })
    }
}

impl Handler<Forget> for MemoryKeeper {
    type Result = ResponseFuture<Result<Forgotten, NyxError>>;

    fn handle(&mut self, request: Forget, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move { parts.forget(request).await })
    }
}

impl Handler<Recall> for MemoryKeeper {
    type Result = ResponseFuture<Result<Vec<MemoryHit>, NyxError>>;

    fn handle(&mut self, request: Recall, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move { parts.recall(request).await })
    }
}

impl Handler<RecallCandidates> for MemoryKeeper {
    type Result = ResponseFuture<Result<Vec<Candidate>, NyxError>>;

    fn handle(&mut self, request: RecallCandidates, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move {
            let search = parts.candidates(&request.query, &request.filter);
            request.context.bound("candidates were searched", search).await
        })
    }
}

impl Handler<Heal> for MemoryKeeper {
    type Result = ResponseFuture<Result<usize, NyxError>>;

    fn handle(&mut self, _: Heal, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move { parts.heal().await })
    }
}

impl Handler<Embed> for MemoryKeeper {
    type Result = ResponseFuture<Result<Embeddings, NyxError>>;

    fn handle(&mut self, request: Embed, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let parts = self.parts.clone();
        Box::pin(async move { parts.embed(request.context, request.texts).await })
    }
}
