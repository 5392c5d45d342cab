//! `[memory]`: storage and search of memories.

use serde::{Deserialize, Serialize};

use super::recall::RecallOptions;
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
