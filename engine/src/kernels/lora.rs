//! Low-rank products of many adapters at once (LoRA, Hu et al. 2021; grouped as in Punica, Chen et al. 2023): each run of rows has its own.

use super::{Activations, DenseMatrix, Isa, Output, PRODUCTS, Phase, Product, Team, dense};

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
    /// Room for `[rows, rank]` of each item, one after the other; of each chunk, when they stand apart.
    low: Output,
}

/// Numbers of the low-rank products of `items`.
fn low_size(items: &[LowRank<'_>]) -> usize {
    items.iter().map(|item| item.rows * item.a.rows()).sum()
}

impl<'a> Down<'a> {
    /// # Panics
    /// When the shapes do not fit.
    fn new(isa: Isa, items: &'a [LowRank<'a>], x: &'a [f32], low: &mut [f32], apart: bool) -> Self {
        let size = low_size(items);
        for item in items {
            assert!((item.row + item.rows) * item.a.columns() <= x.len(), "rows of the batch");
            assert!(low.len() >= if apart { item.a.chunks() * size } else { size }, "room for what is low");
        }
        Self { isa, items, x, low: Output { start: low.as_mut_ptr(), rows: 0, apart: if apart { size } else { 0 } } }
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
                    let output = Output { start: self.low.start.add(start + first * rank), rows: rank, ..self.low };
                    dense::multiply(self.isa, item.a, x, 0..item.a.panels(), false, output);
                    // sums that others add to are scaled after
                    if self.low.apart == 0 {
                        std::slice::from_raw_parts_mut(output.start, rows * rank).iter_mut().for_each(|value| *value *= item.scale);
                    }
                }
            }
            start += item.rows * rank;
        }
    }
}

/// Adds every item's `low` times its `b` to its output, `[batch, out]` from `targets` on.
///
/// # Panics
/// When shapes do not fit.
fn up(team: &Team, isa: Isa, items: &[LowRank<'_>], low: &[f32], targets: &[(Output, usize)]) {
    for item in items {
        assert!((item.row + item.rows) * item.b.rows() <= targets[item.output].1, "rows of the batch");
        assert_eq!(item.a.rows(), item.b.columns(), "the rank");
    }
    assert!(low.len() >= low_size(items), "what is low");
    team.run(|thread, threads| {
        let mut start = 0;
        for item in items {
            let (rank, out) = (item.a.rows(), item.b.rows());
            let panels = item.b.panels();
            let range = panels * thread / threads..panels * (thread + 1) / threads;
            // SAFETY: threads take different panels, runs different rows; sizes were checked.
            unsafe {
                let output = Output { start: targets[item.output].0.start.add(item.row * out), rows: out, apart: 0 };
                dense::multiply(isa, item.b, &low[start..start + item.rows * rank], range, true, output);
            }
            start += item.rows * rank;
        }
    });
}

fn resized(low: &mut Vec<f32>, size: usize) -> &mut [f32] {
    if low.len() < size {
        low.resize(size, 0.0);
    }
    &mut low[..size]
}

/// `outputs[o][rows] += scale · (x · aᵀ) · bᵀ` for each item. `x` is `[batch, in]`; `low` is kept for the next call.
///
/// # Panics
/// When shapes do not fit.
pub fn low_rank(team: &Team, isa: Isa, items: &[LowRank<'_>], x: &[f32], low: &mut Vec<f32>, outputs: &mut [&mut [f32]]) {
    if items.is_empty() {
        return;
    }
    let low = resized(low, low_size(items));
    let down = Down::new(isa, items, x, low, false);
    // SAFETY: `low` is borrowed until all are done.
    team.run(|thread, threads| unsafe { down.work(thread, threads) });
    add_low(team, isa, items, low, outputs);
}

/// The products of every item with its `a`, each chunk's on its own and not scaled: `low[chunks, ...]`, all items' one after the other.
///
/// # Panics
/// When shapes do not fit.
pub fn low_rank_apart(team: &Team, isa: Isa, items: &[LowRank<'_>], x: &[f32], low: &mut [f32]) {
    let down = Down::new(isa, items, x, low, true);
    // SAFETY: `low` is borrowed until all are done.
    team.run(|thread, threads| unsafe { down.work(thread, threads) });
}

/// `outputs[o][rows] += low · bᵀ` for each item, `low` scaled already.
///
/// # Panics
/// When shapes do not fit.
pub fn add_low(team: &Team, isa: Isa, items: &[LowRank<'_>], low: &[f32], outputs: &mut [&mut [f32]]) {
    let mut targets = [(Output { start: std::ptr::null_mut(), rows: 0, apart: 0 }, 0); PRODUCTS];
    for (target, output) in targets[..outputs.len()].iter_mut().zip(outputs) {
        *target = (Output { start: output.as_mut_ptr(), rows: 0, apart: 0 }, output.len());
    }
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
    matmul_with_low(team, isa, products, quants, items, x, low);
    if !items.is_empty() {
        let mut targets = [(Output { start: std::ptr::null_mut(), rows: 0, apart: 0 }, 0); PRODUCTS];
        for (target, product) in targets.iter_mut().zip(products) {
            *target = (Output { start: product.y.as_mut_ptr(), rows: 0, apart: 0 }, product.y.len());
        }
        up(team, isa, items, low, &targets);
    }
}

/// The first of those phases: the products, and what is `low`, which [`add_low`] adds.
///
/// # Panics
/// When shapes do not fit.
pub fn matmul_with_low(
    team: &Team,
    isa: Isa,
    products: &mut [Product<'_>],
    quants: &Activations,
    items: &[LowRank<'_>],
    x: &[f32],
    low: &mut Vec<f32>,
) {
    let low = resized(low, low_size(items));
    let down = Down::new(isa, items, x, low, false);
    let phase = Phase::new(isa, products, quants, false);
    // SAFETY: `low` and `products` are borrowed until all are done.
    team.run(|thread, threads| unsafe {
        down.work(thread, threads);
        phase.work(thread, threads);
    });
}

/// A shard's part of a product and of the low-rank products beside it, each chunk's sums on their own: `product.y` is
/// `[chunks, tokens, rows]`, `low` as [`low_rank_apart`] has it.
///
/// # Panics
/// When shapes do not fit.
pub fn matmul_apart(team: &Team, isa: Isa, product: Product<'_>, quants: &Activations, items: &[LowRank<'_>], x: &[f32], low: &mut [f32]) {
    let mut products = [product];
    let down = Down::new(isa, items, x, low, true);
    let phase = Phase::new(isa, &mut products, quants, true);
    // SAFETY: `low` and `products` are borrowed until all are done.
    team.run(|thread, threads| unsafe {
        down.work(thread, threads);
        phase.work(thread, threads);
    });
}
