//! `[specialist.aletheia]`: the tables that facts are read from, and how far a read may go.

use serde::{Deserialize, Serialize};

use crate::secret::SecretUrl;

/// How facts are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FactOptions {
    /// A role of phoebe's PostgreSQL without write rights, taken on for every read. Who connects must be a member of it.
    pub role: Option<String>,
    /// A read that runs longer is cut.
    pub query_timeout_ms: u64,
    /// Cells of all tables together that are kept in memory, where rows are searched; of large tables their first rows.
    pub index_cells: usize,
    /// Tables in phoebe's database or another; those that `nyx sources import` registers need no entry here.
    pub source: Vec<SourceOptions>,
}

impl Default for FactOptions {
    fn default() -> Self {
        Self { role: None, query_timeout_ms: 2_000, index_cells: 1_000_000, source: Vec::new() }
    }
}

/// `[[specialist.aletheia.source]]`: one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceOptions {
    /// `TABLE`, or on PostgreSQL `SCHEMA.TABLE`; a view will do.
    pub table: String,
    /// What may be read; every column when empty.
    #[serde(default)]
    pub columns: Vec<String>,
    /// What the table is about: it is found by this too.
    pub description: String,
    /// Another database: `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`; phoebe's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<SecretUrl>,
    /// A role of that database without write rights; for phoebe's own, `role` above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}
