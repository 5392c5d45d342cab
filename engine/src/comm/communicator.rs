//! The collective operations that tensor parallelism needs.

use candle_core::Tensor;

use crate::Result;

/// The collective operations of one tensor-parallel group. Every rank calls the same operations in
/// the same order.
pub trait Communicator: Send + Sync {
    /// This shard's rank, in `0..world_size()`.
    fn rank(&self) -> usize;
    /// The number of shards of the model.
    fn world_size(&self) -> usize;
    /// The sum of every rank's `partial`, on every rank.
    ///
    /// # Errors
    /// When a rank has disconnected or the device fails.
    fn all_reduce(&self, partial: Tensor) -> Result<Tensor>;
}

/// A group of one rank: the whole model on one device.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleRank;

impl Communicator for SingleRank {
    fn rank(&self) -> usize {
        0
    }
    fn world_size(&self) -> usize {
        1
    }
    fn all_reduce(&self, partial: Tensor) -> Result<Tensor> {
        Ok(partial)
    }
}
