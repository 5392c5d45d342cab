//! Low-rank products of many adapters in one batch (LoRA, Hu et al. 2021; grouped as in Punica,
//! Chen et al. 2023): each run of rows has its own adapter.

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

/// The low-rank activations `x · aᵀ` of a phase. Buffers are reused between calls.
#[derive(Debug, Default)]
pub struct LoraActivations {
    /// The activations of all items, concatenated; each item has [`LowRank::low_len`] elements.
    pub values: Vec<f32>,
    rounded: Activations,
}

impl LoraActivations {
    /// Resizes for the low-rank activations of `items`; returns the f32 buffer and the destination
    /// of the int8 values.
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

/// Maximum number of rows of a run per unit of work.
const ROWS: usize = 16;

/// The down projections `x · aᵀ` of all items, distributed over threads.
struct Down<'a> {
    isa: Isa,
    items: &'a [LowRank<'a>],
    x: &'a [f32],
    /// `x` in int8.
    quants: View,
    /// The low-rank activations of all items, concatenated; per chunk for partial sums.
    low: Output,
    /// Destination of the int8 low-rank activations; `None` for partial sums, which are quantised
    /// after the all-reduce.
    rounded: Option<Target>,
}

/// Number of elements of the low-rank activations of `items`.
fn low_size(items: &[LowRank<'_>]) -> usize {
    items.iter().map(LowRank::low_len).sum()
}

impl<'a> Down<'a> {
    /// # Panics
    /// When the shapes do not match.
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
                "capacity for the low-rank activations"
            );
            let fit = quants.columns() == item.a.columns() && (twice || quants.tokens() == tokens);
            assert!(fit || !item.a.is_rounded(), "int8 activations for an int8 adapter");
        }
        let low = Output {
            start: low.as_mut_ptr(),
            rows: 0,
            chunk_stride: if partial { size } else { 0 },
        };
        Self { isa, items, x, quants: quants.view(if twice { 2 } else { 1 }), low, rounded }
    }

    /// All units of work, in order.
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

    /// Computes every `threads`-th unit, starting with number `thread`.
    ///
    /// # Safety
    /// `low` is still borrowed, and each of the `threads` threads calls this once with its own
    /// number.
    unsafe fn work(&self, thread: usize, threads: usize) {
        for unit in self.units().skip(thread).step_by(threads) {
            // SAFETY: as the caller guarantees.
            unsafe { self.one(&unit, std::ptr::null()) };
        }
    }

    /// Computes the units whose midpoint lies within `window` on the cost axis, where each unit is
    /// as long as its cost. `then` is the address read after them (or null), for prefetching.
    ///
    /// # Safety
    /// `low` is still borrowed, and windows of different threads do not overlap.
    unsafe fn work_within(&self, window: Range<f64>, then: *const u8) {
        let (mut at, mut last) = (0.0, None);
        for unit in self.units() {
            let cost = unit.cost();
            if window.contains(&(at + cost / 2.0))
                && let Some(last) = last.replace(unit)
            {
                // SAFETY: as the caller guarantees.
                unsafe { self.one(&last, unit.item.a.start(0)) };
            }
            at += cost;
        }
        if let Some(last) = last {
            // SAFETY: as the caller guarantees.
            unsafe { self.one(&last, then) };
        }
    }

    /// Computes one unit: the product with `a`, scaling, and quantisation if `b` is in int8.
    ///
    /// # Safety
    /// `low` is still borrowed, and no other thread computes this unit.
    unsafe fn one(&self, unit: &Unit<'_>, next: *const u8) {
        let Unit { item, first, rows, low, row } = *unit;
        let (rank, columns, width) = (item.a.rows(), item.a.columns(), low_width(item.b));
        let x = &self.x[(item.row + first) * columns..(item.row + first + rows) * columns];
        // SAFETY: each unit writes its own part of `low` and of the int8 buffer, which have
        // capacity for all units.
        unsafe {
            let output = Output { start: self.low.start.add(low), rows: width, ..self.low };
            let quants =
                if item.a.is_rounded() { self.quants.from(item.row + first) } else { self.quants };
            item.a.multiply(self.isa, x, quants, 0..item.a.panels(), false, output, next);
            let chunks = if output.chunk_stride > 0 { item.a.chunks() } else { 1 };
            for at in (0..chunks).flat_map(|chunk| (0..rows).map(move |row| (chunk, row * width))) {
                let values =
                    std::slice::from_raw_parts_mut(output.of_chunk(at.0).start.add(at.1), width);
                // zero the padding of the last block
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

    /// The low-rank activations, to be read after all units are done.
    fn low_again(&self) -> &'a [f32] {
        // SAFETY: `new` received a buffer of at least this size with lifetime `'a`, and it is read
        // after all writes.
        unsafe { std::slice::from_raw_parts(self.low.start, low_size(self.items)) }
    }
}

/// A unit of work: at most [`ROWS`] rows of an item.
#[derive(Clone, Copy)]
struct Unit<'a> {
    item: &'a LowRank<'a>,
    first: usize,
    rows: usize,
    /// Offset of its products in the low-rank activations, in elements.
    low: usize,
    /// Its first row among the concatenated rows of all items.
    row: usize,
}

impl Unit<'_> {
    fn cost(&self) -> f64 {
        cost(self.item.a, self.item.a.panels(), self.rows)
    }
}

