//! Low-rank products of many adapters at once (LoRA, Hu et al. 2021; grouped as in Punica, Chen et al. 2023): each run of rows has its own.

use super::{Activations, DenseMatrix, Isa, Output, Phase, Product, Team, dense};

/// The low-rank pair beside one base weight, for one run of rows.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// `[rank, in]`
    pub a: &'a DenseMatrix,
    /// `[out, rank]`
    pub b: &'a DenseMatrix,
    pub scale: f32,
    /// The run's rows among those of the batch.
    pub row: usize,
    pub rows: usize,
    /// Which of the outputs it is added to.
    pub output: usize,
}

/// Rows of a run that one thread takes at a time.
const ROWS: usize = 16;

/// The products of every item with its `a`, to be shared out.
struct Down<'a> {
    isa: Isa,
    items: &'a [LowRank<'a>],
    x: &'a [f32],
    /// Room for `[rows, rank]` of each item, one after the other.
    low: Output,
}

impl<'a> Down<'a> {
    /// # Panics
    /// When the shapes do not fit.
    fn new(isa: Isa, items: &'a [LowRank<'a>], x: &'a [f32], low: &mut Vec<f32>, outputs: &[usize]) -> Self {
        for item in items {
            let (end, columns) = (item.row + item.rows, item.a.columns());
            assert!(end * columns <= x.len() && end * item.b.rows() <= outputs[item.output], "rows of the batch");
            assert_eq!(item.a.rows(), item.b.columns(), "the rank");
        }
        low.clear();
        low.resize(items.iter().map(|item| item.rows * item.a.rows()).sum(), 0.0);
        Self { isa, items, x, low: Output { start: low.as_mut_ptr(), rows: 0 } }
    }

    /// This thread's share.
    ///
    /// # Safety
    /// `low` is still there, and each thread of the team calls this once with its own number.
    unsafe fn work(&self, thread: usize, threads: usize) {
        let (mut unit, mut start) = (0, 0);
        for item in self.items {
            let (rank, columns) = (item.a.rows(), item.a.columns());
            for first in (0..item.rows).step_by(ROWS) {
                unit += 1;
                if unit % threads != thread {
                    continue;
                }
                let rows = (item.rows - first).min(ROWS);
                let x = &self.x[(item.row + first) * columns..(item.row + first + rows) * columns];
                // SAFETY: each unit has its own part of `low`, which holds all of them.
                unsafe {
                    let output = Output { start: self.low.start.add(start + first * rank), rows: rank };
                    dense::multiply(self.isa, item.a, x, 0..item.a.panels(), false, output);
                    let values = std::slice::from_raw_parts_mut(output.start, rows * rank);
                    values.iter_mut().for_each(|value| *value *= item.scale);
                }
            }
            start += item.rows * rank;
        }
    }
}

/// Adds every item's `low` times its `b` to its output, `[batch, out]` from `targets` on.
fn up(team: &Team, isa: Isa, items: &[LowRank<'_>], low: &[f32], targets: &[Output]) {
    team.run(|thread, threads| {
        let mut start = 0;
        for item in items {
            let (rank, out) = (item.a.rows(), item.b.rows());
            let panels = item.b.panels();
            let range = panels * thread / threads..panels * (thread + 1) / threads;
            // SAFETY: threads take different panels, runs different rows; sizes were checked by `Down::new`.
            unsafe {
                let output = Output { start: targets[item.output].start.add(item.row * out), rows: out };
                dense::multiply(isa, item.b, &low[start..start + item.rows * rank], range, true, output);
            }
            start += item.rows * rank;
        }
    });
}

/// `outputs[o][rows] += scale · (x · aᵀ) · bᵀ` for each item. `x` is `[batch, in]`; `low` is kept for the next call.
///
/// # Panics
/// When shapes do not fit.
pub fn low_rank(team: &Team, isa: Isa, items: &[LowRank<'_>], x: &[f32], low: &mut Vec<f32>, outputs: &mut [&mut [f32]]) {
    if items.is_empty() {
        return;
    }
    let sizes: Vec<usize> = outputs.iter().map(|output| output.len()).collect();
    let down = Down::new(isa, items, x, low, &sizes);
    // SAFETY: `low` is borrowed until all are done.
    team.run(|thread, threads| unsafe { down.work(thread, threads) });
    let targets: Vec<Output> = outputs.iter_mut().map(|output| Output { start: output.as_mut_ptr(), rows: 0 }).collect();
    up(team, isa, items, low, &targets);
}

/// [`matmul`](super::matmul) and [`low_rank`] over its outputs in two phases instead of three. `quants` is `x`, rounded.
///
/// # Panics
/// When shapes do not fit.
pub fn matmul_low_rank(
    team: &Team,
    isa: Isa,
    products: &mut [Product<'_>],
    quants: &Activations,
    items: &[LowRank<'_>],
    x: &[f32],
    low: &mut Vec<f32>,
) {
    let sizes: Vec<usize> = products.iter().map(|product| product.y.len()).collect();
    let down = Down::new(isa, items, x, low, &sizes);
    let phase = Phase::new(isa, products, quants);
    // SAFETY: `low` and `products` are borrowed until all are done.
    team.run(|thread, threads| unsafe {
        down.work(thread, threads);
        phase.work(thread, threads);
    });
    if !items.is_empty() {
        up(team, isa, items, low, &phase.parts.iter().map(|(_, output)| *output).collect::<Vec<_>>());
    }
}
