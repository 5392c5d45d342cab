//! Low-rank products of many adapters at once (LoRA, Hu et al. 2021; grouped as in Punica, Chen et
//! al. 2023): each run of rows has its own adapter.

use std::ops::Range;

use super::activations::fold_isa;
use super::isa::{BLOCK, Isa, PANEL};
use super::lora_matrix::LoraMatrix;
use super::lora_shares::{Costs, Turns, cost, window};
use super::low_rank::LowRank;
use super::output::{AHEAD, Output, prefetch};
use super::products::{PRODUCTS, Phase, Product};
use super::rounding::{Target, View};
use super::{Activations, Rounding, ThreadPool};
use crate::kernels::lora_matrix::low_width;

/// The low-rank activations of a phase; the buffer is reused.
#[derive(Debug, Default)]
pub struct LoraActivations {
    /// Of each item [`LowRank::low_len`], one after the other.
    pub values: Vec<f32>,
    rounded: Activations,
}

impl LoraActivations {
    /// Resizes for the low-rank activations of `items`; returns where they go when they are
    /// rounded.
    fn hold(&mut self, items: &[LowRank<'_>]) -> (&mut [f32], Target) {
        let size = low_size(items);
        if self.values.len() < size {
            self.values.resize(size, 0.0);
        }
        let rows = items.iter().map(|item| item.rows).sum();
        let widest =
            items.iter().filter(|item| item.b.is_rounded()).map(|item| low_width(item.b)).max();
        let target = self.rounded.target(rows, widest.unwrap_or(0), Rounding::Twice);
        (&mut self.values[..size], target)
    }
}

/// Rows of a run per unit of work.
const ROWS: usize = 16;

/// The products of every item with its `a`, distributed over threads.
struct Down<'a> {
    isa: Isa,
    items: &'a [LowRank<'a>],
    x: &'a [f32],
    /// The same, rounded.
    quants: View,
    /// The low-rank activations of each item, one after the other; per chunk for partial sums.
    low: Output,
    /// The rounded ones, unless other ranks add to them first.
    rounded: Option<Target>,
}

