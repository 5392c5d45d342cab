//! What adapters are kept with.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// `[adapters]`: where adapters are kept, and how often a process looks whether another one speaks now.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterOptions {
    /// `DATA_DIR/adapters` when absent. Processes that share a database share generations: on several machines, a folder that all of them see.
    pub dir: Option<PathBuf>,
    /// Megabytes that all of them may take; retired ones go first, the least recently used before the others.
    pub max_mb: usize,
    /// Milliseconds between two looks into phoebe for a new generation.
    pub poll_ms: u64,
    /// Seconds between two comparisons of the live adapters' files with their ids.
    pub check_every_s: u64,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self { dir: None, max_mb: 4096, poll_ms: 2_000, check_every_s: 300 }
    }
}

impl AdapterOptions {
    /// The folder that adapters are kept in.
    pub fn folder_in(&self, data_dir: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| data_dir.join("adapters"))
    }
}
