//! `[memory]`: storage and search of memories.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Where vectors are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// Phoebe's database.
    #[default]
    Phoebe,
    /// A Qdrant server or cluster, updated from phoebe's outbox.
    Qdrant,
}

/// Settings of the memory actor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryOptions {
    pub store: StoreKind,
    /// URL of the Qdrant server's gRPC port; TLS with `https://`. User, password and query
    /// parameters are refused.
    pub url: Option<String>,
    pub api_key: Option<Secret>,
    pub collection: String,
    pub timeout_ms: u64,
    /// Capacity of the embedding queue, in jobs.
    pub queue: usize,
    /// Days to keep a memory after it was stored; unlimited if absent.
    pub retention_days: Option<u32>,
    pub recall: RecallOptions,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            store: StoreKind::Phoebe,
            url: None,
            api_key: None,
            collection: "nyx_memories".into(),
            timeout_ms: 5_000,
            queue: 64,
            retention_days: None,
            recall: RecallOptions::default(),
        }
    }
}

/// `[memory.recall]`: settings of hybrid search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecallOptions {
    /// Number of vector search results.
    pub dense: usize,
    /// Number of full-text search results.
    pub lexical: usize,
    /// Offset of reciprocal rank fusion; the weights of the two lists follow.
    pub rrf_offset: f64,
    pub dense_weight: f64,
    pub lexical_weight: f64,
    /// Weight of recency, relative to 1 for the best fused score; 0 disables recency.
    pub recency_weight: f64,
    /// Half-life of the recency term, in days.
    pub recency_half_life_days: f64,
    /// Lambda of maximal marginal relevance: 1 ranks by score alone, lower values favour diversity.
    pub mmr_lambda: f64,
    /// Turns before and after a memory to return with it, 0 to 2.
    pub neighbours: u32,
}

impl Default for RecallOptions {
    fn default() -> Self {
        Self {
            dense: 50,
            lexical: 50,
            rrf_offset: 60.0,
            dense_weight: 1.0,
            lexical_weight: 1.0,
            recency_weight: 0.0,
            recency_half_life_days: 30.0,
            mmr_lambda: 1.0,
            neighbours: 1,
        }
    }
}
