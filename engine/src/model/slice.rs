//! Which part of the model a shard has (tensor parallelism, Shoeybi et al. 2019): attention by KV
//! heads, the MLP by column then row, embeddings by vocabulary.

use std::ops::Range;

use super::ModelConfig;
use crate::kernels::{BLOCK, PANEL};
use crate::{EngineError, Result};

/// One shard's part.
///
/// Sums over the columns of `o` and `down` are taken in *chunks*, one a KV head, which are added
/// left to right whoever computed them: so any number of shards gives the same bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub rank: usize,
    pub world: usize,
    /// Of all KV heads, and so of all chunks.
    pub kv_heads: Range<usize>,
    /// Chunks of the whole model.
    pub chunks: usize,
    /// Query heads of a KV head.
    group: usize,
    head_dim: usize,
    /// Columns of `down` in one chunk.
    inner: usize,
    vocabulary: usize,
}

impl Slice {
    /// Shard `rank` of `world`: KV heads dealt out as evenly as they go, the first shards having
    /// one more.
    ///
    /// # Errors
    /// [`EngineError::Sharding`] when there are more shards than KV heads, or the MLP does not
    /// split into as many chunks of whole blocks.
    pub(crate) fn new(config: &ModelConfig, rank: usize, world: usize) -> Result<Self> {
        let heads = config.kv_heads;
        let refuse = |reason: String| Err(EngineError::Sharding { reason });
        if world > heads {
            return refuse(format!(
                "it has {heads} KV heads, and {world} devices need at least one each"
            ));
        }
        let group = config.heads / heads;
        let splits = config.intermediate.is_multiple_of(heads * BLOCK)
            && (group * config.head_dim).is_multiple_of(BLOCK);
        if !splits && world > 1 {
            let inner = config.intermediate;
            return refuse(format!(
                "its MLP of {inner} does not split into {heads} equal parts of whole blocks of {BLOCK}"
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

    /// Chunks that this shard computes.
    pub(crate) fn own_chunks(&self) -> usize {
        if self.world == 1 { self.chunks } else { self.kv_heads.len() }
    }

    /// Rows of `q`, columns of `o`.
    pub(crate) fn queries(&self) -> Range<usize> {
        let width = self.group * self.head_dim;
        self.kv_heads.start * width..self.kv_heads.end * width
    }

    /// Rows of `k` and `v`.
    pub(crate) fn keys(&self) -> Range<usize> {
        self.kv_heads.start * self.head_dim..self.kv_heads.end * self.head_dim
    }

    /// Rows of `gate` and `up`, columns of `down`.
    pub(crate) fn inner(&self) -> Range<usize> {
        if self.world == 1 {
            0..self.inner * self.chunks
        } else {
            self.kv_heads.start * self.inner..self.kv_heads.end * self.inner
        }
    }

    /// Rows of the embedding and the output layer of shard `rank`, in whole panels.
    pub(crate) fn vocabulary_of(&self, rank: usize) -> Range<usize> {
        let panels = self.vocabulary.div_ceil(PANEL);
        let from = |rank: usize| (panels * rank / self.world * PANEL).min(self.vocabulary);
        from(rank)..from(rank + 1)
    }

    pub(crate) fn vocabulary(&self) -> Range<usize> {
        self.vocabulary_of(self.rank)
    }

    /// Query heads of this shard.
    pub(crate) fn heads(&self) -> usize {
        self.kv_heads.len() * self.group
    }
}
