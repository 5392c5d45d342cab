//! Linear layers over a ragged batch: one base weight, plus the adapter of each run of rows.

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};

use super::ModelConfig;
use super::step::{AdapterRun, Step};
use crate::Result;
use crate::lora::{AdapterHandle, Delta, Target};
use crate::weights::Matrix;

/// A base weight `[out, in]`.
#[derive(Debug)]
pub(crate) enum Linear {
    Quantised(QMatMul),
    Dense(Tensor),
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
}

/// The adapters of the current step on one rank.
pub(super) struct Adapters {
    rank: usize,
    device: Device,
    runs: Vec<AdapterRun>,
    /// The adapters, stacked; reused while it contains all adapters of the step.
    stack: Option<Stack>,
    /// `[tokens, sum of adapter ranks]`: 1 where the row uses the column's adapter.
    mask: Option<Tensor>,
}

/// Several adapters stacked into one: two products, whatever the number of adapters, with a mask on
/// the low-rank activations in between. At small ranks this costs less than separate products
/// (Punica's SGMV, Chen et al. 2023, does the same with a dedicated kernel).
struct Stack {
    adapters: Vec<AdapterHandle>,
    /// By layer and target: A `[ranks, in]` and B `[out, ranks]`, `ranks` being the sum of adapter
    /// ranks, with zeros for adapters that do not have this target; `None` if none has it.
    pairs: Vec<Option<(Tensor, Tensor)>>,
}

impl Adapters {
    pub(super) fn new(rank: usize, device: &Device) -> Self {
        Self { rank, device: device.clone(), runs: Vec::new(), stack: None, mask: None }
    }

    /// Prepares for a step: with `grouped`, stacks its adapters and builds the mask.
    pub(super) fn prepare(
        &mut self,
        config: &ModelConfig,
        step: &Step,
        grouped: bool,
    ) -> Result<()> {
        self.runs.clone_from(&step.runs);
        self.mask = None;
        let mut adapters: Vec<AdapterHandle> = Vec::new();
        for adapter in step.runs.iter().filter_map(|run| run.adapter.as_ref()) {
            if !adapters.iter().any(|known| known.key() == adapter.key()) {
                adapters.push(adapter.clone());
            }
        }
        if !grouped || adapters.is_empty() {
            // no row uses an adapter: an existing stack is kept only for grouped steps
            self.stack = self.stack.take().filter(|_| grouped);
            return Ok(());
        }
        let covered = |stack: &Stack| {
            adapters
                .iter()
                .all(|wanted| stack.adapters.iter().any(|known| known.key() == wanted.key()))
        };
        let stack = match self.stack.take().filter(covered) {
            Some(stack) => stack,
            None => Stack::new(config, self.rank, adapters, &self.device)?,
        };
        let ranks: usize = stack.adapters.iter().map(|adapter| adapter.0.rank()).sum();
        let mut mask = vec![0_u8; step.tokens.len() * ranks];
        for run in &step.runs {
            let mut column = 0;
            for adapter in &stack.adapters {
                let end = column + adapter.0.rank();
                if run.adapter.as_ref().is_some_and(|speaks| speaks.key() == adapter.key()) {
                    (run.row..run.row + run.rows)
                        .for_each(|row| mask[row * ranks + column..row * ranks + end].fill(1));
                }
                column = end;
            }
        }
        self.mask = Some(Tensor::from_vec(mask, (step.tokens.len(), ranks), &self.device)?);
        self.stack = Some(stack);
        Ok(())
    }

    /// `x · Wᵀ` plus each run's low-rank product `x · Aᵀ · Bᵀ · scale`, `[rows, out]`.
    pub(super) fn product(
        &self,
        weight: &Linear,
        x: &Tensor,
        layer: usize,
        target: Target,
    ) -> Result<Tensor> {
        let base = weight.forward(x)?;
        match (&self.stack, &self.mask) {
            (Some(stack), Some(mask)) => {
                match &stack.pairs[layer * Target::ALL.len() + target as usize] {
                    None => Ok(base),
                    Some((a, b)) => {
                        let low = x.matmul(&a.t()?)?;
                        // `where_cond`, not a product: inf in one sequence must not give NaN in
                        // another
                        let low = mask.where_cond(&low, &low.zeros_like()?)?;
                        Ok((base + low.matmul(&b.t()?)?)?)
                    }
                }
            }
            _ => self.each(base, x, layer, target),
        }
    }

    /// Multiplies every run separately, so that its bits do not depend on other runs.
    fn each(&self, base: Tensor, x: &Tensor, layer: usize, target: Target) -> Result<Tensor> {
        if self
            .runs
            .iter()
            .all(|run| pair(run.adapter.as_ref(), self.rank, layer, target).is_none())
        {
            return Ok(base);
        }
        let mut parts = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let rows = base.narrow(0, run.row, run.rows)?;
            parts.push(match pair(run.adapter.as_ref(), self.rank, layer, target) {
                None => rows,
                Some((a, b)) => {
                    let low = x.narrow(0, run.row, run.rows)?.contiguous()?.matmul(&a.t()?)?;
                    (rows + low.matmul(&b.t()?)?)?
                }
            });
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}

fn pair(
    adapter: Option<&AdapterHandle>,
    rank: usize,
    layer: usize,
    target: Target,
) -> Option<(&Tensor, &Tensor)> {
    match adapter?.0.delta(rank, layer, target)? {
        Delta::Tensors { a, b } => Some((a, b)),
        Delta::Packed { .. } => None,
    }
}

impl Stack {
    fn new(
        config: &ModelConfig,
        rank: usize,
        adapters: Vec<AdapterHandle>,
        device: &Device,
    ) -> Result<Self> {
        let mut pairs = Vec::with_capacity(config.layers * Target::ALL.len());
        for layer in 0..config.layers {
            for target in Target::ALL {
                let of = |adapter: &AdapterHandle| {
                    pair(Some(adapter), rank, layer, target).map(|(a, b)| (a.clone(), b.clone()))
                };
                let Some((columns, rows)) = adapters
                    .iter()
                    .find_map(of)
                    .map(|(a, b)| Ok::<_, candle_core::Error>((a.dim(1)?, b.dim(0)?)))
                    .transpose()?
                else {
                    pairs.push(None);
                    continue;
                };
                let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
                for adapter in &adapters {
                    let (a, b) = match of(adapter) {
                        Some(pair) => pair,
                        None => {
                            let zeros =
                                |rows, columns| Tensor::zeros((rows, columns), DType::F32, device);
                            (zeros(adapter.0.rank(), columns)?, zeros(rows, adapter.0.rank())?)
                        }
                    };
                    all_a.push(a);
                    all_b.push(b);
                }
                pairs.push(Some((Tensor::cat(&all_a, 0)?, Tensor::cat(&all_b, 1)?.contiguous()?)));
            }
        }
        Ok(Self { adapters, pairs })
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
