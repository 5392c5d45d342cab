//! `[phoebe]`: database settings.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::secret::SecretUrl;

/// Location of the database, and connection settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PhoebeOptions {
    /// `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`; default: a file in the data
    /// directory.
    pub url: Option<SecretUrl>,
    /// Maximum number of PostgreSQL connections; SQLite has one writer.
    pub max_connections: u32,
    pub acquire_timeout_ms: u64,
    /// Time limit of a statement.
    pub statement_timeout_ms: u64,
}

impl Default for PhoebeOptions {
    fn default() -> Self {
        Self {
            url: None,
            max_connections: 8,
            acquire_timeout_ms: 5_000,
            statement_timeout_ms: 10_000,
        }
    }
}

impl PhoebeOptions {
    /// The database URL; by default `phoebe.db` in `data_dir`.
    pub fn url_in(&self, data_dir: &Path) -> SecretUrl {
        self.url
            .clone()
            .unwrap_or_else(|| format!("sqlite://{}", data_dir.join("phoebe.db").display()).into())
    }
}
