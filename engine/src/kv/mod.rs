//! The keys and values of one sequence.

mod paged;
mod tensors;

use candle_core::{Device, Tensor};

use crate::Result;
use crate::kernels::KvSlice;
pub(crate) use paged::KvShape;
use paged::PagedKv;
use tensors::TensorKv;

/// The KV cache of one sequence. It belongs to one adapter generation: with LoRA another's keys and values are never the same.
#[derive(Debug)]
pub struct KvCache(Store);

#[derive(Debug)]
enum Store {
    /// For the kernels.
    Paged(PagedKv),
    /// For candle's tensors.
    Tensors(TensorKv),
}

impl KvCache {
    pub(crate) fn paged(shape: KvShape) -> Self {
        Self(Store::Paged(PagedKv::new(shape)))
    }

    pub(crate) fn tensors(layers: usize, kv_heads: usize, head_dim: usize, device: &Device) -> Self {
        Self(Store::Tensors(TensorKv::new(layers, kv_heads, head_dim, device)))
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        match &self.0 {
            Store::Paged(kv) => kv.len(),
            Store::Tensors(kv) => kv.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its numbers are the same however the prompt was cut into chunks: then any beginning of it may be used again.
    pub fn cut_anywhere(&self) -> bool {
        matches!(self.0, Store::Paged(_))
    }

    /// The first `len` positions for another sequence with the same prefix *and the same adapter generation*: shared where pages allow it,
    /// else copied.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn fork(&self, len: usize) -> Result<Self> {
        Ok(Self(match &self.0 {
            Store::Paged(kv) => Store::Paged(kv.fork(len)),
            Store::Tensors(kv) => Store::Tensors(kv.fork(len)?),
        }))
    }

    /// Bytes of device memory this cache holds, those that it shares included.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Store::Paged(kv) => kv.bytes(),
            Store::Tensors(kv) => kv.bytes(),
        }
    }

    /// Makes room for `extra` positions after `len`.
    pub(crate) fn reserve(&mut self, extra: usize) -> Result<()> {
        match &mut self.0 {
            Store::Paged(kv) => kv.reserve(extra),
            Store::Tensors(kv) => kv.reserve(extra)?,
        }
        Ok(())
    }

    /// Counts positions that every layer has written.
    pub(crate) fn advance(&mut self, tokens: usize) {
        match &mut self.0 {
            Store::Paged(kv) => kv.advance(tokens),
            Store::Tensors(kv) => kv.advance(tokens),
        }
    }

    /// Writes `keys` and `values` `[kv_heads, tokens, head_dim]` after the filled positions of `layer` and returns the filled part
    /// `[kv_heads, len + tokens, head_dim]`.
    pub(crate) fn append(&self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        match &self.0 {
            Store::Tensors(kv) => kv.append(layer, keys, values),
            Store::Paged(_) => Err(other_kind()),
        }
    }

    /// Writes rows of keys and values `[tokens, kv_heads * head_dim]` after the filled positions of `layer`.
    pub(crate) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) -> Result<()> {
        match &mut self.0 {
            Store::Paged(kv) => {
                kv.write(layer, keys, values);
                Ok(())
            }
            Store::Tensors(_) => Err(other_kind()),
        }
    }

    /// A block of [`KEYS`](crate::kernels::KEYS) positions of one layer and KV head; empty when there is none.
    pub(crate) fn slice(&self, layer: usize, block: usize, head: usize) -> KvSlice<'_> {
        match &self.0 {
            Store::Paged(kv) => kv.slice(layer, block, head),
            Store::Tensors(_) => KvSlice::F32(&[]),
        }
    }
}

fn other_kind() -> crate::EngineError {
    candle_core::Error::Msg("the cache is of another kind than the model".into()).into()
}
