//! What may be asked of the memory keeper.

use actix::Message;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::filter::MemoryFilter;
use crate::phoebe::messages::{Memory, MemorySelector};
use crate::{NyxError, RequestContext};

/// Something to remember.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewMemory {
    pub text: String,
    pub speaker: Option<String>,
    /// When it happened.
    pub when: Option<DateTime<Utc>>,
    pub conversation: Option<String>,
    /// What a shared picture shows.
    pub caption: Option<String>,
}

/// Keeps a memory.
#[derive(Debug, Message)]
#[rtype(result = "Result<Memory, NyxError>")]
pub struct Remember {
    pub context: RequestContext,
    pub memory: NewMemory,
}

/// Keeps memories, 1 to 1000, all of them or none; their ids follow their order, and so does their conversation's where their moments are
/// equal.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Memory>, NyxError>")]
pub struct RememberMany {
    pub context: RequestContext,
    pub memories: Vec<NewMemory>,
}

/// The `k` memories that fit a question best, best first.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<MemoryHit>, NyxError>")]
pub struct Recall {
    pub context: RequestContext,
    pub query: String,
    pub k: usize,
    pub filter: MemoryFilter,
    /// Cosine similarity below which a memory does not count, unless its words carry at least half of the query's information.
    pub min_score: f32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryHit {
    #[serde(flatten)]
    pub memory: Memory,
    /// Cosine similarity with the query, in [-1, 1].
    pub score: f32,
    /// The same.
    pub cosine: f32,
    /// BM25, where it is among the best by words.
    pub lexical: Option<f32>,
    /// Sum of reciprocal ranks.
    pub fused: f64,
    /// The turns around it in its conversation.
    #[serde(skip)]
    pub beside: Surroundings,
}

/// Turns around another, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    pub before: Vec<Memory>,
    pub after: Vec<Memory>,
}

/// Deletes memories: they are found no more when this answers.
#[derive(Debug, Message)]
#[rtype(result = "Result<Forgotten, NyxError>")]
pub struct Forget {
    pub context: RequestContext,
    pub selector: MemorySelector,
}

/// What was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Memories that matched.
    pub forgotten: u64,
    /// They are out of every index; if not, the Qdrant server did not answer: it forgets them as soon as it does, and nothing of them is found until then.
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
    /// One unit vector a text.
    pub vectors: Vec<Vec<f32>>,
    pub tokens: usize,
}
