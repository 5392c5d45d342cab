//! Keys and values as tensors on any device, grown by copying.

use candle_core::{DType, Device, Tensor};

use crate::Result;

/// Positions a buffer grows by at least: rare enough to copy, small enough to waste.
const GROWTH: usize = 64;

/// Per layer keys and values `[kv_heads, capacity, head_dim]` in f32, of which `len` positions are filled.
#[derive(Debug)]
pub(super) struct TensorKv {
    layers: Vec<Option<(Tensor, Tensor)>>,
    kv_heads: usize,
    head_dim: usize,
    device: Device,
    len: usize,
    capacity: usize,
}

impl TensorKv {
    pub(super) fn new(layers: usize, kv_heads: usize, head_dim: usize, device: &Device) -> Self {
        Self { layers: vec![None; layers], kv_heads, head_dim, device: device.clone(), len: 0, capacity: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn fork(&self, len: usize) -> Result<Self> {
        let mut copy = Self::new(self.layers.len(), self.kv_heads, self.head_dim, &self.device);
        copy.len = self.len.min(len);
        copy.capacity = copy.len.next_multiple_of(GROWTH);
        for (mine, theirs) in self.layers.iter().zip(&mut copy.layers) {
            let Some((keys, values)) = mine else { continue };
            *theirs = Some((moved(keys, copy.len, copy.capacity)?, moved(values, copy.len, copy.capacity)?));
        }
        Ok(copy)
    }

    pub(super) fn bytes(&self) -> usize {
        2 * self.layers.len() * self.kv_heads * self.capacity * self.head_dim * DType::F32.size_in_bytes()
    }

    /// Makes room for `extra` positions after `len`.
    pub(super) fn reserve(&mut self, extra: usize) -> Result<()> {
        let needed = self.len + extra;
        if needed <= self.capacity && self.layers.iter().all(Option::is_some) {
            return Ok(());
        }
        let capacity = if needed <= self.capacity { self.capacity } else { needed.max(self.capacity * 3 / 2).next_multiple_of(GROWTH) };
        for layer in &mut self.layers {
            *layer = Some(match layer {
                Some((keys, values)) => (moved(keys, self.len, capacity)?, moved(values, self.len, capacity)?),
                None => {
                    let shape = (self.kv_heads, capacity, self.head_dim);
                    (Tensor::zeros(shape, DType::F32, &self.device)?, Tensor::zeros(shape, DType::F32, &self.device)?)
                }
            });
        }
        self.capacity = capacity;
        Ok(())
    }

    /// Writes `keys` and `values` `[kv_heads, tokens, head_dim]` after the filled positions of `layer` and returns the filled part
    /// `[kv_heads, len + tokens, head_dim]`. `advance` counts them once every layer has them.
    pub(super) fn append(&self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<(Tensor, Tensor)> {
        let tokens = keys.dim(1)?;
        let Some((all_keys, all_values)) = &self.layers[layer] else {
            return Err(candle_core::Error::Msg("append before reserve".into()).into());
        };
        all_keys.slice_set(keys, 1, self.len)?;
        all_values.slice_set(values, 1, self.len)?;
        let len = self.len + tokens;
        Ok((all_keys.narrow(1, 0, len)?, all_values.narrow(1, 0, len)?))
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}

/// The first `len` positions of `buffer` in a new buffer of `capacity`.
fn moved(buffer: &Tensor, len: usize, capacity: usize) -> Result<Tensor> {
    let (heads, _, head_dim) = buffer.dims3()?;
    let grown = Tensor::zeros((heads, capacity, head_dim), buffer.dtype(), buffer.device())?;
    if len > 0 {
        grown.slice_set(&buffer.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
    }
    Ok(grown)
}
