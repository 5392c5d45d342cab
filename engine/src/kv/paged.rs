//! Keys and values in blocks of positions, which sequences with the same prefix share.

use std::sync::Arc;

use crate::kernels::{Isa, KEYS, KvSlice, to_half};

/// What a cache holds of each position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// In f16; else in f32.
    pub half: bool,
    pub isa: Isa,
}

impl KvShape {
    /// Numbers of one block, layer and head: keys, then values.
    fn slice_len(&self) -> usize {
        2 * KEYS * self.head_dim
    }

    fn block_len(&self) -> usize {
        self.layers * self.kv_heads * self.slice_len()
    }
}

/// [`KEYS`] positions: `[layers, kv_heads, keys and values]`, as [`KvSlice`] has them.
#[derive(Debug, Clone)]
enum KvBlock {
    F16(Box<[u16]>),
    F32(Box<[f32]>),
}

impl KvBlock {
    fn new(shape: &KvShape) -> Self {
        // zeros: what is not written yet weighs nothing, but must be a number
        match shape.half {
            true => Self::F16(vec![0; shape.block_len()].into_boxed_slice()),
            false => Self::F32(vec![0.0; shape.block_len()].into_boxed_slice()),
        }
    }
}

/// A sequence's block table. Blocks are shared by reference count; one that is written to is made the sequence's own first.
#[derive(Debug)]
pub(super) struct PagedKv {
    shape: KvShape,
    blocks: Vec<Arc<KvBlock>>,
    len: usize,
    /// A row of keys or values in f16.
    row: Vec<u16>,
}

impl PagedKv {
    pub(super) fn new(shape: KvShape) -> Self {
        Self { shape, blocks: Vec::new(), len: 0, row: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn fork(&self, len: usize) -> Self {
        let len = self.len.min(len);
        Self { shape: self.shape, blocks: self.blocks[..len.div_ceil(KEYS)].to_vec(), len, row: Vec::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * self.shape.block_len() * if self.shape.half { 2 } else { 4 }
    }

    pub(super) fn reserve(&mut self, extra: usize) {
        if let Some(last) = self.blocks.get_mut(self.len / KEYS) {
            Arc::make_mut(last);
        }
        while self.blocks.len() * KEYS < self.len + extra {
            self.blocks.push(Arc::new(KvBlock::new(&self.shape)));
        }
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    pub(super) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let KvShape { kv_heads, head_dim, isa, .. } = self.shape;
        let (width, slice) = (kv_heads * head_dim, self.shape.slice_len());
        self.row.resize(width, 0);
        for (token, (keys, values)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate() {
            let position = self.len + token;
            // reserved, and so this sequence's own
            let Some(block) = self.blocks.get_mut(position / KEYS).map(Arc::make_mut) else { return };
            let at = |head: usize| (layer * kv_heads + head) * slice;
            match block {
                KvBlock::F16(block) => {
                    to_half(isa, keys, &mut self.row);
                    for (head, keys) in self.row.chunks_exact(head_dim).enumerate() {
                        scatter(&mut block[at(head)..], position % KEYS, keys);
                    }
                    to_half(isa, values, &mut self.row);
                    for (head, values) in self.row.chunks_exact(head_dim).enumerate() {
                        let to = at(head) + (KEYS + position % KEYS) * head_dim;
                        block[to..to + head_dim].copy_from_slice(values);
                    }
                }
                KvBlock::F32(block) => {
                    for (head, keys) in keys.chunks_exact(head_dim).enumerate() {
                        scatter(&mut block[at(head)..], position % KEYS, keys);
                    }
                    for (head, values) in values.chunks_exact(head_dim).enumerate() {
                        // keys take as much room as values: KEYS rows of head_dim
                        let to = at(head) + (KEYS + position % KEYS) * head_dim;
                        block[to..to + head_dim].copy_from_slice(values);
                    }
                }
            }
        }
    }

    pub(super) fn slice(&self, layer: usize, block: usize, head: usize) -> KvSlice<'_> {
        let len = self.shape.slice_len();
        let at = (layer * self.shape.kv_heads + head) * len;
        match self.blocks.get(block).map(Arc::as_ref) {
            Some(KvBlock::F16(values)) => KvSlice::F16(&values[at..at + len]),
            Some(KvBlock::F32(values)) => KvSlice::F32(&values[at..at + len]),
            None => KvSlice::F32(&[]),
        }
    }
}

/// Writes a key into its column of `[head_dim, KEYS]`.
fn scatter<T: Copy>(block: &mut [T], column: usize, key: &[T]) {
    for (row, value) in block.chunks_exact_mut(KEYS).zip(key) {
        row[column] = *value;
    }
}
