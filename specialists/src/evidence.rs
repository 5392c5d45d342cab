//! What a specialist was given to answer from.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Names it uniquely: a memory's id, or beside rows `memory:UUID` and `table:NAME#ROW`.
    pub id: String,
    pub text: String,
    /// Higher is better; of rows the share of what the question's words could weigh at most, of memories the probability that it answers, or the
    /// cosine similarity where they are not re-ranked.
    pub score: f64,
    /// Where it came from: `memory`, or a table's name.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<DateTime<Utc>>,
    /// What stands beside it and helps to read it, such as the question that a memory answers, or what a row's table is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<String>,
}
