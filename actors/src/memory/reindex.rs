//! Offline commands on memories, run without a Nyx server: rebuild the search tables (and a Qdrant
//! collection) from the database, and import memories from a file.

use std::path::Path;

use nyx_domain::Memory;
use nyx_engine::embed::Embedder;

use super::embedding::EmbeddingService;
use super::messages::NewMemory;
use super::options::{MemoryOptions, StoreKind};
use super::qdrant::QdrantIndex;
use super::text::memory;
use crate::NyxError;
use crate::phoebe::PhoebeStore;
use crate::phoebe::messages::ListMemories;
use crate::phoebe::search::{LOCAL_TENANT, MemoryIndex};

/// Memories embedded and written at once.
const PAGE: usize = 256;

/// The embedder, the memory tables and, if configured, the Qdrant server.
pub struct Indexer {
    embedding: EmbeddingService,
    index: MemoryIndex,
    server: Option<QdrantIndex>,
}

impl Indexer {
    /// Opens the search tables; with `anew`, drops and recreates them.
    ///
    /// # Errors
    /// The embedder, the database or the server cannot be used.
    pub async fn open(
        options: &MemoryOptions,
        embedder: &Path,
        phoebe: PhoebeStore,
        anew: bool,
    ) -> Result<Self, NyxError> {
        let (embedder, queue) = (embedder.to_owned(), options.queue);
        let embedding = crate::runtime::blocking(move || {
            let embedder = Embedder::load(&embedder, &nyx_engine::Device::Cpu)?;
            EmbeddingService::start(embedder, queue)
        });
        let embedding = embedding.await??;
        let outbox = options.store == StoreKind::Qdrant;
        let id = embedding.id();
        // the server first: the search tables are not emptied if the server is unreachable
        let server = match options.store {
            StoreKind::Phoebe => None,
            StoreKind::Qdrant if anew => Some(QdrantIndex::anew(options, id.dimension).await?),
            StoreKind::Qdrant => Some(QdrantIndex::open(options, id.dimension).await?),
        };
        let index = if anew {
            MemoryIndex::anew(phoebe, &id, outbox).await?
        } else {
            MemoryIndex::open(phoebe, &id, outbox).await?
        };
        Ok(Self { embedding, index, server })
    }

    /// The vector search backend: see [`MemoryIndex::backend`].
    pub fn backend(&self) -> &'static str {
        self.index.backend()
    }

    /// Indexes all memories in the search tables and on the server, and calls `progress` with the
    /// number done and the total. Returns the number of indexed memories.
    ///
    /// # Errors
    /// A memory could not be indexed: until a reindex succeeds, Nyx does not start on these tables.
    pub async fn fill(&self, mut progress: impl FnMut(u64, u64)) -> Result<u64, NyxError> {
        let phoebe = self.index.phoebe();
        let tenants = phoebe.memory_tenants().await?;
        let mut total = 0;
        for tenant in &tenants {
            total += phoebe.memory_count(tenant).await?;
        }
        let mut done = 0;
        progress(done, total);
        for tenant in tenants {
            let mut after = None;
            loop {
                let page = phoebe
                    .memories(ListMemories { tenant: tenant.clone(), after, limit: PAGE as u64 })
                    .await?;
                let Some(last) = page.last() else { break };
                after = Some(last.id);
                done += page.len() as u64;
                self.index.index(&tenant, self.embedded(page).await?).await?;
                if let Some(server) = &self.server {
                    server.drain(&self.index).await?;
                }
                // memories may be stored meanwhile
                progress(done, total.max(done));
            }
        }
        self.index.complete().await?;
        Ok(done)
    }

    /// Stores memories in the given order, one transaction per page. Returns the number stored.
    ///
    /// # Errors
    /// A memory is invalid: the message contains its number, counted from 1, and no memory is
    /// stored. Or embedding or storing a page fails: earlier pages stay stored.
    pub async fn import(
        &self,
        memories: Vec<NewMemory>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<u64, NyxError> {
        let checked = memories.into_iter().zip(1..).map(|(new, number)| {
            memory(new)
                .map_err(|error| NyxError::invalid("memories", format!("memory {number}: {error}")))
        });
        let memories = checked.collect::<Result<Vec<Memory>, _>>()?;
        let total = memories.len() as u64;
        let mut done = 0;
        progress(done, total);
        for page in memories.chunks(PAGE) {
            self.index.insert(LOCAL_TENANT, self.embedded(page.to_vec()).await?).await?;
            done += page.len() as u64;
            progress(done, total);
        }
        if let Some(server) = &self.server {
            server.drain(&self.index).await?;
        }
        Ok(done)
    }

    async fn embedded(&self, memories: Vec<Memory>) -> Result<Vec<(Memory, Vec<f32>)>, NyxError> {
        let embedded = self.embedding.embed(memories.iter().map(Memory::passage).collect()).await?;
        Ok(memories.into_iter().zip(embedded.vectors).collect())
    }
}
