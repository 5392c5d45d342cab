//! Filling an index without a running Nyx: `nyx memories reindex` and `nyx memories import`.

use std::path::Path;
use std::sync::Arc;

use nyx_engine::embed::Embedder;

use super::messages::NewMemory;
use super::options::{MemoryOptions, StoreKind};
use super::store::{IndexedMemory, MemoryStore};
use super::{EdgeStore, EmbeddingService, PAGE, QdrantStore, memory};
use crate::NyxError;
use crate::phoebe::PhoebeStore;
use crate::phoebe::messages::{ListMemories, Memory};

/// The embedder, an index and phoebe.
pub struct Indexer {
    embedding: EmbeddingService,
    store: Arc<dyn MemoryStore>,
    phoebe: PhoebeStore,
}

impl Indexer {
    /// Opens the index that the settings name; with `anew` an empty one in its place, whatever is there.
    ///
    /// # Errors
    /// [`NyxError::VectorStoreBusy`] while another Nyx has the embedded index open; the embedder, the index or its server cannot be used.
    pub async fn open(
        options: &MemoryOptions,
        data_dir: &Path,
        embedder: &Path,
        phoebe: PhoebeStore,
        anew: bool,
    ) -> Result<Self, NyxError> {
        let (embedder, queue) = (embedder.to_owned(), options.queue);
        let embedding = crate::nyx::blocking(move || {
            let embedder = Embedder::load(&embedder, &crate::nyx::candle_device())?;
            EmbeddingService::start(embedder, queue)
        });
        let embedding = embedding.await??;
        let dimension = embedding.dimension();
        let store: Arc<dyn MemoryStore> = match options.store {
            StoreKind::Edge => {
                let folder = options.folder_in(data_dir);
                let open = move || if anew { EdgeStore::anew(&folder, dimension) } else { EdgeStore::open(&folder, dimension) };
                Arc::new(crate::nyx::blocking(open).await??)
            }
            StoreKind::Qdrant if anew => Arc::new(QdrantStore::anew(options, dimension).await?),
            StoreKind::Qdrant => Arc::new(QdrantStore::open(options, dimension).await?),
        };
        Ok(Self { embedding, store, phoebe })
    }

    /// Indexes all that phoebe holds, or only what she does not know to be indexed, telling `progress` how many of how many are done.
    /// Returns how many.
    ///
    /// # Errors
    /// What kept a memory from being indexed; a start of Nyx goes on where this ended.
    pub async fn fill(&self, unindexed_only: bool, mut progress: impl FnMut(u64, u64)) -> Result<u64, NyxError> {
        let counts = self.phoebe.memory_counts().await?;
        let total = if unindexed_only { counts.all - counts.indexed } else { counts.all };
        let (mut after, mut done) = (None, 0);
        progress(done, total);
        loop {
            let page = self.phoebe.memories(ListMemories { unindexed_only, after, limit: PAGE }).await?;
            let Some(last) = page.last() else { return Ok(done) };
            after = Some(last.id);
            done += page.len() as u64;
            let ids = page.iter().map(|memory| memory.id).collect();
            let embedded = self.embedding.embed(page.iter().map(Memory::passage).collect()).await?;
            let pairs = page.into_iter().zip(embedded.vectors);
            self.store.upsert(pairs.map(|(memory, vector)| IndexedMemory { memory, vector }).collect()).await?;
            // forgotten by another process meanwhile
            let forgotten = self.phoebe.mark_indexed(ids).await?;
            if !forgotten.is_empty() {
                self.store.delete(forgotten).await?;
            }
            // memories may be told meanwhile
            progress(done, total.max(done));
        }
    }
}

/// Keeps memories in phoebe, in their order, all of them or none; whoever has the index open, or opens it next, indexes them. Returns how
/// many.
///
/// # Errors
/// Names what is wrong with a memory, by its number counted from 1.
pub async fn import(phoebe: &PhoebeStore, memories: Vec<NewMemory>) -> Result<usize, NyxError> {
    let checked = memories
        .into_iter()
        .zip(1..)
        .map(|(told, number)| memory(told).map_err(|error| NyxError::invalid("memories", format!("memory {number}: {error}"))));
    let memories = checked.collect::<Result<Vec<Memory>, _>>()?;
    let kept = memories.len();
    phoebe.insert_memories(memories).await?;
    Ok(kept)
}
