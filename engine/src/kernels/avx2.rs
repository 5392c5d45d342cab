//! Products with AVX2, FMA and F16C: a panel is processed in two halves of eight rows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::blocks::{Kind, for_kind};
use super::isa::{BLOCK, PANEL};
use super::output::{Output, Prefetch};
use super::packed::{Panel, two_levels_at};
use super::{Activations, PackedMatrix};

/// Tokens per pass over the weights.
const TILE: usize = 4;

/// # Safety
/// Same requirements as [`super::products::multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
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
            // skip the second half of a last panel with at most eight rows
            for half in 0..w.rows_of(panel).div_ceil(PANEL / 2) {
                // SAFETY: as the caller guarantees; a tile ends within the tokens.
                unsafe {
                    if x.tokens() - token >= TILE {
                        tile::<K, TILE>(w, x, panel, half, token, output, ahead);
                    } else {
                        tile::<K, 1>(w, x, panel, half, token, output, ahead);
                    }
                }
            }
            token += if x.tokens() - token >= TILE { TILE } else { 1 };
        }
    }
}

/// Unpacks a block's quants of eight rows: one register per four columns, with four bytes per row.
/// 8-bit quants are converted to signed.
///
/// # Safety
/// The panel is of kind `K` and has the block.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn operands<K: Kind>(panel: &Panel<'_>, block: usize, half: usize) -> [__m256i; 8] {
    // SAFETY: within the block, as the caller guarantees.
    unsafe {
        let at = panel.quants.as_ptr().add(block * K::KIND.low_bytes() + half * 32);
        let load = |from: *const u8, four: usize| _mm256_loadu_si256(from.add(four * 64).cast());
        let mut out = [_mm256_setzero_si256(); 8];
        if K::BITS == 8 {
            let sign = _mm256_set1_epi8(-128);
            for four in 0..8 {
                out[four] = _mm256_xor_si256(load(at, four), sign);
            }
            return out;
        }
        let nibble = _mm256_set1_epi8(15);
        for four in 0..4 {
            let bytes = load(at, four);
            out[four] = _mm256_and_si256(bytes, nibble);
            out[four + 4] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
        }
        let further = panel.high.as_ptr().add(block * K::KIND.high_bytes() + half * 32);
        // shift the high bits into place; the mask removes bits of the neighbouring byte
        let mut join = |four: usize, bits, mask: i8| {
            out[four] = _mm256_or_si256(out[four], _mm256_and_si256(bits, _mm256_set1_epi8(mask)))
        };
        if K::BITS == 5 {
            let bits = load(further, 0);
            join(0, _mm256_slli_epi16::<4>(bits), 16);
            join(1, _mm256_slli_epi16::<3>(bits), 16);
            join(2, _mm256_slli_epi16::<2>(bits), 16);
            join(3, _mm256_slli_epi16::<1>(bits), 16);
            join(4, bits, 16);
            join(5, _mm256_srli_epi16::<1>(bits), 16);
            join(6, _mm256_srli_epi16::<2>(bits), 16);
            join(7, _mm256_srli_epi16::<3>(bits), 16);
        }
        if K::BITS == 6 {
            for second in 0..2 {
                let bits = load(further, second);
                join(4 * second, _mm256_slli_epi16::<4>(bits), 0x30);
                join(4 * second + 1, _mm256_slli_epi16::<2>(bits), 0x30);
                join(4 * second + 2, bits, 0x30);
                join(4 * second + 3, _mm256_srli_epi16::<2>(bits), 0x30);
            }
        }
        out
    }
}

/// Loads the scales or minima of eight rows; with two levels, multiplied with their integer
/// factors.
///
/// # Safety
/// `numbers` has those of the block, and `half` is 0 or 1.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn numbers<K: Kind>(
    numbers: &[u8],
    block: usize,
    half: usize,
    halves: bool,
    second: usize,
) -> __m256 {
    // SAFETY: as the caller guarantees.
    unsafe {
        let eight = |at: usize| {
            _mm256_cvtph_ps(_mm_loadu_si128(numbers.as_ptr().add(at + half * 16).cast()))
        };
        if !K::TWO_LEVELS {
            return eight(block * 2 * PANEL);
        }
        let (whole, times) = two_levels_at(block, halves, second);
        let times = _mm_loadu_si64(numbers.as_ptr().add(times + half * 8));
        let times = if halves { _mm256_cvtepi8_epi32(times) } else { _mm256_cvtepu8_epi32(times) };
        _mm256_mul_ps(eight(whole), _mm256_cvtepi32_ps(times))
    }
}

