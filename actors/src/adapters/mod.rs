//! Adapters: stored by content hash, promoted and rolled back in generations, and swapped while
//! requests run.
//!
//! A request gets its [`ActiveAdapter`] once and keeps it to its end, so that no request mixes
//! generations. A swap loads the next adapter on every shard of every replica first, and then
//! changes what the next request gets; the old weights are unloaded when the last request that uses
//! them ends. The active generation is the one on record in phoebe, which every process polls.

mod active;
mod admin;
mod entities;
mod files;
mod library;
mod loaded;
mod options;
mod record;
mod swap;
#[cfg(test)]
pub(crate) mod tests;

pub use active::{ActiveAdapter, AdapterParts, Adapters};
pub use admin::{AdapterAdmin, AdapterReport};
pub use files::{AdapterFiles, Checked};
pub use library::{AdapterBase, AdapterLibrary};
pub use loaded::{AdapterLease, LoadedAdapters};
pub(crate) use loaded::{LOADS, Load};
pub use options::AdapterOptions;
pub use record::{AdapterRecord, AdapterStatus, Canary, Generation, GenerationKind};
