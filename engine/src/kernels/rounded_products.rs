//! Products of int8 activations with [`RoundedMatrix`].

use std::ops::Range;

use super::dense::put;
use super::isa::{BLOCK, Isa};
use super::lanes::{LANES, Lanes, for_isa};
use super::output::{Output, Prefetch};
use super::rounded::{GROUP, RoundedMatrix, group_bytes};
use super::rounding::View;

/// The products of a range of panels with all tokens.
struct Part {
    columns: usize,
    rows: usize,
    chunks: usize,
    stride: usize,
    start: *const u8,
    x: View,
    tokens: usize,
    panels: Range<usize>,
    add: bool,
    output: Output,
    ahead: Prefetch,
}

/// `output[tokens, rows] = x · wᵀ` for `panels`, or `+=` if `add`. With two rows per token (see
/// [`Rounding::Twice`](super::Rounding::Twice)), the products of both are added.
///
/// # Safety
/// `x` has the tokens, with columns padded to whole blocks; otherwise the requirements of
/// [`super::dense::multiply`].
pub(super) unsafe fn multiply(
    isa: Isa,
    w: &RoundedMatrix,
    x: View,
    tokens: usize,
    panels: Range<usize>,
    add: bool,
    output: Output,
    next: *const u8,
) {
    let ahead = Prefetch { end: w.start(panels.end), next };
    let (start, stride) = (w.start(0), w.panel_bytes());
    let part = Part {
        columns: w.columns(),
        rows: w.rows(),
        chunks: w.chunks(),
        stride,
        start,
        x,
        tokens,
        panels,
        add,
        output,
        ahead,
    };
    // SAFETY: as the caller guarantees; the panels are within the weight.
    unsafe { rounded_isa(isa, part) }
}

for_isa! { unsafe fn rounded_isa(part: Part) = body }

/// Calls `$tile` for tiles of at most as many rows as registers hold, until no row is left. Two
/// rows of the same token are always in one tile: the number of rows is then even, as are tile
/// sizes above 1.
macro_rules! rows {
    ($rows:expr, |$row:ident| $tile:ident($($given:expr),*)) => {
        let mut $row = 0;
        while $row < $rows {
            $row += match $rows - $row {
                8.. if V::WIDE => $tile::<V, 8>($($given),*),
                4.. => $tile::<V, 4>($($given),*),
                2 | 3 => $tile::<V, 2>($($given),*),
                _ => $tile::<V, 1>($($given),*),
            };
        }
    };
}

#[inline(always)]
unsafe fn body<V: Lanes>(part: Part) {
    let rows = part.tokens * part.x.rows;
    // SAFETY: as `multiply` requires; a tile ends within the rows.
    unsafe {
        if part.columns <= GROUP {
            rows!(rows, |row| narrow(&part, row));
            return;
        }
        for panel in part.panels.clone() {
            rows!(rows, |row| tile(&part, panel, row));
        }
    }
}

/// A tile of `R` rows of `x`, for a matrix with one group per panel; returns `R`. Scales and sums
/// of the rows are read once for all panels.
#[inline(always)]
unsafe fn narrow<V: Lanes, const R: usize>(part: &Part, row: usize) -> usize {
    let x = part.x;
    // SAFETY: as `tile`.
    unsafe {
        let bytes = group_bytes(part.columns);
        let (mut starts, mut scales, mut quants) =
            ([V::start(0); R], [V::splat(0.0); R], [x.quants; R]);
        for r in 0..R {
            let place = (row + r) * x.stride;
            starts[r] = V::start(*x.sums.add(place));
            scales[r] = V::splat(*x.scales.add(place));
            quants[r] = x.quants.add(place * BLOCK);
        }
        let mut group = part.start.wrapping_add(part.panels.start * bytes);
        for panel in part.panels.clone() {
            if row == 0 {
                part.ahead.prefetch(group, const { group_bytes(GROUP).div_ceil(64) });
            }
            let mut dots = starts;
            if bytes == const { group_bytes(GROUP) } {
                fours::<V, R, { GROUP / 4 }>(group, &quants, &mut dots);
            } else {
                for four in 0..part.columns.div_ceil(4) {
                    let mut moved = quants;
                    moved.iter_mut().for_each(|quants| *quants = quants.add(4 * four));
                    fours::<V, R, 1>(group.add(four * 4 * LANES), &moved, &mut dots);
                }
            }
            let scale = V::load_bf16(group.add(bytes - 2 * LANES).cast());
            let mut values = [V::splat(0.0); R];
            for r in 0..R {
                values[r] = V::from_whole(dots[r]).mul(scale.mul(scales[r]));
            }
            let output =
                if part.output.chunk_stride > 0 { part.output.of_chunk(0) } else { part.output };
            write(&values, part, output, panel, row, part.add && part.output.chunk_stride == 0);
            group = group.wrapping_add(bytes);
        }
    }
    R
}

