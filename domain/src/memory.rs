//! Memories and how they are selected.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A stored memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// UUID v7.
    pub id: Uuid,
    /// What was said.
    pub text: String,
    /// Who said it.
    pub speaker: Option<String>,
    /// When the remembered event happened, as given by the caller; not when it was stored.
    pub when: Option<DateTime<Utc>>,
    /// The conversation that it belongs to.
    pub conversation: Option<String>,
    /// When it was stored.
    pub stored_at: DateTime<Utc>,
    /// Description of a shared picture.
    #[serde(default)]
    pub caption: Option<String>,
}

impl Memory {
    /// When the event happened, or when the memory was stored if that is unknown.
    pub fn at(&self) -> DateTime<Utc> {
        self.when.unwrap_or(self.stored_at)
    }

    /// The text that is embedded and indexed for full-text search: speaker, text and picture
    /// caption.
    pub fn passage(&self) -> String {
        let speaker = self.speaker.as_ref().map_or(String::new(), |speaker| format!("{speaker}: "));
        let caption =
            self.caption.as_ref().map_or(String::new(), |caption| format!(" [shares {caption}]"));
        format!("{speaker}{}{caption}", self.text)
    }
}

/// Selects the memories to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemorySelector {
    /// One memory; an error if it does not exist.
    Id(Uuid),
    /// These memories, as far as they exist.
    Ids(Vec<Uuid>),
    /// Memories that match all given conditions.
    Matching {
        /// Only memories of this conversation.
        conversation: Option<String>,
        /// Only memories of events before this time.
        before: Option<DateTime<Utc>>,
    },
    /// Memories stored before this time, regardless of when their events happened.
    StoredBefore(DateTime<Utc>),
    /// All memories.
    All,
}

/// A filter of memory searches. A field that is `None` does not restrict the search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryFilter {
    /// Only memories of this conversation.
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
