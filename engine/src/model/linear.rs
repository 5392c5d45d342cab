//! A linear layer over a ragged batch: the shared base weight, and beside it the adapter of each run of rows.

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Module, Tensor};

use crate::Result;
use crate::lora::{AdapterHandle, Delta, Target};
use crate::weights::Matrix;

/// A base weight `[out, in]`.
#[derive(Debug)]
pub(crate) enum Linear {
    Quantised(QMatMul),
    Dense(Tensor),
}

/// Consecutive rows that speak through the same adapter.
#[derive(Debug)]
pub(crate) struct Run {
    pub start: usize,
    pub rows: usize,
    pub adapter: Option<AdapterHandle>,
}

impl Run {
    fn delta(&self, layer: usize, target: Target) -> Option<(&Tensor, &Tensor)> {
        match self.adapter.as_ref()?.0.delta(layer, target)? {
            Delta::Tensors { a, b } => Some((a, b)),
            Delta::Packed { .. } => None,
        }
    }
}

impl Linear {
    pub(crate) fn new(matrix: Matrix) -> Result<Self> {
        Ok(match matrix {
            Matrix::Quantised(tensor) => Self::Quantised(QMatMul::from_arc(tensor)?),
            Matrix::Dense(tensor) => Self::Dense(tensor),
        })
    }

    /// `x` `[rows, in]` to `[rows, out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Quantised(weight) => weight.forward(x)?,
            Self::Dense(weight) => x.matmul(&weight.t()?)?,
        })
    }

    /// The same plus each run's low-rank product `x · Aᵀ · Bᵀ · scale`. Every run is multiplied alone, so that its bits do not depend on
    /// its neighbours.
    pub(crate) fn forward_with(&self, x: &Tensor, runs: &[Run], layer: usize, target: Target) -> Result<Tensor> {
        let base = self.forward(x)?;
        if runs.iter().all(|run| run.delta(layer, target).is_none()) {
            return Ok(base);
        }
        let mut parts = Vec::with_capacity(runs.len());
        for run in runs {
            let rows = base.narrow(0, run.start, run.rows)?;
            parts.push(match run.delta(layer, target) {
                None => rows,
                Some((a, b)) => {
                    let low = x.narrow(0, run.start, run.rows)?.contiguous()?.matmul(&a.t()?)?;
                    (rows + low.matmul(&b.t()?)?)?
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
