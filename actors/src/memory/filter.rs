//! Which memories a search looks at.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What is `None` does not narrow it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Letter by letter; composed and decomposed forms of Unicode are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// From this moment on. A memory's moment is when it happened, or when it was stored where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<DateTime<Utc>>,
    /// Before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<DateTime<Utc>>,
}

impl MemoryFilter {
    /// Whether it lets everything through.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Only memories of this conversation, if one is named.
    pub fn of(conversation: Option<String>) -> Self {
        Self { conversation, ..Self::default() }
    }
}
