//! Keys and values: a pool of numbered blocks, and each shard's store of their contents.

mod pool;
mod store;
mod tensors;
#[cfg(test)]
mod tests;

pub use pool::{BlockPool, KvCache};
pub(crate) use store::{KvShape, KvStore};
pub(crate) use tensors::TensorStore;
