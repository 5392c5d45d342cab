//! References to adapters.

use serde::{Deserialize, Serialize};

/// The adapter that produced an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterVersion {
    /// The specialist's name.
    pub name: String,
    /// SHA-256 of configuration, weights and base.
    pub id: String,
    /// The specialist's generation; 0 for an adapter that was not promoted.
    pub generation: u64,
}

/// An adapter that a request names explicitly, instead of the active one: for gates and
/// evaluations, not for callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The base model without an adapter.
    Base,
    /// A stored adapter by its id, promoted or not.
    Id(String),
}