/// Adds the products of `4 · F` columns to `dots`.
///
/// # Safety
/// `group` and `quants` have these columns, and the processor supports `V`.
#[inline(always)]
unsafe fn fours<V: Lanes, const R: usize, const F: usize>(
    group: *const u8,
    quants: &[*const i8; R],
    dots: &mut [V::Whole; R],
) {
    for four in 0..F {
        // SAFETY: as the caller guarantees.
        unsafe {
            let w = V::load_fours(group.add(four * 4 * LANES));
            for r in 0..R {
                dots[r] = V::dot(dots[r], w, quants[r].add(4 * four));
            }
        }
    }
}

/// Adds the scaled products of one group to `sums`.
///
/// # Safety
/// `at` points to a group of `width` columns that starts at `column`, and `x` has the rows.
#[inline(always)]
unsafe fn group<V: Lanes, const R: usize>(
    at: *const u8,
    width: usize,
    column: usize,
    x: View,
    row: usize,
    sums: &mut [V; R],
) {
    let (block, second) = (column / BLOCK, column % BLOCK >= GROUP);
    // SAFETY: as the caller guarantees.
    unsafe {
        let (mut dots, mut quants) = ([V::start(0); R], [x.quants; R]);
        for r in 0..R {
            let place = (row + r) * x.stride + block;
            let first = *x.first.add(place);
            dots[r] = V::start(if second { *x.sums.add(place) - first } else { first });
            quants[r] = x.quants.add(place * BLOCK + if second { GROUP } else { 0 });
        }
        if width == GROUP {
            fours::<V, R, { GROUP / 4 }>(at, &quants, &mut dots);
        } else {
            for four in 0..width.div_ceil(4) {
                let mut moved = quants;
                moved.iter_mut().for_each(|quants| *quants = quants.add(4 * four));
                fours::<V, R, 1>(at.add(four * 4 * LANES), &moved, &mut dots);
            }
        }
        let scale = V::load_bf16(at.add(group_bytes(width) - 2 * LANES).cast());
        for r in 0..R {
            let scale = scale.mul(V::splat(*x.scales.add((row + r) * x.stride + block)));
            sums[r] = V::from_whole(dots[r]).mul_add(scale, sums[r]);
        }
    }
}

/// A tile of `R` rows of `x`; returns `R`. Products of a group are exact in i32, so that the result
/// does not depend on `R`.
#[inline(always)]
unsafe fn tile<V: Lanes, const R: usize>(part: &Part, panel: usize, row: usize) -> usize {
    const WHOLE: usize = group_bytes(GROUP);
    // SAFETY: as `multiply` requires.
    unsafe {
        let mut at = part.start.wrapping_add(panel * part.stride);
        let width = part.columns / part.chunks;
        let mut total = [V::splat(0.0); R];
        let mut column = 0;
        for chunk in 0..part.chunks {
            let end = column + width;
            let mut sums = [V::splat(0.0); R];
            while column + BLOCK <= end {
                if row == 0 {
                    part.ahead.prefetch(at, const { 2 * WHOLE / 64 });
                }
                group(at, GROUP, column, part.x, row, &mut sums);
                group(at.add(WHOLE), GROUP, column + GROUP, part.x, row, &mut sums);
                at = at.add(2 * WHOLE);
                column += BLOCK;
            }
            while column < end {
                let width = GROUP.min(end - column);
                group(at, width, column, part.x, row, &mut sums);
                at = at.add(group_bytes(width));
                column += width;
            }
            if part.output.chunk_stride > 0 {
                write(&sums, part, part.output.of_chunk(chunk), panel, row, false);
            }
            for r in 0..R {
                total[r] = total[r].add(sums[r]);
            }
        }
        if part.output.chunk_stride == 0 {
            write(&total, part, part.output, panel, row, part.add);
        }
    }
    R
}

/// Writes a panel's values for each token, the sum of its two rows if it has two.
#[inline(always)]
unsafe fn write<V: Lanes, const R: usize>(
    values: &[V; R],
    part: &Part,
    output: Output,
    panel: usize,
    row: usize,
    add: bool,
) {
    let lanes = (part.rows - panel * LANES).min(LANES);
    // SAFETY: as `multiply` requires; lanes of missing rows are not written.
    unsafe {
        if part.x.rows == 2 {
            for pair in 0..R / 2 {
                put(
                    values[2 * pair].add(values[2 * pair + 1]),
                    output,
                    panel,
                    row / 2 + pair,
                    lanes,
                    add,
                );
            }
        } else {
            for r in 0..R {
                put(values[r], output, panel, row + r, lanes, add);
            }
        }
    }
}
