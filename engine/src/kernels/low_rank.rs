//! The A and B matrices of a LoRA adapter for one base weight.

use super::lora_matrix::{LoraMatrix, low_width};

/// The A and B matrices of a LoRA adapter for one base weight, applied to one run of batch rows.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// A, `[rank, in]`.
    pub a: &'a LoraMatrix,
    /// B, `[out, rank]`.
    pub b: &'a LoraMatrix,
    /// Factor of the product: `alpha / rank`, or `alpha / √rank` for rsLoRA.
    pub scale: f32,
    /// First row of the run in the batch.
    pub row: usize,
    /// Number of rows of the run.
    pub rows: usize,
    /// Index of the output that the product is added to.
    pub output: usize,
}

impl LowRank<'_> {
    /// Number of elements of the low-rank activations `x · aᵀ`: per row the rank, padded to whole
    /// blocks if `b` is in int8.
    pub fn low_len(&self) -> usize {
        self.rows * low_width(self.b)
    }
}
