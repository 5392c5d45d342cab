//! What may be asked of the memory keeper.

use actix::Message;
use chrono::{DateTime, Utc};
use nyx_specialists::recall::Turn;
use serde::Serialize;

use super::store::MemoryFilter;
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

/// Keeps a memory: phoebe first (the source of truth), then the index.
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
    /// [`MemoryHit::score`] below which a memory does not count.
    pub min_score: f32,
}

/// Everything that [`Recall`] chooses from, as its re-ranking sees it: to learn that from.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Candidate>, NyxError>")]
pub struct RecallCandidates {
    pub context: RequestContext,
    pub query: String,
    pub filter: MemoryFilter,
}

/// A memory that was found, or stands beside one; its turn names its neighbours by their places among the candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub memory: Memory,
    pub turn: Turn,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemoryHit {
    #[serde(flatten)]
    pub memory: Memory,
    /// The probability in [0, 1] that it answers, where there is a re-ranking; else the cosine similarity.
    pub score: f32,
    /// Cosine similarity in [-1, 1]. Of a turn that was found for standing beside another it is not known: it gets the lowest of the list by meaning.
    pub cosine: f32,
    /// BM25, where it is among the best by words.
    pub lexical: Option<f32>,
    /// Sum of reciprocal ranks.
    pub fused: f64,
    /// What the re-ranking gives it, where there is one.
    pub probability: Option<f64>,
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

/// Forgets memories: they are found no more when this answers, also after a crash.
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
    /// They are out of the index and of phoebe; if not, the index did not answer, and they go as soon as it does.
    pub erased: bool,
}

/// Puts into the index what phoebe holds and it lacks; answers how many.
#[derive(Debug, Message)]
#[rtype(result = "Result<usize, NyxError>")]
pub struct Heal;

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
