//! Keys and values: blocks by number in a pool, and each shard's store of what stands in them.

mod pool;
mod store;
mod tensors;
#[cfg(test)]
mod tests;

pub use pool::{BlockPool, KvCache};
pub(crate) use store::{KvShape, KvStore};
pub(crate) use tensors::TensorStore;
