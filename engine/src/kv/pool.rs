//! Numbered blocks of the KV cache (PagedAttention, Kwon et al. 2023): reference counts and the
//! free list. Each shard stores the contents itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernels::KV_BLOCK_SIZE;
use crate::{EngineError, Result};

/// Initial capacity of a block table, so that it rarely grows.
const TABLE: usize = 64;

/// All blocks of one model replica.
#[derive(Debug, Clone)]
pub struct BlockPool {
    state: Arc<Mutex<State>>,
    /// Maximum number of blocks.
    capacity: usize,
    block_bytes: usize,
    cut_anywhere: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Reference count of each block; 0: free.
    holders: Vec<u32>,
    free: Vec<u32>,
}

impl BlockPool {
    /// `block_bytes`: bytes of one block on all shards together. `cut_anywhere`: see
    /// [`KvCache::cut_anywhere`].
    pub(crate) fn new(capacity: usize, block_bytes: usize, cut_anywhere: bool) -> Self {
        Self { state: Arc::default(), capacity, block_bytes, cut_anywhere }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty cache for a sequence.
    pub fn cache(&self) -> KvCache {
        KvCache { pool: self.clone(), blocks: Vec::with_capacity(TABLE), len: 0 }
    }

    /// Number of free blocks.
    pub fn free(&self) -> usize {
        let state = self.state();
        self.capacity - (state.holders.len() - state.free.len())
    }

    /// Number of all blocks.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the blocks in use.
    pub fn bytes(&self) -> usize {
        (self.capacity - self.free()) * self.block_bytes
    }

    /// Bytes of one block on all shards.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Number of blocks that dropping `caches` would free.
    pub(crate) fn freed_by<'a>(&self, caches: impl Iterator<Item = &'a KvCache>) -> usize {
        let mut holders = self.state().holders.clone();
        let mut freed = 0;
        for block in caches.flat_map(|cache| &cache.blocks) {
            let holders = &mut holders[*block as usize];
            *holders = holders.saturating_sub(1);
            freed += usize::from(*holders == 0);
        }
        freed
    }

    /// The high-water mark of blocks in use: a shard must allocate that many.
    pub(crate) fn high_water(&self) -> usize {
        self.state().holders.len()
    }

    fn take(&self) -> Result<u32> {
        let mut state = self.state();
        let block = match state.free.pop() {
            Some(block) => block,
            None if state.holders.len() < self.capacity => {
                state.holders.push(0);
                (state.holders.len() - 1) as u32
            }
            None => {
                return Err(EngineError::OutOfBlocks {
                    blocks: self.capacity,
                    tokens: KV_BLOCK_SIZE,
                });
            }
        };
        state.holders[block as usize] = 1;
        Ok(block)
    }
}

impl State {
    fn release(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }
}

/// The keys and values of one sequence, as a table of blocks of [`KV_BLOCK_SIZE`] positions. It
/// belongs to one adapter generation: keys and values differ between adapters.
#[derive(Debug)]
pub struct KvCache {
    pool: BlockPool,
    blocks: Vec<u32>,
    len: usize,
}

impl KvCache {
    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no position.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether its bits are independent of how the prompt was split into chunks: then any prefix of
    /// it may be reused.
    pub fn cut_anywhere(&self) -> bool {
        self.pool.cut_anywhere
    }

    /// The first `len` positions for another sequence with the same prefix *and the same adapter
    /// generation*, sharing the blocks.
    #[must_use]
    pub fn fork(&self, len: usize) -> Self {
        let len = len.min(self.len);
        self.branch(len)
    }

    /// As [`fork`](Self::fork), but may include positions that the current step will write: their
    /// blocks must be reserved.
    pub(crate) fn branch(&self, len: usize) -> Self {
        let blocks = self.blocks[..len.div_ceil(KV_BLOCK_SIZE)].to_vec();
        let mut state = self.pool.state();
        blocks.iter().for_each(|&block| state.holders[block as usize] += 1);
        drop(state);
        Self { pool: self.pool.clone(), blocks, len }
    }

    /// Device memory in bytes of this cache on all shards, shared blocks included.
    pub fn bytes(&self) -> usize {
        self.blocks.len() * self.pool.block_bytes
    }

    pub(crate) fn table(&self) -> &[u32] {
        &self.blocks
    }

    /// Reserves blocks for `extra` positions after `len` that this sequence owns alone; a shared
    /// block to be copied first is appended to `copies` as (from, to).
    ///
    /// # Errors
    /// [`EngineError::OutOfBlocks`]; blocks reserved before the failure are kept.
    pub(crate) fn reserve(&mut self, extra: usize, copies: &mut Vec<(u32, u32)>) -> Result<()> {
        if let Some(last) = self.blocks.get_mut(self.len / KV_BLOCK_SIZE)
            && self.pool.state().holders[*last as usize] > 1
        {
            let own = self.pool.take()?;
            if !self.len.is_multiple_of(KV_BLOCK_SIZE) {
                copies.push((*last, own));
            }
            self.pool.state().release(std::mem::replace(last, own));
        }
        while self.blocks.len() * KV_BLOCK_SIZE < self.len + extra {
            self.blocks.push(self.pool.take()?);
        }
        Ok(())
    }

    /// Number of blocks that [`reserve`](Self::reserve) would take for `extra` positions.
    pub(crate) fn wants(&self, extra: usize) -> usize {
        let shared = self
            .blocks
            .get(self.len / KV_BLOCK_SIZE)
            .is_some_and(|&last| self.pool.state().holders[last as usize] > 1);
        (self.len + extra).div_ceil(KV_BLOCK_SIZE).saturating_sub(self.blocks.len())
            + usize::from(shared)
    }

    /// Adds positions that a step has written.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Drops all but the first `len` positions.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        let keep = self.len.div_ceil(KV_BLOCK_SIZE);
        if keep < self.blocks.len() {
            let mut state = self.pool.state();
            self.blocks.drain(keep..).for_each(|block| state.release(block));
        }
    }
}

impl Drop for KvCache {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        self.blocks.drain(..).for_each(|block| state.release(block));
    }
}
