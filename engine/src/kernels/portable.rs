//! The same without vector instructions: for other processors, and as what the others are tested against.

use std::ops::Range;

use half::f16;

use super::{Activations, BLOCK, Output, PANEL, PackedMatrix};

/// Below this a block is zero: its inverse would be infinite.
pub(super) const LEAST: f32 = 1e-30;

/// Rounds one block; its scale, and the sum of its quants. A block that holds what is not finite has no scale: NaN.
pub(super) fn quantise_block(x: &[f32], quants: &mut [i8]) -> (f32, i32) {
    let largest = x.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if !x.iter().all(|value| value.is_finite()) || largest < LEAST {
        return not_rounded(x, quants);
    }
    let inverse = 127.0 / largest;
    let mut sum = 0;
    for (quant, value) in quants.iter_mut().zip(x) {
        *quant = (value * inverse).round_ties_even() as i8;
        sum += i32::from(*quant);
    }
    (largest / 127.0, sum)
}

/// A block of zeros, or one that is no number.
#[cold]
pub(super) fn not_rounded(x: &[f32], quants: &mut [i8]) -> (f32, i32) {
    quants.fill(0);
    (if x.iter().all(|value| value.is_finite()) { 0.0 } else { f32::NAN }, 0)
}

/// # Safety
/// As [`super::multiply`].
pub(super) unsafe fn multiply(w: &PackedMatrix, x: &Activations, panels: Range<usize>, output: Output) {
    let (kind, blocks) = (w.kind(), w.blocks());
    for index in panels {
        let panel = w.panel(index);
        let number = |bytes: &[u8], at: usize| f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32();
        for token in 0..x.tokens() {
            for lane in 0..w.rows_of(index) {
                let (mut total, mut sum) = (0.0_f32, 0.0_f32);
                for block in 0..blocks {
                    let place = token * blocks + block;
                    let quants = &x.quants[place * BLOCK..(place + 1) * BLOCK];
                    let mut dot = -kind.offset() * x.sums[place];
                    for (column, quant) in quants.iter().enumerate() {
                        dot += panel.quant(kind, block, lane, column) * i32::from(*quant);
                    }
                    let scale = number(panel.scales, block * PANEL + lane) * x.scales[place];
                    sum = (dot as f32).mul_add(scale, sum);
                    if kind.has_min() {
                        sum = number(panel.minima, block * PANEL + lane).mul_add(x.weighted[place], sum);
                    }
                    if (block + 1).is_multiple_of(w.chunk) {
                        if output.apart > 0 {
                            // SAFETY: as below, for every chunk.
                            unsafe { *output.of_chunk(block / w.chunk).start.add(token * output.rows + index * PANEL + lane) = sum };
                        }
                        total += sum;
                        sum = 0.0;
                    }
                }
                if output.apart == 0 {
                    // SAFETY: the caller gave room for every row of every token.
                    unsafe { *output.start.add(token * output.rows + index * PANEL + lane) = total };
                }
            }
        }
    }
}
