//! `[memory]`: where memories are searched by meaning.

use serde::{Deserialize, Serialize};

use super::recall::RecallOptions;
use crate::secret::Secret;

/// What memories are searched by meaning in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// Phoebe's database.
    #[default]
    Phoebe,
    /// A Qdrant server or cluster, fed from phoebe.
    Qdrant,
}

/// The memory keeper's settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryOptions {
    pub store: StoreKind,
    /// Of the Qdrant server's gRPC port; TLS with `https://`. Without user, password or parameters, which the settings refuse.
    pub url: Option<String>,
    pub api_key: Option<Secret>,
    pub collection: String,
    pub timeout_ms: u64,
    /// Embedding jobs that may wait.
    pub queue: usize,
    /// Days that a memory is kept after it was stored; for ever when absent.
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
