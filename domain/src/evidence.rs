//! The evidence that a specialist answers from.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One evidence item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Its unique id: a memory's id, or beside rows `memory:UUID` and `table:NAME#ROW`.
    pub id: String,
    /// Its text, as the prompt shows it.
    pub text: String,
    /// Higher is better. For rows, the fraction of the question's maximum BM25F score; for
    /// memories, the probability of being an answer, or the cosine similarity where they are not
    /// re-ranked.
    pub score: f64,
    /// Its source: `memory`, or a table's name.
    pub source: String,
    /// The speaker of a memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// When a memory's event happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<DateTime<Utc>>,
    /// Context that helps to read it, such as the question that a memory answers, or the
    /// description of a row's table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<String>,
}
