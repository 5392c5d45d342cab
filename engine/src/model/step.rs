//! The inputs of one forward pass, as plain data shared by all shards of a group.

use std::ops::Range;

use crate::Result;
use crate::kernels::{KV_BLOCK_SIZE, Span};
use crate::kv::KvCache;
use crate::lora::AdapterHandle;

/// The rows of a segment whose logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// No row.
    None,
    /// The last row.
    Last,
    /// All rows.
    All,
}

/// The inputs of one forward pass over the rows of a ragged batch. It is reused between steps, so
/// that its buffers are not allocated again.
#[derive(Debug, Default)]
pub struct Step {
    /// Token id of every row.
    pub(crate) tokens: Vec<u32>,
    /// Consecutive rows of one sequence, with their positions.
    pub(crate) spans: Vec<Span>,
    /// Range of `tables` of each span.
    pub(crate) table_of: Vec<Range<usize>>,
    /// Block tables of all spans, concatenated.
    pub(crate) tables: Vec<u32>,
    /// Writes of keys and values to the cache.
    pub(crate) writes: Vec<Write>,
    /// Blocks to copy before any computation, as (from, to), in this order.
    pub(crate) copies: Vec<(u32, u32)>,
    /// Rows by adapter.
    pub(crate) runs: Vec<AdapterRun>,
    /// Rows whose logits are computed.
    pub(crate) reads: Vec<u32>,
    /// Number of blocks for which each shard's KV store must have memory.
    pub(crate) blocks: usize,
    /// Maximum number of blocks of each shard's KV store.
    pub(crate) most_blocks: usize,
}

/// Rows whose keys and values are written to consecutive positions of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Write {
    /// First row of the batch.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Index of the block in the pool.
    pub block: u32,
    /// Position of the first row within the block.
    pub column: usize,
}

/// Consecutive rows that use the same adapter.
#[derive(Debug, Clone)]
pub(crate) struct AdapterRun {
    /// First row of the batch.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// The adapter; `None` for the base model.
    pub adapter: Option<AdapterHandle>,
}

impl Step {
    /// Clears all inputs; keeps the buffers.
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

    /// Appends consecutive tokens of one sequence after the positions in its cache. Reserves cache
    /// blocks for them; the cache's length changes only with [`KvCache::advance`]. Adjacent spans
    /// with the same adapter form one run. Returns the span's index.
    ///
    /// # Errors
    /// [`EngineError::OutOfBlocks`](crate::EngineError::OutOfBlocks). The step is then unchanged
    /// except for added block copies, which are required: the step must still be run.
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

    /// Appends tokens that continue span `trunk` of the same step, whose cache is `stem`: a branch
    /// of a token tree (Medusa, Cai et al. 2024; SpecInfer, Miao et al. 2024). Returns the branch's
    /// cache. The block tables encode the tree mask: a branch shares the trunk's full blocks; the
    /// trunk's positions in its last, partial block are written a second time, to the branch's own
    /// block.
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
        // the positions of the trunk's partial block that this step computes
        let shared = (end / KV_BLOCK_SIZE * KV_BLOCK_SIZE).max(position);
        self.write(row + (shared - position), shared..end, kv.table());
        Ok(kv)
    }

    /// Adds the writes of rows from `row` on to `positions`, one per block.
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

    /// The block table of the span with this index.
    pub(crate) fn table(&self, span: usize) -> &[u32] {
        &self.tables[self.table_of[span].clone()]
    }
}
