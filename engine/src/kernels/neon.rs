//! Products with NEON and its dot-product extension (Armv8.2): a panel is processed in four
//! quarters of four rows.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::blocks::{Kind, for_kind};
use super::isa::{BLOCK, PANEL};
use super::neon_ops::{dot, four_halves};
use super::output::{Output, Prefetch};
use super::packed::{Panel, two_levels_at};
use super::{Activations, PackedMatrix};

/// Rows per register.
const QUARTER: usize = PANEL / 4;
/// Tokens per pass over the weights.
const TILE: usize = 4;

/// # Safety
/// Same requirements as [`super::products::multiply`].
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn multiply(
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    output: Output,
    ahead: Prefetch,
) {
    // SAFETY: as the caller guarantees.
    for_kind!(w.kind(), K => unsafe { multiply_kind::<K>(w, x, panels, output, ahead) });
}

/// # Safety
/// Same requirements as [`super::products::multiply`], with a weight of kind `K`.
#[target_feature(enable = "neon,dotprod")]
unsafe fn multiply_kind<K: Kind>(
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    output: Output,
    ahead: Prefetch,
) {
    for panel in panels {
        let mut token = 0;
        while token < x.tokens() {
            let tile = if x.tokens() - token >= TILE { TILE } else { 1 };
            for quarter in 0..w.rows_of(panel).div_ceil(QUARTER) {
                // SAFETY: as the caller guarantees; a tile ends within the tokens.
                unsafe {
                    if tile == TILE {
                        tile_of::<K, TILE>(w, x, panel, quarter, token, output, ahead);
                    } else {
                        tile_of::<K, 1>(w, x, panel, quarter, token, output, ahead);
                    }
                }
            }
            token += tile;
        }
    }
}

/// Unpacks a block's quants of four rows: one register per four columns, with four bytes per row.
/// 8-bit quants are converted to signed.
///
/// # Safety
/// The panel is of kind `K` and has the block.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn operands<K: Kind>(panel: &Panel<'_>, block: usize, quarter: usize) -> [int8x16_t; 8] {
    // SAFETY: within the block, as the caller guarantees.
    unsafe {
        let at = panel.quants.as_ptr().add(block * K::KIND.low_bytes() + quarter * 16);
        let load = |from: *const u8, four: usize| vld1q_u8(from.add(four * 64));
        if K::BITS == 8 {
            // stored with an offset of 128
            return std::array::from_fn(|four| {
                vreinterpretq_s8_u8(veorq_u8(load(at, four), vdupq_n_u8(0x80)))
            });
        }
        let further = panel.high.as_ptr().add(block * K::KIND.high_bytes() + quarter * 16);
        std::array::from_fn(|four| {
            let both = load(at, four % 4);
            let low = if four < 4 { vandq_u8(both, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(both) };
            // shift the high bits into place: left by `up` bits, or right if it is negative
            let join = |bits, up: i8, mask: u8| {
                vorrq_u8(low, vandq_u8(vshlq_u8(bits, vdupq_n_s8(up)), vdupq_n_u8(mask)))
            };
            vreinterpretq_s8_u8(match K::BITS {
                5 => join(load(further, 0), 4 - four as i8, 16),
                6 => join(load(further, four / 4), 4 - 2 * (four % 4) as i8, 0x30),
                _ => low,
            })
        })
    }
}

/// Loads the scales or minima of four rows; with two levels, multiplied with their integer factors.
///
/// # Safety
/// `numbers` has those of the block.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn numbers<K: Kind>(
    numbers: &[u8],
    block: usize,
    quarter: usize,
    halves: bool,
    second: usize,
) -> float32x4_t {
    // SAFETY: as the caller guarantees.
    unsafe {
        let four = |at: usize| four_halves(numbers.as_ptr().add(at + quarter * QUARTER * 2));
        if !K::TWO_LEVELS {
            return four(block * 2 * PANEL);
        }
        let (whole, times) = two_levels_at(block, halves, second);
        let times: [u8; QUARTER] =
            numbers.as_ptr().add(times + quarter * QUARTER).cast::<[u8; QUARTER]>().read();
        let times = times
            .map(|times| if halves { f32::from(times.cast_signed()) } else { f32::from(times) });
        vmulq_f32(four(whole), vld1q_f32(times.as_ptr()))
    }
}

