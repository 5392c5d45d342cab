//! One forward pass as plain data, which every shard of a group reads.

use std::ops::Range;

use crate::Result;
use crate::kernels::{KV_BLOCK_SIZE, Span};
use crate::kv::KvCache;
use crate::lora::AdapterHandle;

/// For which of a segment's rows logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// No row.
    None,
    /// The last row.
    Last,
    /// All rows.
    All,
}

/// What a forward pass does, over the rows of a ragged batch. Kept from step to step: once it has
/// grown, nothing is taken anew.
#[derive(Debug, Default)]
pub struct Step {
    pub(crate) tokens: Vec<u32>,
    pub(crate) spans: Vec<Span>,
    /// Each span's part of `tables`.
    pub(crate) table_of: Vec<Range<usize>>,
    /// Block tables, one after the other.
    pub(crate) tables: Vec<u32>,
    pub(crate) writes: Vec<Write>,
    /// Blocks to be copied before all else, from and to, in this order.
    pub(crate) copies: Vec<(u32, u32)>,
    pub(crate) runs: Vec<AdapterRun>,
    /// Rows whose logits are read.
    pub(crate) reads: Vec<u32>,
    /// Blocks that a shard's store must have.
    pub(crate) blocks: usize,
    /// Blocks that it may have.
    pub(crate) most_blocks: usize,
}

/// Rows whose keys and values go into consecutive positions of a span's cache, all of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Write {
    pub row: usize,
    pub rows: usize,
    pub block: u32,
    pub column: usize,
}

/// Consecutive rows that use the same adapter.
#[derive(Debug, Clone)]
pub(crate) struct AdapterRun {
    pub row: usize,
    pub rows: usize,
    pub adapter: Option<AdapterHandle>,
}

impl Step {
    /// Forgets the last pass.
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.spans.clear();
        self.table_of.clear();
        self.tables.clear();
        self.writes.clear();
        self.copies.clear();
        self.runs.clear();
        self.reads.clear();
        (self.blocks, self.most_blocks) = (0, 0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Adds consecutive tokens of one sequence after what its cache holds, which is given room for
    /// them but counts them only when [`KvCache::advance`] says so. Neighbours with the same
    /// adapter are multiplied together. Returns the span's number.
    ///
    /// # Errors
    /// [`EngineError::OutOfBlocks`](crate::EngineError::OutOfBlocks); the step is as before, but
    /// for copies that must be done all the same: it has to be run.
    pub(crate) fn push(
        &mut self,
        tokens: &[u32],
        kv: &mut KvCache,
        adapter: Option<&AdapterHandle>,
        logits: LogitRows,
    ) -> Result<usize> {
        kv.reserve(tokens.len(), &mut self.copies)?;
        let row = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        let start = self.tables.len();
        self.tables.extend_from_slice(kv.table());
        self.spans.push(Span { row, tokens: tokens.len(), position: kv.len() });
        self.table_of.push(start..self.tables.len());
        self.write(row, kv.len()..kv.len() + tokens.len(), kv.table());
        let end = row + tokens.len();
        let read = match logits {
            LogitRows::None => end..end,
            LogitRows::Last => end - 1..end,
            LogitRows::All => row..end,
        };
        self.reads.extend(read.map(|row| row as u32));
        match self.runs.last_mut() {
            Some(run)
                if run.adapter.as_ref().map(AdapterHandle::key)
                    == adapter.map(AdapterHandle::key) =>
            {
                run.rows += tokens.len()
            }
            _ => self.runs.push(AdapterRun { row, rows: tokens.len(), adapter: adapter.cloned() }),
        }
        Ok(self.spans.len() - 1)
    }

    /// Adds tokens that go on from the end of span `trunk` of this same step, whose cache is
    /// `stem`: a branch of a tree (Medusa, Cai et al. 2024; SpecInfer, Miao et al. 2024). What is
    /// returned is the branch's cache. The mask of the tree is in the block tables: a branch shares
    /// the trunk's whole blocks, and has the rest of it, written twice, in a block of its own.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(crate) fn push_branch(
        &mut self,
        trunk: usize,
        stem: &KvCache,
        tokens: &[u32],
        adapter: Option<&AdapterHandle>,
        logits: LogitRows,
    ) -> Result<KvCache> {
        let Span { row, tokens: trunk_tokens, position } = self.spans[trunk];
        let end = position + trunk_tokens;
        let mut kv = stem.branch(end);
        self.push(tokens, &mut kv, adapter, logits)?;
        // of the block where it leaves the trunk, what this step computes
        let shared = (end / KV_BLOCK_SIZE * KV_BLOCK_SIZE).max(position);
        self.write(row + (shared - position), shared..end, kv.table());
        Ok(kv)
    }

    fn write(&mut self, row: usize, positions: Range<usize>, table: &[u32]) {
        let mut at = positions.start;
        while at < positions.end {
            let end = positions.end.min((at / KV_BLOCK_SIZE + 1) * KV_BLOCK_SIZE);
            let write = Write {
                row: row + (at - positions.start),
                rows: end - at,
                block: table[at / KV_BLOCK_SIZE],
                column: at % KV_BLOCK_SIZE,
            };
            self.writes.push(write);
            at = end;
        }
    }

    /// The block table of span `.0`.
    pub(crate) fn table(&self, span: usize) -> &[u32] {
        &self.tables[self.table_of[span].clone()]
    }
}
