//! What a specialist was given to answer from.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Names it uniquely: a memory's id, `decision:UUID`, ...
    pub id: String,
    pub text: String,
    /// Higher is better; cosine similarity for memories.
    pub score: f64,
    /// Where it came from: `memory`, or a table's name.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<DateTime<Utc>>,
}