/// Products of four rows of a panel with `T` tokens.
///
/// # Safety
/// Same requirements as [`super::products::multiply`], with `T` tokens from `token` on and a weight
/// of kind `K`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile_of<K: Kind, const T: usize>(
    w: &PackedMatrix,
    x: &Activations,
    index: usize,
    quarter: usize,
    token: usize,
    output: Output,
    ahead: Prefetch,
) {
    // SAFETY: every pointer stays within the panel and within the activations of the tile's tokens.
    unsafe {
        let (panel, blocks) = (w.panel(index), w.blocks());
        let mut total = [vdupq_n_f32(0.0); T];
        let mut block = 0;
        while block < blocks {
            let mut sum = [vdupq_n_f32(0.0); T];
            for block in block..block + w.chunk {
                if token == 0 && quarter == 0 {
                    let bytes = const { K::KIND.panel_bytes() };
                    ahead.prefetch(
                        panel.quants.as_ptr().wrapping_add(block * bytes),
                        bytes.div_ceil(64),
                    );
                }
                let operands = operands::<K>(&panel, block, quarter);
                let scale = |second| numbers::<K>(panel.scales, block, quarter, K::HALVES, second);
                let scales = [scale(0), if K::HALVES { scale(1) } else { vdupq_n_f32(0.0) }];
                let min = if K::MIN {
                    numbers::<K>(panel.minima, block, quarter, false, 0)
                } else {
                    vdupq_n_f32(0.0)
                };
                for t in 0..T {
                    let place = (token + t) * blocks + block;
                    let quants = x.quants.as_ptr().add(place * BLOCK);
                    let (first, second) = (vld1q_s8(quants), vld1q_s8(quants.add(16)));
                    let (scale, all) = (vdupq_n_f32(x.scales[place]), x.sums[place]);
                    // 8-bit quants were converted to signed and need no offset
                    let start = |sum: i32| {
                        vdupq_n_s32(if K::MIN || K::BITS == 8 { 0 } else { -K::OFFSET * sum })
                    };
                    // two independent dependency chains
                    let (a, b) = if K::HALVES {
                        (start(x.first[place]), start(all - x.first[place]))
                    } else {
                        (start(all), vdupq_n_s32(0))
                    };
                    let (a, b) =
                        (dot::<0>(a, operands[0], first), dot::<0>(b, operands[4], second));
                    let (a, b) =
                        (dot::<1>(a, operands[1], first), dot::<1>(b, operands[5], second));
                    let (a, b) =
                        (dot::<2>(a, operands[2], first), dot::<2>(b, operands[6], second));
                    let (a, b) =
                        (dot::<3>(a, operands[3], first), dot::<3>(b, operands[7], second));
                    if K::HALVES {
                        sum[t] = vfmaq_f32(sum[t], vcvtq_f32_s32(a), vmulq_f32(scales[0], scale));
                        sum[t] = vfmaq_f32(sum[t], vcvtq_f32_s32(b), vmulq_f32(scales[1], scale));
                    } else {
                        sum[t] = vfmaq_f32(
                            sum[t],
                            vcvtq_f32_s32(vaddq_s32(a, b)),
                            vmulq_f32(scales[0], scale),
                        );
                    }
                    if K::MIN {
                        sum[t] = vfmaq_f32(sum[t], min, vdupq_n_f32(x.weighted[place]));
                    }
                }
            }
            if output.chunk_stride > 0 {
                store(w, index, quarter, token, output.of_chunk(block / w.chunk), &sum);
            }
            block += w.chunk;
            for t in 0..T {
                total[t] = vaddq_f32(total[t], sum[t]);
            }
        }
        if output.chunk_stride == 0 {
            store(w, index, quarter, token, output, &total);
        }
    }
}

/// # Safety
/// Same requirements as [`super::products::multiply`]; `x` has the tile's tokens.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store(
    w: &PackedMatrix,
    index: usize,
    quarter: usize,
    token: usize,
    output: Output,
    values: &[float32x4_t],
) {
    let rows = w.rows_of(index).saturating_sub(quarter * QUARTER).min(QUARTER);
    for (t, value) in values.iter().enumerate() {
        let mut lanes = [0.0_f32; QUARTER];
        // SAFETY: only existing rows are written.
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), *value);
            let target =
                output.start.add((token + t) * output.rows + index * PANEL + quarter * QUARTER);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), target, rows);
        }
    }
}