/// Numbers of the low-rank products of `items`.
fn low_size(items: &[LowRank<'_>]) -> usize {
    items.iter().map(LowRank::low_len).sum()
}

impl<'a> Down<'a> {
    /// # Panics
    /// When the shapes do not fit.
    fn new(
        isa: Isa,
        items: &'a [LowRank<'a>],
        x: &'a [f32],
        quants: &Activations,
        low: &mut [f32],
        rounded: Option<Target>,
    ) -> Self {
        let (size, partial) = (low_size(items), rounded.is_none());
        let tokens = items.first().map_or(0, |item| x.len() / item.a.columns());
        let twice = tokens > 0 && quants.tokens() == 2 * tokens;
        for item in items {
            assert_eq!(x.len(), tokens * item.a.columns(), "columns of the batch");
            assert!(item.row + item.rows <= tokens, "rows of the batch");
            assert_eq!(item.a.rows(), item.b.columns(), "the rank");
            assert!(
                low.len() >= if partial { item.a.chunks() * size } else { size },
                "room for what is low"
            );
            let fit = quants.columns() == item.a.columns() && (twice || quants.tokens() == tokens);
            assert!(fit || !item.a.is_rounded(), "what a rounded adapter reads is rounded too");
        }
        let low = Output {
            start: low.as_mut_ptr(),
            rows: 0,
            chunk_stride: if partial { size } else { 0 },
        };
        Self { isa, items, x, quants: quants.view(if twice { 2 } else { 1 }), low, rounded }
    }

    /// The units of a thread, in order.
    fn units(&self) -> impl Iterator<Item = Unit<'a>> + '_ {
        let (mut start, mut start_row) = (0, 0);
        self.items.iter().flat_map(move |item| {
            let (low, row) = (start, start_row);
            start += item.low_len();
            start_row += item.rows;
            (0..item.rows).step_by(ROWS).map(move |first| Unit {
                item,
                first,
                rows: (item.rows - first).min(ROWS),
                low: low + first * low_width(item.b),
                row: row + first,
            })
        })
    }

    /// Every `threads`-th unit.
    ///
    /// # Safety
    /// `low` is still there, and each thread of the threads calls this once with its own number.
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
        let (mut at, mut last) = (0.0, None);
        for unit in self.units() {
            let cost = unit.cost();
            if window.contains(&(at + cost / 2.0))
                && let Some(last) = last.replace(unit)
            {
                // SAFETY: as the caller promises.
                unsafe { self.one(&last, unit.item.a.start(0)) };
            }
            at += cost;
        }
        if let Some(last) = last {
            // SAFETY: as the caller promises.
            unsafe { self.one(&last, then) };
        }
    }

    /// # Safety
    /// `low` is alive, and no other thread does this unit.
    unsafe fn one(&self, unit: &Unit<'_>, next: *const u8) {
        let Unit { item, first, rows, low, row } = *unit;
        let (rank, columns, width) = (item.a.rows(), item.a.columns(), low_width(item.b));
        let x = &self.x[(item.row + first) * columns..(item.row + first + rows) * columns];
        // SAFETY: each unit has its own part of `low`, which holds all of them, and of what is
        // rounded.
        unsafe {
            let output = Output { start: self.low.start.add(low), rows: width, ..self.low };
            let quants =
                if item.a.is_rounded() { self.quants.from(item.row + first) } else { self.quants };
            item.a.multiply(self.isa, x, quants, 0..item.a.panels(), false, output, next);
            let chunks = if output.chunk_stride > 0 { item.a.chunks() } else { 1 };
            for at in (0..chunks).flat_map(|chunk| (0..rows).map(move |row| (chunk, row * width))) {
                let values =
                    std::slice::from_raw_parts_mut(output.of_chunk(at.0).start.add(at.1), width);
                // padding of the last block
                values[rank..].fill(0.0);
                // partial sums are scaled after the reduction
                if output.chunk_stride == 0 {
                    values.iter_mut().for_each(|value| *value *= item.scale);
                }
            }
            if let Some(target) = self.rounded.filter(|_| item.b.is_rounded()) {
                (0..rows).for_each(|at| {
                    target.fill(self.isa, row + at, output.start.add(at * width), width / BLOCK)
                });
            }
        }
    }

    /// The low-rank activations, to be read when all units are done.
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
    /// The destination of its products.
    low: usize,
    /// Its first row among those of all items.
    row: usize,
}

impl Unit<'_> {
    fn cost(&self) -> f64 {
        cost(self.item.a, self.item.a.panels(), self.rows)
    }
}

