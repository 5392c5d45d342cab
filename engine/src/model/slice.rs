//! The part of the model on each shard (tensor parallelism, Shoeybi et al. 2019): attention is
//! split by KV heads, the MLP by column then row, embeddings by vocabulary.

use std::ops::Range;

use super::ModelConfig;
use crate::kernels::{BLOCK, PANEL};
use crate::{EngineError, Result};

/// One shard's part of the model.
///
/// Sums over the columns of `o` and `down` are computed in *chunks*, one per KV head, which are
/// added from left to right, whichever shard computed them: any number of shards gives the same
/// bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Index of the shard.
    pub rank: usize,
    /// Number of shards.
    pub world: usize,
    /// The KV heads of this shard; with several shards, also its chunks.
    pub kv_heads: Range<usize>,
    /// Number of chunks of the whole model.
    pub chunks: usize,
    /// Number of query heads per KV head.
    group: usize,
    head_dim: usize,
    /// Number of columns of `down` per chunk.
    inner: usize,
    vocabulary: usize,
}

impl Slice {
    /// The part of shard `rank` of `world`. KV heads are distributed as evenly as possible; counts
    /// differ by at most one.
    ///
    /// # Errors
    /// [`EngineError::Sharding`] when there are more shards than KV heads, or the MLP does not
    /// split into one chunk of whole blocks per KV head.
    pub(crate) fn new(config: &ModelConfig, rank: usize, world: usize) -> Result<Self> {
        let heads = config.kv_heads;
        let refuse = |reason: String| Err(EngineError::Sharding { reason });
        if world > heads {
            return refuse(format!(
                "it has {heads} KV heads, too few for {world} devices, expected at least one per device"
            ));
        }
        let group = config.heads / heads;
        let splits = config.intermediate.is_multiple_of(heads * BLOCK)
            && (group * config.head_dim).is_multiple_of(BLOCK);
        if !splits && world > 1 {
            let inner = config.intermediate;
            return refuse(format!(
                "its MLP of {inner} cannot be split into {heads} equal parts of whole blocks of {BLOCK}"
            ));
        }
        let chunks = if splits { heads } else { 1 };
        Ok(Self {
            rank,
            world,
            kv_heads: (rank * heads).div_ceil(world)..((rank + 1) * heads).div_ceil(world),
            chunks,
            group,
            head_dim: config.head_dim,
            inner: config.intermediate / chunks,
            vocabulary: config.vocabulary,
        })
    }

    /// Number of chunks that this shard computes.
    pub(crate) fn own_chunks(&self) -> usize {
        if self.world == 1 { self.chunks } else { self.kv_heads.len() }
    }

    /// This shard's rows of `q` and columns of `o`.
    pub(crate) fn queries(&self) -> Range<usize> {
        let width = self.group * self.head_dim;
        self.kv_heads.start * width..self.kv_heads.end * width
    }

    /// This shard's rows of `k` and `v`.
    pub(crate) fn keys(&self) -> Range<usize> {
        self.kv_heads.start * self.head_dim..self.kv_heads.end * self.head_dim
    }

    /// This shard's rows of `gate` and `up` and columns of `down`.
    pub(crate) fn inner(&self) -> Range<usize> {
        if self.world == 1 {
            0..self.inner * self.chunks
        } else {
            self.kv_heads.start * self.inner..self.kv_heads.end * self.inner
        }
    }

    /// Rows of the embedding and the output layer on shard `rank`, in whole panels.
    pub(crate) fn vocabulary_of(&self, rank: usize) -> Range<usize> {
        let panels = self.vocabulary.div_ceil(PANEL);
        let from = |rank: usize| (panels * rank / self.world * PANEL).min(self.vocabulary);
        from(rank)..from(rank + 1)
    }

    /// This shard's rows of the embedding and the output layer.
    pub(crate) fn vocabulary(&self) -> Range<usize> {
        self.vocabulary_of(self.rank)
    }

    /// Number of query heads of this shard.
    pub(crate) fn heads(&self) -> usize {
        self.kv_heads.len() * self.group
    }
}