/// `start` plus the dot products of `operands` with the columns of one token at `quants`.
///
/// # Safety
/// Four bytes per operand can be read at `quants`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot<K: Kind>(operands: &[__m256i], quants: *const i8, start: i32) -> __m256 {
    // SAFETY: as the caller guarantees.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut dot = _mm256_set1_epi32(start);
        for (four, operand) in operands.iter().enumerate() {
            let four = _mm256_set1_epi32(quants.add(4 * four).cast::<i32>().read_unaligned());
            // the sum of two products fits in i16: at most 2 · 63 · 127, or 2 · 128 · 127 < 2^15
            let pairs = if K::BITS == 8 {
                _mm256_maddubs_epi16(_mm256_abs_epi8(*operand), _mm256_sign_epi8(four, *operand))
            } else {
                _mm256_maddubs_epi16(*operand, four)
            };
            dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
        }
        _mm256_cvtepi32_ps(dot)
    }
}

/// Products of eight rows of a panel with `T` tokens.
///
/// # Safety
/// Same requirements as [`super::products::multiply`], with `T` tokens from `token` on and a weight
/// of kind `K`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<K: Kind, const T: usize>(
    w: &PackedMatrix,
    x: &Activations,
    index: usize,
    half: usize,
    token: usize,
    output: Output,
    ahead: Prefetch,
) {
    // SAFETY: every pointer stays within the panel and within the activations of the tile's tokens.
    unsafe {
        let (panel, blocks) = (w.panel(index), w.blocks());
        let mut total = [_mm256_setzero_ps(); T];
        let mut block = 0;
        while block < blocks {
            let mut sum = [_mm256_setzero_ps(); T];
            for _ in 0..w.chunk {
                if token == 0 && half == 0 {
                    let bytes = const { K::KIND.panel_bytes() };
                    ahead.prefetch(
                        panel.quants.as_ptr().wrapping_add(block * bytes),
                        bytes.div_ceil(64),
                    );
                }
                let operands = operands::<K>(&panel, block, half);
                let scale = |second| numbers::<K>(panel.scales, block, half, K::HALVES, second);
                let scales = [scale(0), if K::HALVES { scale(1) } else { _mm256_setzero_ps() }];
                let min = if K::MIN {
                    numbers::<K>(panel.minima, block, half, false, 0)
                } else {
                    _mm256_setzero_ps()
                };
                for t in 0..T {
                    let place = (token + t) * blocks + block;
                    let (quants, scale) = (
                        x.quants.as_ptr().add(place * BLOCK),
                        _mm256_set1_ps(*x.scales.get_unchecked(place)),
                    );
                    // signed weights need no offset
                    let start =
                        |sum: i32| if K::MIN || K::BITS == 8 { 0 } else { -K::OFFSET * sum };
                    let all = *x.sums.get_unchecked(place);
                    if K::HALVES {
                        let first = *x.first.get_unchecked(place);
                        let dots = [
                            dot::<K>(&operands[..4], quants, start(first)),
                            dot::<K>(&operands[4..], quants.add(BLOCK / 2), start(all - first)),
                        ];
                        sum[t] = _mm256_fmadd_ps(dots[0], _mm256_mul_ps(scales[0], scale), sum[t]);
                        sum[t] = _mm256_fmadd_ps(dots[1], _mm256_mul_ps(scales[1], scale), sum[t]);
                    } else {
                        sum[t] = _mm256_fmadd_ps(
                            dot::<K>(&operands, quants, start(all)),
                            _mm256_mul_ps(scales[0], scale),
                            sum[t],
                        );
                    }
                    if K::MIN {
                        sum[t] = _mm256_fmadd_ps(
                            min,
                            _mm256_set1_ps(*x.weighted.get_unchecked(place)),
                            sum[t],
                        );
                    }
                }
                block += 1;
            }
            if output.chunk_stride > 0 {
                store(w, index, half, token, output.of_chunk(block / w.chunk - 1), &sum);
            }
            for t in 0..T {
                total[t] = _mm256_add_ps(total[t], sum[t]);
            }
        }
        if output.chunk_stride == 0 {
            store(w, index, half, token, output, &total);
        }
    }
}

/// # Safety
/// Same requirements as [`super::products::multiply`]; `x` has the tile's tokens.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(
    w: &PackedMatrix,
    index: usize,
    half: usize,
    token: usize,
    output: Output,
    values: &[__m256],
) {
    let rows = w.rows_of(index).saturating_sub(half * 8).min(8);
    for (t, value) in values.iter().enumerate() {
        let mut lanes = [0.0_f32; 8];
        // SAFETY: only existing rows are written.
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), *value);
            let target = output.start.add((token + t) * output.rows + index * PANEL + half * 8);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), target, rows);
        }
    }
}
