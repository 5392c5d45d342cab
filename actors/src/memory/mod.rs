//! The memory actor: embeds texts, and writes, searches and deletes memories.

mod actor;
mod embedding;
mod forget;
mod handle;
pub mod messages;
mod options;
mod qdrant;
mod recall;
mod reindex;
mod service;
#[cfg(test)]
mod tests;
mod text;

pub use actor::MemoryKeeper;
pub use embedding::EmbeddingService;
pub use handle::Memories;
pub use options::{MemoryOptions, RecallOptions, StoreKind};
pub use qdrant::QdrantIndex;
pub use recall::HybridSearch;
pub use reindex::Indexer;
pub use service::MemoryService;
