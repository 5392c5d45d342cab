//! The low-rank pair of an adapter beside one base weight.

use super::lora_matrix::{LoraMatrix, low_width};

/// The low-rank pair beside one base weight, for one run of rows.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// `[rank, in]`
    pub a: &'a LoraMatrix,
    /// `[out, rank]`
    pub b: &'a LoraMatrix,
    pub scale: f32,
    /// The run's rows among those of the batch.
    pub row: usize,
    pub rows: usize,
    /// The output that it is added to.
    pub output: usize,
}

impl LowRank<'_> {
    /// Numbers of its products with `a`: of each row as many as the rank, or whole blocks if `b` is
    /// rounded.
    pub fn low_len(&self) -> usize {
        self.rows * low_width(self.b)
    }
}
