//! A vector index over memories. Phoebe is the source of truth: an index can always be built again from her.

use async_trait::async_trait;
use uuid::Uuid;

use crate::NyxError;
use crate::phoebe::messages::Memory;

/// A memory with its unit vector.
#[derive(Debug, Clone)]
pub struct IndexedMemory {
    pub memory: Memory,
    pub vector: Vec<f32>,
}

/// What every vector store does. Implementations are called from any thread.
#[async_trait]
pub trait MemoryStore: Send + Sync {
    /// `edge` or `qdrant`.
    fn name(&self) -> &'static str;
    /// Inserts or replaces by id; durable when it returns.
    async fn upsert(&self, memories: Vec<IndexedMemory>) -> Result<(), NyxError>;
    /// The `k` nearest by cosine similarity, best first, of one conversation if one is named.
    async fn search(&self, vector: Vec<f32>, k: usize, conversation: Option<String>) -> Result<Vec<(Memory, f32)>, NyxError>;
    async fn delete(&self, ids: Vec<Uuid>) -> Result<(), NyxError>;
    async fn count(&self) -> Result<usize, NyxError>;
}