/// The up projections: adds `low · bᵀ` of every item to its output in `targets`, `[batch, out]`.
/// `rounded` holds `low` in int8, for items with an int8 `b`.
///
/// # Panics
/// When the shapes do not match.
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
            // SAFETY: threads write different panels, runs different rows; sizes were checked.
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

/// `outputs[o][rows] += scale · (x · aᵀ) · bᵀ` for each item. `x` is `[batch, in]`; `quants` holds
/// `x` in int8, for items with an int8 `a`. `low` provides reusable buffers.
///
/// # Panics
/// When the shapes do not match.
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
    // SAFETY: `low` is borrowed until all threads are done.
    threads.run(|thread, threads| unsafe { down.work(thread, threads) });
    up(threads, isa, items, values, target.view(), &outputs_of(outputs));
}

/// The products `x · aᵀ` of all items with chunks kept separate and without the scale: `low` is
/// `[chunks, elements of all items]`.
///
/// # Panics
/// When the shapes do not match.
pub fn low_rank_partial(
    threads: &ThreadPool,
    isa: Isa,
    items: &[LowRank<'_>],
    x: &[f32],
    quants: &Activations,
    low: &mut [f32],
) {
    let down = Down::new(isa, items, x, quants, low, None);
    // SAFETY: `low` is borrowed until all threads are done.
    threads.run(|thread, threads| unsafe { down.work(thread, threads) });
}

/// `outputs[o][rows] += low · bᵀ` for each item; `low` is already scaled.
///
/// # Panics
/// When the shapes do not match.
pub fn add_low(
    threads: &ThreadPool,
    isa: Isa,
    items: &[LowRank<'_>],
    low: &mut LoraActivations,
    outputs: &mut [&mut [f32]],
) {
    assert!(low.values.len() >= low_size(items), "size of the low-rank activations");
    items.iter().for_each(|item| assert_eq!(item.a.rows(), item.b.columns(), "the rank"));
    let (values, target) = low.hold(items);
    let (mut start, mut row) = (0, 0);
    for item in items {
        let (end, width) = (start + item.low_len(), low_width(item.b));
        if item.b.is_rounded() {
            for (at, values) in values[start..end].chunks_exact(width).enumerate() {
                // SAFETY: `hold` has resized the buffer for all rows, and `isa` was detected.
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

/// [`matmul`](super::matmul) followed by [`low_rank`] into its outputs, in one parallel section.
/// `quants` holds `x` in int8. With [`Rounding::Twice`] each output must have capacity for two rows
/// per token, `[2 · tokens, rows]`; they are added up, and the first `[tokens, rows]` hold the
/// result.
///
/// Each thread adds the low-rank part to the outputs that it computed itself. For this it needs all
/// low-rank activations. These are computed first, and the base product takes much longer, so that
/// normally no thread waits.
///
/// # Panics
/// When the shapes do not match.
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
            // SAFETY: `low` is borrowed until all threads are done, and turns write different
            // units.
            unsafe { down.work_within(window(low_cost, turn.number, shares), first) };
        }
        // prefetch the start of the `b` panels that this share reads after the base product
        let mut pieces = Pieces::new(panels().map(|(.., range)| range), items);
        pieces.prefetch(AHEAD);
        // SAFETY: `products` is borrowed until all threads are done, and shares have different
        // panels.
        unsafe { phase.multiply_all(panels(), std::ptr::null()) };
        turns.wait(shares);
        let low = down.low_again();
        for (index, (w, output, panels)) in panels().enumerate() {
            if twice {
                let columns = panels.start * PANEL..(panels.end * PANEL).min(w.rows());
                // SAFETY: the outputs hold two rows per token, and shares have different columns.
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
                    // SAFETY: shares write different panels, runs different rows; sizes were
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

/// The pieces of the items' `b` that one share reads, in order. Each is too short to prefetch
/// within itself at a distance of [`AHEAD`], so that prefetching continues across pieces.
struct Pieces<'a> {
    ranges: [Range<usize>; PRODUCTS],
    items: &'a [LowRank<'a>],
    /// Indices of the output and of the item that the next piece is searched from.
    at: (usize, usize),
    piece: Range<*const u8>,
}

impl<'a> Pieces<'a> {
    fn new(ranges: impl Iterator<Item = Range<usize>>, items: &'a [LowRank<'a>]) -> Self {
        let mut all = [const { 0..0 }; PRODUCTS];
        all.iter_mut().zip(ranges).for_each(|(into, range)| *into = range);
        Self { ranges: all, items, at: (0, 0), piece: std::ptr::null()..std::ptr::null() }
    }

    /// Prefetches the next `bytes` bytes in reading order.
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
/// Bytes of panels multiplied between two prefetches.
const PIECE: usize = 2048;

/// Splits `panels` into ranges of about [`PIECE`] bytes, of at least one panel each.
fn few(b: &LoraMatrix, panels: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let (step, end) = ((PIECE / b.panel_bytes()).max(1), panels.end);
    panels.step_by(step).map(move |start| start..end.min(start + step))
}

/// A shard's part of a product and of the low-rank products `x · aᵀ` for the same weight, with
/// chunks kept separate: `product.y` is `[chunks, tokens, rows]`, `low` as in [`low_rank_partial`].
///
/// # Panics
/// When the shapes do not match.
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
    // SAFETY: `low` and `products` are borrowed until all threads are done.
    threads.run(|thread, threads| unsafe {
        down.work(thread, threads);
        phase.work(thread, threads);
    });
}
