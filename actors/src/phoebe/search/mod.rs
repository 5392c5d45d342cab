//! Memories with their vectors and full-text index: written and deleted in one transaction in
//! phoebe's database, and searched there.
//!
//! | | vectors | full text |
//! |---|---|---|
//! | SQLite | sqlite-vec: exact up to [`EXACT`] memories, then sign bits and rescoring | FTS5 |
//! | PostgreSQL with pgvector | the same with `bit` and `vector` columns | `tsvector` |
//! | PostgreSQL alone | exact, in process, up to [`MOST_WITHOUT_EXTENSION`] memories | `tsvector` |
//!
//! The memory counts are per tenant. Both databases index the tokens of [`nyx_specialists::tokens`]
//! and rank by BM25 (Robertson and Zaragoza 2009; k1 1.2, b 0.75). The rarest tokens of a query are
//! used first, up to a total of [`MOST_POSTINGS`] occurrences: very common words are expensive to
//! look up and carry little information.

mod drain;
mod index;
mod outbox;
mod postgres;
mod ranking;
mod read;
mod sql;
mod sqlite;
#[cfg(test)]
mod tests;
pub(super) mod vector_extension;

pub use drain::{Drained, LEASE};
pub use index::{EmbedderId, MemoryIndex};
pub use outbox::Change;
pub use ranking::{Scored, StoredMemory, WordMatches};
pub use read::MOST_WITHOUT_EXTENSION;

/// The default tenant.
pub const LOCAL_TENANT: &str = "local";
