//! The block contents of one shard as candle tensors, on any device.

use candle_core::{DType, Device, Tensor};

use crate::Result;
use crate::kernels::KV_BLOCK_SIZE;

/// Minimum number of blocks by which a store grows: large enough to copy rarely, small enough to
/// waste little.
const GROWTH: usize = 32;

/// Per layer keys and values `[slots, kv_heads * head_dim]`, one slot per position: block `b` has
/// slots `b * KV_BLOCK_SIZE` to `(b + 1) * KV_BLOCK_SIZE`.
#[derive(Debug)]
pub(crate) struct TensorStore {
    layers: Vec<(Tensor, Tensor)>,
    width: usize,
    dtype: DType,
    device: Device,
    blocks: usize,
}

impl TensorStore {
    /// `width`: `kv_heads * head_dim` of this shard.
    pub(crate) fn new(layers: usize, width: usize, dtype: DType, device: &Device) -> Result<Self> {
        let empty = || Tensor::zeros((0, width), dtype, device);
        let layers = (0..layers).map(|_| Ok((empty()?, empty()?))).collect::<Result<_>>()?;
        Ok(Self { layers, width, dtype, device: device.clone(), blocks: 0 })
    }

    /// Grows to at least `blocks` blocks, and never more than `most`.
    ///
    /// # Errors
    /// When the device has not enough memory.
    pub(crate) fn hold(&mut self, blocks: usize, most: usize) -> Result<()> {
        if blocks <= self.blocks {
            return Ok(());
        }
        let (held, grown) = (
            self.blocks * KV_BLOCK_SIZE,
            blocks.max(self.blocks * 3 / 2).next_multiple_of(GROWTH).min(most.max(blocks)),
        );
        for buffer in self.layers.iter_mut().flat_map(|(keys, values)| [keys, values]) {
            // zeros: unwritten positions have weight 0, but must be finite
            let new = Tensor::zeros((grown * KV_BLOCK_SIZE, self.width), self.dtype, &self.device)?;
            if held > 0 {
                new.slice_set(buffer, 0, 0)?;
            }
            *buffer = new;
        }
        self.blocks = grown;
        Ok(())
    }

    /// Copies block `from` to a different block `to`.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn copy(&self, from: u32, to: u32) -> Result<()> {
        for buffer in self.layers.iter().flat_map(|(keys, values)| [keys, values]) {
            // a tensor may not be assigned from itself
            let block = buffer
                .narrow(0, from as usize * KV_BLOCK_SIZE, KV_BLOCK_SIZE)?
                .force_contiguous()?;
            buffer.slice_set(&block, 0, to as usize * KV_BLOCK_SIZE)?;
        }
        Ok(())
    }

    /// Writes `keys` and `values` `[positions, width]` of `layer` into consecutive slots from
    /// `slot` on, all in one block.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn write(
        &self,
        layer: usize,
        slot: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<()> {
        let (all_keys, all_values) = &self.layers[layer];
        all_keys.slice_set(&keys.to_dtype(self.dtype)?.contiguous()?, 0, slot)?;
        all_values.slice_set(&values.to_dtype(self.dtype)?.contiguous()?, 0, slot)?;
        Ok(())
    }

    /// Writes rows `[positions, width]` of `layer`, each into its slot; `slots` repeats the slot
    /// number in every column.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn scatter(
        &self,
        layer: usize,
        slots: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<()> {
        let (all_keys, all_values) = &self.layers[layer];
        all_keys.scatter_set(slots, &keys.to_dtype(self.dtype)?.contiguous()?, 0)?;
        all_values.scatter_set(slots, &values.to_dtype(self.dtype)?.contiguous()?, 0)?;
        Ok(())
    }

    /// The keys and values of `layer` in `slots`, `[slots, width]` in f32.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn read(&self, layer: usize, slots: &Tensor) -> Result<(Tensor, Tensor)> {
        let (keys, values) = &self.layers[layer];
        Ok((
            keys.index_select(slots, 0)?.to_dtype(DType::F32)?,
            values.index_select(slots, 0)?.to_dtype(DType::F32)?,
        ))
    }
}