/// Adds every item's `low`, or `rounded`, times its `b` to its output, `[batch, out]` from
/// `targets` on.
///
/// # Panics
/// When shapes do not fit.
fn up(
    threads: &ThreadPool,
    isa: Isa,
    items: &[LowRank<'_>],
    low: &[f32],
    rounded: View,
    targets: &[(Output, usize)],
) {
    for item in items {
        assert!(
            (item.row + item.rows) * item.b.rows() <= targets[item.output].1,
            "rows of the batch"
        );
    }
    threads.run(|thread, threads| {
        let (mut start, mut row) = (0, 0);
        for item in items {
            let out = item.b.rows();
            let panels = item.b.panels();
            let range = panels * thread / threads..panels * (thread + 1) / threads;
            // SAFETY: threads take different panels, runs different rows; sizes were checked.
            unsafe {
                let output = Output {
                    start: targets[item.output].0.start.add(item.row * out),
                    rows: out,
                    chunk_stride: 0,
                };
                let low = &low[start..start + item.low_len()];
                item.b.multiply(isa, low, rounded.from(row), range, true, output, std::ptr::null());
            }
            start += item.low_len();
            row += item.rows;
        }
    });
}

/// `outputs[o][rows] += scale · (x · aᵀ) · bᵀ` for each item. `x` is `[batch, in]`, `quants` the
/// same, rounded, for items that are; `low` is kept for the next call.
///
/// # Panics
/// When shapes do not fit.
pub fn low_rank(
    threads: &ThreadPool,
    isa: Isa,
    items: &[LowRank<'_>],
    x: &[f32],
    quants: &Activations,
    low: &mut LoraActivations,
    outputs: &mut [&mut [f32]],
) {
    if items.is_empty() {
        return;
    }
    let (values, target) = low.hold(items);
    let down = Down::new(isa, items, x, quants, values, Some(target));
    // SAFETY: `low` is borrowed until all are done.
    threads.run(|thread, threads| unsafe { down.work(thread, threads) });
    up(threads, isa, items, values, target.view(), &outputs_of(outputs));
}

/// The products of every item with its `a`, each chunk's on its own and not scaled: `low[chunks,
/// ...]`, all items' one after the other.
///
/// # Panics
/// When shapes do not fit.
pub fn low_rank_partial(
    threads: &ThreadPool,
    isa: Isa,
    items: &[LowRank<'_>],
    x: &[f32],
    quants: &Activations,
    low: &mut [f32],
) {
    let down = Down::new(isa, items, x, quants, low, None);
    // SAFETY: `low` is borrowed until all are done.
    threads.run(|thread, threads| unsafe { down.work(thread, threads) });
}

/// `outputs[o][rows] += low · bᵀ` for each item, `low` scaled already.
///
/// # Panics
/// When shapes do not fit.
pub fn add_low(
    threads: &ThreadPool,
    isa: Isa,
    items: &[LowRank<'_>],
    low: &mut LoraActivations,
    outputs: &mut [&mut [f32]],
) {
    assert!(low.values.len() >= low_size(items), "what is low");
    items.iter().for_each(|item| assert_eq!(item.a.rows(), item.b.columns(), "the rank"));
    let (values, target) = low.hold(items);
    let (mut start, mut row) = (0, 0);
    for item in items {
        let (end, width) = (start + item.low_len(), low_width(item.b));
        if item.b.is_rounded() {
            for (at, values) in values[start..end].chunks_exact(width).enumerate() {
                // SAFETY: the row is among those that `hold` has made room for, and `isa` was
                // detected.
                unsafe { target.fill(isa, row + at, values.as_ptr(), width / BLOCK) };
            }
        }
        (start, row) = (end, row + item.rows);
    }
    up(threads, isa, items, values, target.view(), &outputs_of(outputs));
}

fn outputs_of(outputs: &mut [&mut [f32]]) -> [(Output, usize); PRODUCTS] {
    let mut targets =
        [(Output { start: std::ptr::null_mut(), rows: 0, chunk_stride: 0 }, 0); PRODUCTS];
    for (target, output) in targets[..outputs.len()].iter_mut().zip(outputs) {
        *target = (Output { start: output.as_mut_ptr(), rows: 0, chunk_stride: 0 }, output.len());
    }
    targets
}

/// [`matmul`](super::matmul) and [`low_rank`] over its outputs in one go. `quants` is `x`, rounded;
/// where it was rounded [twice](Rounding::Twice) the outputs have two rows a token, of which one is
/// left.
///
/// Each thread adds the low-rank part to the outputs that it computed itself. It needs all low-rank
/// activations, but these are computed first: by the time they are read, the other threads have
/// long finished their part, so that no thread waits.
///
/// # Panics
/// When shapes do not fit.
pub fn matmul_low_rank(
    threads: &ThreadPool,
    isa: Isa,
    products: &mut [Product<'_>],
    quants: &Activations,
    items: &[LowRank<'_>],
    x: &[f32],
    low: &mut LoraActivations,
) {
    let tokens = x.len() / quants.columns();
    let twice = quants.tokens() == 2 * tokens;
    for item in items {
        assert_eq!(item.b.rows(), products[item.output].w.rows(), "rows of the output");
    }
    let (low, rounded) = low.hold(items);
    let down = Down::new(isa, items, x, quants, low, Some(rounded));
    let phase = Phase::new(isa, products, quants, false);
    let costs = Costs::new(&phase, items);
    let low_cost: f64 = down.units().map(|unit| unit.cost()).sum();
    let turns = Turns::default();
    threads.run(|share, shares| {
        let panels = || phase.within(costs.window(share, shares), costs.each);
        let first = panels()
            .find(|(.., range)| !range.is_empty())
            .map_or(std::ptr::null(), |(w, _, range)| w.start(range.start));
        while let Some(turn) = turns.take(shares) {
            // SAFETY: `low` is borrowed until all are done, and turns differ in what they write.
            unsafe { down.work_within(window(low_cost, turn.number, shares), first) };
        }
        // prefetched for this thread's part
        let mut pieces = Pieces::new(panels().map(|(.., range)| range), items);
        pieces.prefetch(AHEAD);
        // SAFETY: `products` is borrowed until all are done, and shares have different panels.
        unsafe { phase.multiply_all(panels(), std::ptr::null()) };
        turns.wait(shares);
        let low = down.low_again();
        for (index, (w, output, panels)) in panels().enumerate() {
            if twice {
                let columns = panels.start * PANEL..(panels.end * PANEL).min(w.rows());
                // SAFETY: the outputs hold two rows a token, and shares have different columns.
                unsafe { fold_isa(isa, output.start, w.rows(), tokens, columns) };
            }
            let (mut start, mut row) = (0, 0);
            for item in items {
                let low = &low[start..start + item.low_len()];
                start += low.len();
                row += item.rows;
                if item.output != index {
                    continue;
                }
                let output = Output {
                    start: output.start.wrapping_add(item.row * w.rows()),
                    rows: w.rows(),
                    chunk_stride: 0,
                };
                for panels in few(item.b, panels.clone()) {
                    pieces.prefetch(panels.len() * item.b.panel_bytes());
                    // SAFETY: shares take different panels, runs different rows; sizes were
                    // checked.
                    unsafe {
                        let rounded = rounded.view().from(row - item.rows);
                        item.b.multiply(isa, low, rounded, panels, true, output, std::ptr::null());
                    }
                }
            }
        }
    });
}

/// What one share reads of the items' `b`, in order: pieces too short for each to fetch what comes
/// [`AHEAD`] of it.
struct Pieces<'a> {
    ranges: [Range<usize>; PRODUCTS],
    items: &'a [LowRank<'a>],
    /// The output and the item whose piece is under way.
    at: (usize, usize),
    piece: Range<*const u8>,
}

impl<'a> Pieces<'a> {
    fn new(ranges: impl Iterator<Item = Range<usize>>, items: &'a [LowRank<'a>]) -> Self {
        let mut all = [const { 0..0 }; PRODUCTS];
        all.iter_mut().zip(ranges).for_each(|(into, range)| *into = range);
        Self { ranges: all, items, at: (0, 0), piece: std::ptr::null()..std::ptr::null() }
    }

    /// Begins to fetch the next so many bytes.
    fn prefetch(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let left = self.piece.end as usize - self.piece.start as usize;
            if left == 0 {
                let Some(piece) = self.next() else { return };
                self.piece = piece;
                continue;
            }
            let now = left.min(bytes);
            prefetch(self.piece.start, now.div_ceil(LINE));
            self.piece.start = self.piece.start.wrapping_add(now);
            bytes -= now;
        }
    }

    fn next(&mut self) -> Option<Range<*const u8>> {
        loop {
            let (output, item) = self.at;
            let range = self.ranges.get(output)?;
            let Some(found) = self.items.get(item) else {
                self.at = (output + 1, 0);
                continue;
            };
            self.at = (output, item + 1);
            if found.output == output && !range.is_empty() {
                return Some(found.b.start(range.start)..found.b.start(range.end));
            }
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes of a piece that is fetched at once.
const PIECE: usize = 2048;

/// Some panels at a time, of about [`PIECE`] bytes.
fn few(b: &LoraMatrix, panels: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let (step, end) = ((PIECE / b.panel_bytes()).max(1), panels.end);
    panels.step_by(step).map(move |start| start..end.min(start + step))
}

/// A shard's part of a product and of the low-rank products beside it, each chunk's sums on their
/// own: `product.y` is `[chunks, tokens, rows]`, `low` as [`low_rank_partial`] has it.
///
/// # Panics
/// When shapes do not fit.
pub fn matmul_partial(
    threads: &ThreadPool,
    isa: Isa,
    product: Product<'_>,
    quants: &Activations,
    items: &[LowRank<'_>],
    x: &[f32],
    low: &mut [f32],
) {
    let mut products = [product];
    let down = Down::new(isa, items, x, quants, low, None);
    let phase = Phase::new(isa, &mut products, quants, true);
    // SAFETY: `low` and `products` are borrowed until all are done.
    threads.run(|thread, threads| unsafe {
        down.work(thread, threads);
        phase.work(thread, threads);
    });
}
