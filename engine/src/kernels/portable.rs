//! Scalar products, for processors without a vector path and as the reference in tests.

use std::ops::Range;

use super::blocks::{Kind, for_kind};
use super::isa::{BLOCK, PANEL};
use super::output::Output;
use super::{Activations, PackedMatrix};

/// Tokens for which a block is unpacked once.
const TILE: usize = 8;

/// # Safety
/// Same requirements as [`super::products::multiply`].
pub(super) unsafe fn multiply(
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    output: Output,
) {
    for index in panels {
        for lane in 0..w.rows_of(index) {
            for token in (0..x.tokens()).step_by(TILE) {
                let tokens = token..x.tokens().min(token + TILE);
                // SAFETY: as the caller guarantees.
                for_kind!(w.kind(), K => unsafe { row_of::<K>(w, x, index, lane, tokens, output) });
            }
        }
    }
}

/// Products of one weight row with a range of tokens.
///
/// # Safety
/// Same requirements as [`super::products::multiply`], with a weight of kind `K` that has the row,
/// and at most [`TILE`] tokens.
unsafe fn row_of<K: Kind>(
    w: &PackedMatrix,
    x: &Activations,
    index: usize,
    lane: usize,
    tokens: Range<usize>,
    output: Output,
) {
    let (panel, blocks) = (w.panel(index), w.blocks());
    let (mut total, mut sums) = ([0.0_f32; TILE], [0.0_f32; TILE]);
    let at = |token: usize| token * output.rows + index * PANEL + lane;
    for block in 0..blocks {
        let quants = panel.quants_of(K::KIND, block, lane);
        let scales = panel.scales(K::KIND, block, lane);
        let min = panel.min(K::KIND, block, lane);
        for (token, sum) in tokens.clone().zip(&mut sums) {
            let place = token * blocks + block;
            let x_quants = &x.quants[place * BLOCK..(place + 1) * BLOCK];
            let dot = |columns: Range<usize>, sum: i32| {
                let pairs = quants[columns.clone()].iter().zip(&x_quants[columns]);
                let start = if K::MIN { 0 } else { -K::OFFSET * sum };
                pairs.fold(start, |dot, (w, x)| dot + i32::from(*w) * i32::from(*x)) as f32
            };
            let scales = scales.map(|scale| scale * x.scales[place]);
            if K::HALVES {
                *sum = dot(0..BLOCK / 2, x.first[place]).mul_add(scales[0], *sum);
                *sum =
                    dot(BLOCK / 2..BLOCK, x.sums[place] - x.first[place]).mul_add(scales[1], *sum);
            } else {
                *sum = dot(0..BLOCK, x.sums[place]).mul_add(scales[0], *sum);
            }
            if K::MIN {
                *sum = min.mul_add(x.weighted[place], *sum);
            }
        }
        if (block + 1).is_multiple_of(w.chunk) {
            for ((token, sum), total) in tokens.clone().zip(&mut sums).zip(&mut total) {
                if output.chunk_stride > 0 {
                    // SAFETY: as below; partial outputs have capacity for every chunk.
                    unsafe { *output.of_chunk(block / w.chunk).start.add(at(token)) = *sum };
                }
                *total += *sum;
                *sum = 0.0;
            }
        }
    }
    if output.chunk_stride == 0 {
        for (token, total) in tokens.zip(total) {
            // SAFETY: the output has capacity for every row of every token.
            unsafe { *output.start.add(at(token)) = total };
        }
    }
}
