//! Low-rank products of many adapters at once (LoRA, Hu et al. 2021; grouped as in Punica, Chen et al. 2023): each run of rows has its own.

use std::ops::Range;

use super::activations::fold_isa;
use super::{Activations, DenseMatrix, Isa, Output, PANEL, PRODUCTS, Phase, Product, Team, dense};

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

    /// The pieces that a thread does at once, in order.
    fn units(&self) -> impl Iterator<Item = Unit<'a>> + '_ {
        let mut start = 0;
        self.items.iter().flat_map(move |item| {
            let (first_low, rank) = (start, item.a.rows());
            start += item.rows * rank;
            (0..item.rows).step_by(ROWS).map(move |first| Unit {
                item,
                first,
                rows: (item.rows - first).min(ROWS),
                low: first_low + first * rank,
            })
        })
    }

    /// Every `threads`-th unit.
    ///
    /// # Safety
    /// `low` is still there, and each thread of the team calls this once with its own number.
    unsafe fn work(&self, thread: usize, threads: usize) {
        for unit in self.units().skip(thread).step_by(threads) {
            // SAFETY: as the caller promises.
            unsafe { self.one(&unit, std::ptr::null()) };
        }
    }

    /// The units whose middle lies within `window`, when each takes up as much as it costs.
    ///
    /// # Safety
    /// `low` is still there, and windows of different threads do not overlap.
    unsafe fn work_within(&self, window: Range<f64>, then: *const u8) {
        let mut at = 0.0;
        let mut mine = self
            .units()
            .filter(|unit| {
                let middle = at + unit.cost() / 2.0;
                at += unit.cost();
                window.contains(&middle)
            })
            .peekable();
        while let Some(unit) = mine.next() {
            let next = mine.peek().map_or(then, |unit| unit.item.a.start(0));
            // SAFETY: as the caller promises.
            unsafe { self.one(&unit, next) };
        }
    }

    /// # Safety
    /// `low` is still there, and nobody else does this unit.
    unsafe fn one(&self, unit: &Unit<'_>, next: *const u8) {
        let Unit { item, first, rows, low } = *unit;
        let (rank, columns) = (item.a.rows(), item.a.columns());
        let x = &self.x[(item.row + first) * columns..(item.row + first + rows) * columns];
        // SAFETY: each unit has its own part of `low`, which holds all of them.
        unsafe {
            let output = Output { start: self.low.start.add(low), rows: rank, ..self.low };
            dense::multiply(self.isa, item.a, x, 0..item.a.panels(), false, output, next);
            // sums that others add to are scaled after
            if self.low.apart == 0 {
                std::slice::from_raw_parts_mut(output.start, rows * rank).iter_mut().for_each(|value| *value *= item.scale);
            }
        }
    }

    /// What is low, to be read when all units are done.
    fn low_again(&self) -> &'a [f32] {
        // SAFETY: `new` was given as much, for as long; it is read after all writes.
        unsafe { std::slice::from_raw_parts(self.low.start, low_size(self.items)) }
    }
}

/// Some rows of an item.
#[derive(Clone, Copy)]
struct Unit<'a> {
    item: &'a LowRank<'a>,
    first: usize,
    rows: usize,
    /// Where its products go.
    low: usize,
}

impl Unit<'_> {
    /// In cycles.
    fn cost(&self) -> f64 {
        let products = self.item.a.panels() * self.item.a.columns();
        (products as f64 * PANEL as f64 * 2.0 / BYTES).max(products as f64 * self.rows as f64)
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
                dense::multiply(isa, item.b, &low[start..start + item.rows * rank], range, true, output, std::ptr::null());
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

/// [`matmul`](super::matmul) and [`low_rank`] over its outputs, in two phases that follow each other without a pause. `quants` is `x`,
/// rounded; where it was rounded [twice](Activations::quantise_fine) the outputs have two rows a token, of which the second phase makes one
/// before it adds what is low.
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
    let tokens = x.len() / quants.columns();
    let twice = quants.tokens() == 2 * tokens;
    for item in items {
        assert!(item.row + item.rows <= tokens && item.b.rows() == products[item.output].w.rows(), "rows of the batch");
        assert_eq!(item.a.rows(), item.b.columns(), "the rank");
    }
    let low = resized(low, low_size(items));
    let down = Down::new(isa, items, x, low, false);
    let phase = Phase::new(isa, products, quants, false);
    let costs = Costs::new(&down, &phase);
    // SAFETY: `low` and `products` are borrowed until all are done, and shares differ in what they write.
    let first = |share: usize, shares: usize| unsafe {
        let window = costs.window(share, shares);
        let panels = || phase.within(window.clone(), costs.low, costs.panel);
        let start = panels().find(|(.., range)| !range.is_empty()).map_or(std::ptr::null(), |(w, _, range)| w.start(range.start));
        down.work_within(window.clone(), start);
        // what this thread adds first is on its way when it gets there
        let mut adds = items.iter().filter(|item| item.output == 0);
        let then = adds.next().map_or(std::ptr::null(), |item| item.b.start(item.b.panels() * share / shares));
        phase.multiply_all(panels(), then);
    };
    if items.is_empty() && !twice {
        return team.run(first);
    }
    team.run_in_turn(first, |share, shares| {
        let low = down.low_again();
        for (index, (w, output)) in phase.parts().enumerate() {
            let panels = w.panels() * share / shares..w.panels() * (share + 1) / shares;
            if twice {
                let columns = panels.start * PANEL..(panels.end * PANEL).min(w.rows());
                // SAFETY: the outputs hold two rows a token, and shares have different columns.
                unsafe { fold_isa(isa, output.start, w.rows(), tokens, columns) };
            }
            let mut start = 0;
            for item in items {
                let size = item.rows * item.a.rows();
                if item.output == index {
                    let after = items.iter().skip_while(|other| !std::ptr::eq(*other, item)).skip(1).find(|other| other.output == index);
                    let next = after.map_or(std::ptr::null(), |item| item.b.start(panels.start));
                    let output = Output { start: output.start.wrapping_add(item.row * w.rows()), rows: w.rows(), apart: 0 };
                    // SAFETY: shares take different panels, runs different rows; sizes were checked.
                    unsafe { dense::multiply(isa, item.b, &low[start..start + size], panels.clone(), true, output, next) };
                }
                start += size;
            }
        }
    });
}

/// What the parts of a phase cost, in cycles, to share them out evenly: reading weights from memory, or multiplying, whichever is more.
struct Costs {
    /// Of all low-rank products together.
    low: f64,
    /// Of one panel of the products.
    panel: f64,
    all: f64,
}

/// Bytes that a core reads a cycle.
const BYTES: f64 = 6.0;
/// Cycles for a block's products with one token, sixteen rows at once.
const BLOCK_CYCLES: f64 = 12.0;

impl Costs {
    fn new(down: &Down<'_>, phase: &Phase<'_>) -> Self {
        let low = down.units().map(|unit| unit.cost()).sum();
        let (bytes, blocks) = phase.parts().next().map_or((0, 0), |(w, _)| (w.panel_bytes(), w.blocks()));
        let panel = (bytes as f64 / BYTES).max(blocks as f64 * phase.x.tokens() as f64 * BLOCK_CYCLES);
        let panels: usize = phase.parts().map(|(w, _)| w.panels()).sum();
        Self { low, panel, all: low + panel * panels as f64 }
    }

    fn window(&self, share: usize, shares: usize) -> Range<f64> {
        let edge = |share: usize| if share == shares { f64::INFINITY } else { self.all * share as f64 / shares as f64 };
        edge(share)..edge(share + 1)
    }
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
