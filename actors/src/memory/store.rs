//! A vector index over memories. Phoebe is the source of truth: an index can always be built again from her.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::NyxError;
use crate::phoebe::messages::Memory;

/// Name of the embedder's vector of a point.
pub(super) const DENSE: &str = "dense";
/// Name of the BM25 vector of a point.
pub(super) const LEXICAL: &str = "bm25";
/// Payload field of the moment that a memory is filtered by.
pub(super) const AT: &str = "at";
pub(super) const CONVERSATION: &str = "conversation";
pub(super) const SPEAKER: &str = "speaker";

/// A memory with its unit vector.
#[derive(Debug, Clone)]
pub struct IndexedMemory {
    pub memory: Memory,
    pub vector: Vec<f32>,
}

/// Which memories a search looks at; what is `None` does not narrow it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// As it was told, letter by letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// From this moment on. A memory's moment is when it happened, or when it was stored where that was not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<DateTime<Utc>>,
    /// Before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<DateTime<Utc>>,
}

impl MemoryFilter {
    /// Whether it lets everything through.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a memory may be found.
    pub fn lets_through(&self, memory: &Memory) -> bool {
        self.conversation.as_ref().is_none_or(|conversation| memory.conversation.as_ref() == Some(conversation))
            && self.speaker.as_ref().is_none_or(|speaker| memory.speaker.as_ref() == Some(speaker))
            && self.after.is_none_or(|after| memory.at() >= after)
            && self.before.is_none_or(|before| memory.at() < before)
    }

    /// Only memories of this conversation, if one is named.
    pub fn of(conversation: Option<String>) -> Self {
        Self { conversation, ..Self::default() }
    }
}

/// A memory that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub memory: Memory,
    /// Cosine similarity of a dense search, BM25 of a lexical one.
    pub score: f32,
    /// The memory's unit vector.
    pub vector: Vec<f32>,
}

/// What every vector store does. Implementations are called from any thread.
#[async_trait]
pub trait MemoryStore: Send + Sync {
    /// `edge` or `qdrant`.
    fn name(&self) -> &'static str;
    /// Inserts or replaces by id; durable when it returns.
    async fn upsert(&self, memories: Vec<IndexedMemory>) -> Result<(), NyxError>;
    /// The `k` nearest by cosine similarity, best first.
    async fn dense(&self, vector: Vec<f32>, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError>;
    /// The `k` best by BM25 over stemmed words, best first; memories that share no word with `text` are not among them.
    async fn lexical(&self, text: &str, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError>;
    /// Durable when it returns; ids that are not there are passed over.
    async fn delete(&self, ids: Vec<Uuid>) -> Result<(), NyxError>;
    /// Deletes all of them.
    async fn clear(&self) -> Result<(), NyxError>;
    /// Makes good what earlier deletions may have left in files: nothing of them is read any more, and now nothing is there to be read.
    async fn scrub(&self) -> Result<(), NyxError> {
        Ok(())
    }
    async fn count(&self) -> Result<usize, NyxError>;
}

/// What stands beside a point's vectors: the memory, and the moment it is filtered by.
pub(super) fn payload(memory: &Memory) -> Result<serde_json::Value, NyxError> {
    let mut payload = serde_json::to_value(memory).map_err(|error| NyxError::Internal(error.to_string()))?;
    payload[AT] = moment(memory.at()).into();
    Ok(payload)
}

/// A moment as both stores read it.
pub(super) fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

/// The memory in a point's payload.
pub(super) fn memory_of(payload: serde_json::Value) -> Result<Memory, NyxError> {
    serde_json::from_value(payload).map_err(|error| NyxError::VectorStore { doing: "reading", reason: error.to_string() })
}

/// Refuses a vector that is not as long as the index's.
pub(super) fn check_dimension(vector: &[f32], dimension: usize) -> Result<(), NyxError> {
    if vector.len() == dimension {
        return Ok(());
    }
    let reason = format!("a vector has {} numbers, expected {dimension}", vector.len());
    Err(NyxError::VectorStore { doing: "checking a vector", reason })
}
