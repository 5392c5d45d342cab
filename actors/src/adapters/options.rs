//! Options of adapters.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// `[adapters]`: storage of adapters, and polling for new generations.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterOptions {
    /// `DATA_DIR/adapters` when absent. Processes that share a database share generations: on
    /// several machines, this must be a shared folder.
    pub dir: Option<PathBuf>,
    /// Megabytes for all of them; retired ones are deleted first, the least recently used before
    /// the others.
    pub max_mb: usize,
    /// Milliseconds between two polls for a new generation.
    pub poll_ms: u64,
    /// Seconds between two checks of the active adapters' files.
    pub check_every_s: u64,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self { dir: None, max_mb: 4096, poll_ms: 2_000, check_every_s: 300 }
    }
}

impl AdapterOptions {
    /// The folder of all adapters.
    pub fn folder_in(&self, data_dir: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| data_dir.join("adapters"))
    }
}
