//! Messages of the memory actor.

use actix::Message;
use chrono::{DateTime, Utc};
use nyx_domain::{Memory, MemoryFilter, MemorySelector};
use serde::Serialize;

use crate::{NyxError, RequestContext};

/// A memory to store.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewMemory {
    pub text: String,
    pub speaker: Option<String>,
    /// When the event happened.
    pub when: Option<DateTime<Utc>>,
    pub conversation: Option<String>,
    /// Description of a shared picture.
    pub caption: Option<String>,
}

/// Stores a memory.
#[derive(Debug, Message)]
#[rtype(result = "Result<Memory, NyxError>")]
pub struct Remember {
    pub context: RequestContext,
    pub memory: NewMemory,
}

/// Stores 1 to 1000 memories, all or none. Their ids are in the given order, and so are the turns
/// of a conversation with equal times.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Memory>, NyxError>")]
pub struct RememberMany {
    pub context: RequestContext,
    pub memories: Vec<NewMemory>,
}

/// The `k` memories that best match a query, best first.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<MemoryHit>, NyxError>")]
pub struct Recall {
    pub context: RequestContext,
    pub query: String,
    pub k: usize,
    pub filter: MemoryFilter,
    /// Cosine similarity below which a memory is excluded, unless its words carry at least half of
    /// the query's information.
    pub min_score: f32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryHit {
    #[serde(flatten)]
    pub memory: Memory,
    /// Cosine similarity with the query, in [-1, 1].
    pub score: f32,
    /// Equal to `score`.
    pub cosine: f32,
    /// BM25, if the memory is among the best full-text results.
    pub lexical: Option<f32>,
    /// Reciprocal rank fusion score.
    pub fused: f64,
    /// The turns around the memory in its conversation.
    #[serde(skip)]
    pub beside: Surroundings,
}

/// The turns before and after a memory, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    pub before: Vec<Memory>,
    pub after: Vec<Memory>,
}

/// Deletes memories: once this replies, they are no longer found.
#[derive(Debug, Message)]
#[rtype(result = "Result<Forgotten, NyxError>")]
pub struct Forget {
    pub context: RequestContext,
    pub selector: MemorySelector,
}

/// The result of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Number of deleted memories.
    pub forgotten: u64,
    /// Whether they are removed from every index. If not, the Qdrant server did not respond: they
    /// are removed once it does, and are not returned by searches until then.
    pub erased: bool,
}

/// Embeds texts, for `/v1/embeddings`.
#[derive(Debug, Message)]
#[rtype(result = "Result<Embeddings, NyxError>")]
pub struct Embed {
    pub context: RequestContext,
    pub texts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One unit vector per text.
    pub vectors: Vec<Vec<f32>>,
    pub tokens: usize,
}
