//! The block contents of one shard, for the CPU kernels.

use crate::kernels::{Isa, KV_BLOCK_SIZE, KvSlice, to_half};

/// Dimensions of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub layers: usize,
    /// KV heads of this shard.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Stored in f16; else in f32.
    pub half: bool,
    pub isa: Isa,
}

impl KvShape {
    /// Elements of one block, layer and head: keys, then values.
    fn slice_len(&self) -> usize {
        2 * KV_BLOCK_SIZE * self.head_dim
    }

    fn block_len(&self) -> usize {
        self.layers * self.kv_heads * self.slice_len()
    }
}

/// [`KV_BLOCK_SIZE`] positions: `[layers, kv_heads, keys and values]`, laid out as in [`KvSlice`].
#[derive(Debug)]
enum Block {
    F16(Box<[u16]>),
    F32(Box<[f32]>),
}

/// A shard's blocks, indexed by their number in the [`BlockPool`](super::BlockPool).
#[derive(Debug)]
pub(crate) struct KvStore {
    shape: KvShape,
    blocks: Vec<Block>,
    /// Scratch row of keys or values in f16.
    row: Vec<u16>,
}

impl KvStore {
    pub(crate) fn new(shape: KvShape) -> Self {
        Self { shape, blocks: Vec::new(), row: vec![0; shape.kv_heads * shape.head_dim] }
    }

    /// Grows to at least `blocks` blocks.
    pub(crate) fn hold(&mut self, blocks: usize) {
        while self.blocks.len() < blocks {
            // zeros: unwritten positions have weight 0, but must be finite
            self.blocks.push(match self.shape.half {
                true => Block::F16(vec![0; self.shape.block_len()].into_boxed_slice()),
                false => Block::F32(vec![0.0; self.shape.block_len()].into_boxed_slice()),
            });
        }
    }

    /// Copies block `from` to a different block `to`.
    pub(crate) fn copy(&mut self, from: u32, to: u32) {
        if let Ok([from, to]) = self.blocks.get_disjoint_mut([from as usize, to as usize]) {
            match (from, to) {
                (Block::F16(from), Block::F16(to)) => to.copy_from_slice(from),
                (Block::F32(from), Block::F32(to)) => to.copy_from_slice(from),
                _ => {}
            }
        }
    }

    /// Writes one position's keys and values `[kv_heads * head_dim]` of `layer` into a column of a
    /// block.
    pub(crate) fn write(
        &mut self,
        layer: usize,
        block: u32,
        column: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let KvShape { kv_heads, head_dim, isa, .. } = self.shape;
        let slice = self.shape.slice_len();
        let at = |head: usize| (layer * kv_heads + head) * slice;
        // keys and values have the same size: KV_BLOCK_SIZE rows of head_dim
        let value_at = |head: usize| at(head) + (KV_BLOCK_SIZE + column) * head_dim;
        match &mut self.blocks[block as usize] {
            Block::F16(block) => {
                to_half(isa, keys, &mut self.row);
                for (head, keys) in self.row.chunks_exact(head_dim).enumerate() {
                    scatter(&mut block[at(head)..], column, keys);
                }
                to_half(isa, values, &mut self.row);
                for (head, values) in self.row.chunks_exact(head_dim).enumerate() {
                    block[value_at(head)..][..head_dim].copy_from_slice(values);
                }
            }
            Block::F32(block) => {
                for (head, keys) in keys.chunks_exact(head_dim).enumerate() {
                    scatter(&mut block[at(head)..], column, keys);
                }
                for (head, values) in values.chunks_exact(head_dim).enumerate() {
                    block[value_at(head)..][..head_dim].copy_from_slice(values);
                }
            }
        }
    }

    /// A block's keys and values of one layer and one of this shard's KV heads.
    pub(crate) fn slice(&self, layer: usize, block: u32, head: usize) -> KvSlice<'_> {
        let len = self.shape.slice_len();
        let at = (layer * self.shape.kv_heads + head) * len;
        match &self.blocks[block as usize] {
            Block::F16(values) => KvSlice::F16(&values[at..at + len]),
            Block::F32(values) => KvSlice::F32(&values[at..at + len]),
        }
    }
}

/// Writes a key into its column of `[head_dim, KV_BLOCK_SIZE]`.
fn scatter<T: Copy>(block: &mut [T], column: usize, key: &[T]) {
    for (row, value) in block.chunks_exact_mut(KV_BLOCK_SIZE).zip(key) {
        row[column] = *value;
    }
}
