//! Blocks of the KV cache by number (PagedAttention, Kwon et al. 2023): who holds which, and which are free. What stands in them, each
//! shard keeps for itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernels::KV_BLOCK_SIZE;
use crate::{EngineError, Result};

/// Blocks that a new table has room for: it grows rarely.
const TABLE: usize = 64;

/// All blocks of one copy of the model.
#[derive(Debug, Clone)]
pub struct BlockPool {
    state: Arc<Mutex<State>>,
    /// Blocks that there may be.
    most: usize,
    block_bytes: usize,
    cut_anywhere: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Who share each block; 0: nobody.
    holders: Vec<u32>,
    free: Vec<u32>,
}

impl BlockPool {
    /// `block_bytes`: of one block on all shards together. `cut_anywhere`: see [`KvCache::cut_anywhere`].
    pub(crate) fn new(most: usize, block_bytes: usize, cut_anywhere: bool) -> Self {
        Self { state: Arc::default(), most, block_bytes, cut_anywhere }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty cache of a sequence.
    pub fn cache(&self) -> KvCache {
        KvCache { pool: self.clone(), blocks: Vec::with_capacity(TABLE), len: 0 }
    }

    /// Blocks that nobody holds.
    pub fn room(&self) -> usize {
        let state = self.state();
        self.most - (state.holders.len() - state.free.len())
    }

    pub fn most(&self) -> usize {
        self.most
    }

    /// Bytes of the blocks that somebody holds.
    pub fn bytes(&self) -> usize {
        (self.most - self.room()) * self.block_bytes
    }

    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Blocks that would be free if `caches` were given up.
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

    /// Blocks that were ever held at once: as many a shard must have.
    pub(crate) fn high(&self) -> usize {
        self.state().holders.len()
    }

    fn take(&self) -> Result<u32> {
        let mut state = self.state();
        let block = match state.free.pop() {
            Some(block) => block,
            None if state.holders.len() < self.most => {
                state.holders.push(0);
                (state.holders.len() - 1) as u32
            }
            None => return Err(EngineError::OutOfBlocks { blocks: self.most, tokens: KV_BLOCK_SIZE }),
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

/// The keys and values of one sequence, as a table of blocks of [`KV_BLOCK_SIZE`] positions. It belongs to one adapter generation: with LoRA
/// another's keys and values are never the same.
#[derive(Debug)]
pub struct KvCache {
    pool: BlockPool,
    blocks: Vec<u32>,
    len: usize,
}

impl KvCache {
    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether its numbers are the same however the prompt was cut into chunks: then any beginning of it may be used again.
    pub fn cut_anywhere(&self) -> bool {
        self.pool.cut_anywhere
    }

    /// The first `len` positions for another sequence with the same prefix *and the same adapter generation*, on the same blocks.
    #[must_use]
    pub fn fork(&self, len: usize) -> Self {
        let len = len.min(self.len);
        self.branch(len)
    }

    /// As [`fork`](Self::fork), also up to positions that the step under way will write: there must be blocks for them.
    pub(crate) fn branch(&self, len: usize) -> Self {
        let blocks = self.blocks[..len.div_ceil(KV_BLOCK_SIZE)].to_vec();
        let mut state = self.pool.state();
        blocks.iter().for_each(|&block| state.holders[block as usize] += 1);
        drop(state);
        Self { pool: self.pool.clone(), blocks, len }
    }

    /// Bytes of device memory this cache holds, on all shards, those that it shares included.
    pub fn bytes(&self) -> usize {
        self.blocks.len() * self.pool.block_bytes
    }

    pub(crate) fn table(&self) -> &[u32] {
        &self.blocks
    }

    /// Makes room for `extra` positions after `len` in blocks that this sequence alone holds from there on; blocks to be copied first are
    /// added to `copies`, from and to.
    ///
    /// # Errors
    /// [`EngineError::OutOfBlocks`]; what could be had is kept.
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

    /// Blocks that [`reserve`](Self::reserve) would take for `extra` positions.
    pub(crate) fn wants(&self, extra: usize) -> usize {
        let shared = self.blocks.get(self.len / KV_BLOCK_SIZE).is_some_and(|&last| self.pool.state().holders[last as usize] > 1);
        (self.len + extra).div_ceil(KV_BLOCK_SIZE).saturating_sub(self.blocks.len()) + usize::from(shared)
    }

    /// Counts positions that a step has written.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Forgets all but the first `len` positions.
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
