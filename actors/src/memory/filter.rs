//! Filters of memory searches.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A field that is `None` does not restrict the search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Exact match; composed and decomposed Unicode forms are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// Inclusive lower bound of a memory's time: when its event happened, or when it was stored if
    /// that is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<DateTime<Utc>>,
    /// Exclusive upper bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<DateTime<Utc>>,
}

impl MemoryFilter {
    /// Whether the filter admits every memory.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Admits only memories of this conversation, if given.
    pub fn of(conversation: Option<String>) -> Self {
        Self { conversation, ..Self::default() }
    }
}
