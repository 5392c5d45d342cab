//! NEON with dot products (Armv8.2): a panel's rows in four quarters.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::{Activations, Ahead, BLOCK, BlockKind, Output, PANEL, PackedMatrix};

/// Rows of a register.
const QUARTER: usize = PANEL / 4;
/// Tokens that share one reading of the weights.
const TILE: usize = 4;

/// # Safety
/// As [`super::multiply`].
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn multiply(w: &PackedMatrix, x: &Activations, panels: Range<usize>, output: Output, ahead: Ahead) {
    for panel in panels {
        let mut token = 0;
        while token < x.tokens() {
            let tile = if x.tokens() - token >= TILE { TILE } else { 1 };
            for quarter in 0..w.rows_of(panel).div_ceil(QUARTER) {
                // SAFETY: as the caller promises; a tile ends within the tokens.
                unsafe {
                    if tile == TILE {
                        tile_of::<TILE>(w, x, panel, quarter, token, output, ahead);
                    } else {
                        tile_of::<1>(w, x, panel, quarter, token, output, ahead);
                    }
                }
            }
            token += tile;
        }
    }
}

/// `sum` plus the products of four columns of four rows with the four columns of `x` that `LANE` says. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn dot<const LANE: usize>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone are read and written, and the caller has the instruction.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Four f16 in f32.
///
/// # Safety
/// 8 bytes can be read.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn four_halves(at: *const u8) -> float32x4_t {
    // SAFETY: as the caller promises; registers alone are written.
    unsafe {
        let halves = vld1_u8(at);
        let wide: float32x4_t;
        asm!("fcvtl {wide:v}.4s, {halves:v}.4h", wide = lateout(vreg) wide, halves = in(vreg) halves, options(pure, nomem, nostack, preserves_flags));
        wide
    }
}

/// Four rows of a panel.
///
/// # Safety
/// As [`super::multiply`], with `T` tokens from `token` on.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile_of<const T: usize>(
    w: &PackedMatrix,
    x: &Activations,
    index: usize,
    quarter: usize,
    token: usize,
    output: Output,
    ahead: Ahead,
) {
    // SAFETY: every pointer stays within the panel and within the activations of the tile's tokens.
    unsafe {
        let (panel, kind, blocks) = (w.panel(index), w.kind(), w.blocks());
        let bytes = kind.quant_bytes() * PANEL;
        let mut total = [vdupq_n_f32(0.0); T];
        let mut block = 0;
        while block < blocks {
            let mut sum = [vdupq_n_f32(0.0); T];
            for block in block..block + w.chunk {
                let quants = panel.quants.as_ptr().add(block * bytes);
                if token == 0 && quarter == 0 {
                    // with its part of the scales and minima
                    ahead.fetch(panel.quants.as_ptr().wrapping_add(block * (bytes + 64)), bytes / 64 + 1);
                }
                let load = |four: usize| vld1q_u8(quants.add(four * 64 + quarter * 16));
                let operands: [int8x16_t; 8] = if kind == BlockKind::Q8_0 {
                    // stored plus 128
                    std::array::from_fn(|four| vreinterpretq_s8_u8(veorq_u8(load(four), vdupq_n_u8(0x80))))
                } else {
                    std::array::from_fn(|four| {
                        let both = load(four % 4);
                        vreinterpretq_s8_u8(if four < 4 { vandq_u8(both, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(both) })
                    })
                };
                let at = (block * PANEL + quarter * QUARTER) * 2;
                let scale = four_halves(panel.scales.as_ptr().add(at));
                for t in 0..T {
                    let place = (token + t) * blocks + block;
                    let quants = x.quants.as_ptr().add(place * BLOCK);
                    let (first, second) = (vld1q_s8(quants), vld1q_s8(quants.add(16)));
                    // Q8_0's are signed again, and need no offset
                    let start = if kind == BlockKind::Q4_0 { -8 * x.sums[place] } else { 0 };
                    // two chains, so that one need not wait for itself
                    let (even, odd) = (vdupq_n_s32(start), vdupq_n_s32(0));
                    let (even, odd) = (dot::<0>(even, operands[0], first), dot::<1>(odd, operands[1], first));
                    let (even, odd) = (dot::<2>(even, operands[2], first), dot::<3>(odd, operands[3], first));
                    let (even, odd) = (dot::<0>(even, operands[4], second), dot::<1>(odd, operands[5], second));
                    let (even, odd) = (dot::<2>(even, operands[6], second), dot::<3>(odd, operands[7], second));
                    let dot = vcvtq_f32_s32(vaddq_s32(even, odd));
                    sum[t] = vfmaq_f32(sum[t], dot, vmulq_f32(scale, vdupq_n_f32(x.scales[place])));
                    if kind.has_min() {
                        let min = four_halves(panel.minima.as_ptr().add(at));
                        sum[t] = vfmaq_f32(sum[t], min, vdupq_n_f32(x.weighted[place]));
                    }
                }
            }
            if output.apart > 0 {
                store(w, index, quarter, token, output.of_chunk(block / w.chunk), &sum);
            }
            block += w.chunk;
            for t in 0..T {
                total[t] = vaddq_f32(total[t], sum[t]);
            }
        }
        if output.apart == 0 {
            store(w, index, quarter, token, output, &total);
        }
    }
}

/// # Safety
/// As [`super::multiply`]; the tile's tokens are there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store(w: &PackedMatrix, index: usize, quarter: usize, token: usize, output: Output, values: &[float32x4_t]) {
    let rows = w.rows_of(index).saturating_sub(quarter * QUARTER).min(QUARTER);
    for (t, value) in values.iter().enumerate() {
        let mut lanes = [0.0_f32; QUARTER];
        // SAFETY: only the rows that are there are written.
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), *value);
            let target = output.start.add((token + t) * output.rows + index * PANEL + quarter * QUARTER);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), target, rows);
        }
    }
}
