//! Adapters: kept by what they are, promoted and taken back by generations, and swapped while requests run.
//!
//! A request takes up its [`ActiveAdapter`] once and keeps it to its end, so that none mixes generations. A swap puts the next adapter on every shard of
//! every replica first, and then changes what the next request takes up; the old weights go when the last request that speaks through them
//! ends. Which generation is live is what phoebe says: every process looks there, at its start and then again and again.

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
