//! A linear layer over a ragged batch: the shared base weight, and beside it the adapter of each run of rows.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Module, Tensor};

use crate::Result;
use crate::lora::{AdapterHandle, Delta, Target};
use crate::weights::Matrix;

/// A base weight `[out, in]`.
#[derive(Debug)]
pub(crate) enum Linear {
    Quantised(Quantised),
    Dense(Tensor),
}

/// A quantised weight, multiplied as it is for few rows and dequantised for many.
#[derive(Debug)]
pub(crate) struct Quantised {
    product: QMatMul,
    tensor: Arc<QTensor>,
    /// Rows of one run from which dequantising the weight costs less than it saves.
    dense_from: usize,
}

impl Quantised {
    fn new(tensor: Arc<QTensor>) -> Result<Self> {
        let dense_from = match tensor.dtype() {
            _ if !tensor.device().is_cpu() => usize::MAX,
            // candle multiplies these rows one by one and without SIMD
            GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1 => 2,
            // these have SIMD products: dequantising pays for long chunks only
            _ => 32,
        };
        Ok(Self { product: QMatMul::from_arc(Arc::clone(&tensor))?, tensor, dense_from })
    }

    /// Each run's bits depend on that run alone: few rows are multiplied row by row, many in a product of their own.
    fn forward_runs(&self, x: &Tensor, runs: &[Run]) -> Result<Tensor> {
        if runs.iter().all(|run| run.rows < self.dense_from) {
            return Ok(self.product.forward(x)?);
        }
        // [in, out]
        let dense = self.tensor.dequantize(x.device())?.t()?;
        let mut parts = Vec::with_capacity(runs.len());
        for group in runs.chunk_by(|a, b| a.rows.max(b.rows) < self.dense_from) {
            let Some(first) = group.first() else { continue };
            let rows = x.narrow(0, first.start, group.iter().map(|run| run.rows).sum())?.contiguous()?;
            parts.push(if first.rows < self.dense_from { self.product.forward(&rows)? } else { rows.matmul(&dense)? });
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 0)? })
    }
}

/// Consecutive rows that speak through the same adapter.
#[derive(Debug)]
pub(crate) struct Run {
    pub start: usize,
    pub rows: usize,
    pub adapter: Option<AdapterHandle>,
}

impl Run {
    fn delta(&self, layer: usize, target: Target) -> Option<&Delta> {
        self.adapter.as_ref()?.0.delta(layer, target)
    }
}

impl Linear {
    pub(crate) fn new(matrix: Matrix) -> Result<Self> {
        Ok(match matrix {
            Matrix::Quantised(tensor) => Self::Quantised(Quantised::new(tensor)?),
            Matrix::Dense(tensor) => Self::Dense(tensor),
        })
    }

    /// `x` `[rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Quantised(weight) => weight.product.forward(x)?,
            Self::Dense(weight) => x.matmul(&weight.t()?)?,
        })
    }

    /// The same plus each run's low-rank product `x · Aᵀ · Bᵀ · scale`. Every run is multiplied alone, so that its bits do not depend on
    /// its neighbours.
    pub(crate) fn forward_with(&self, x: &Tensor, runs: &[Run], layer: usize, target: Target) -> Result<Tensor> {
        let base = match self {
            Self::Quantised(weight) => weight.forward_runs(x, runs)?,
            Self::Dense(_) => self.forward(x)?,
        };
        if runs.iter().all(|run| run.delta(layer, target).is_none()) {
            return Ok(base);
        }
        let mut parts = Vec::with_capacity(runs.len());
        for run in runs {
            let rows = base.narrow(0, run.start, run.rows)?;
            parts.push(match run.delta(layer, target) {
                None => rows,
                Some(delta) => {
                    let low = x.narrow(0, run.start, run.rows)?.contiguous()?.matmul(&delta.a.t()?)?;
                    (rows + low.matmul(&delta.b.t()?)?)?
                }
            });
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}

/// Token embeddings, `[vocabulary, hidden]`.
#[derive(Debug)]
pub(crate) enum Embedding {
    Quantised(Arc<QTensor>),
    Dense(Tensor),
}

impl Embedding {
    /// The rows of `tokens`, `[tokens, hidden]` in f32.
    pub(crate) fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Quantised(table) => table.embedding(tokens)?,
            Self::Dense(table) => table.index_select(tokens, 0)?,
        })
    }
}
