//! `[tables]`: the tables that facts are read from, and the limits of reads.

use serde::{Deserialize, Serialize};

use crate::secret::SecretUrl;

/// Settings of the fact service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FactOptions {
    /// A read-only PostgreSQL role in phoebe's database, assumed for every read. The connecting
    /// user must be a member of it.
    pub role: Option<String>,
    /// Time limit of a query.
    pub query_timeout_ms: u64,
    /// Maximum number of cells of all tables together that are kept in memory for search; of large
    /// tables, the first rows.
    pub index_cells: usize,
    /// Tables in phoebe's database or another one; tables imported with `nyx tables import` need
    /// no entry here.
    pub external: Vec<TableOptions>,
}

impl Default for FactOptions {
    fn default() -> Self {
        Self { role: None, query_timeout_ms: 2_000, index_cells: 1_000_000, external: Vec::new() }
    }
}

/// `[[tables.external]]`: one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableOptions {
    /// `TABLE`, or on PostgreSQL `SCHEMA.TABLE`; views are allowed.
    pub table: String,
    /// The columns that may be read; all if empty.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Description of the table, which is searched too.
    pub description: String,
    /// Another database: `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`; phoebe's if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<SecretUrl>,
    /// A read-only role of that database; for phoebe's database, defaults to `role` above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}
