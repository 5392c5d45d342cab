//! AVX2 with FMA and F16C: a panel's rows in two halves.

use std::arch::x86_64::*;
use std::ops::Range;

use super::portable::{LEAST, not_rounded};
use super::{Activations, Ahead, BLOCK, BlockKind, Output, PANEL, PackedMatrix};

/// # Safety
/// The processor has AVX2; both slices have `BLOCK` elements.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantise_block(x: &[f32], quants: &mut [i8]) -> (f32, i32) {
    debug_assert!(x.len() == BLOCK && quants.len() == BLOCK);
    // SAFETY: 32 floats are read and 32 bytes written, as the caller promises.
    unsafe {
        let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
        let (mut largest, mut zeros) = (_mm256_setzero_ps(), _mm256_setzero_ps());
        for eight in 0..4 {
            let x = _mm256_loadu_ps(x.as_ptr().add(8 * eight));
            // x · 0 is 0 for finite x alone
            zeros = _mm256_add_ps(zeros, _mm256_mul_ps(x, _mm256_setzero_ps()));
            largest = _mm256_max_ps(largest, _mm256_and_ps(x, magnitude));
        }
        let mut lanes = [0.0_f32; 8];
        _mm256_storeu_ps(lanes.as_mut_ptr(), largest);
        let largest = lanes.into_iter().fold(0.0_f32, f32::max);
        if _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(zeros, _mm256_setzero_ps())) != 0xff || largest < LEAST {
            return not_rounded(x, quants);
        }
        let inverse = _mm256_set1_ps(127.0 / largest);
        let mut sum = 0;
        for eight in 0..4 {
            let rounded = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x.as_ptr().add(8 * eight)), inverse));
            let mut lanes = [0_i32; 8];
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), rounded);
            for (quant, lane) in quants[8 * eight..].iter_mut().zip(lanes) {
                *quant = lane as i8;
                sum += lane;
            }
        }
        (largest / 127.0, sum)
    }
}

/// Tokens that share one reading of the weights.
const TILE: usize = 4;

/// # Safety
/// As [`super::multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply(w: &PackedMatrix, x: &Activations, panels: Range<usize>, output: Output, ahead: Ahead) {
    for panel in panels {
        let mut token = 0;
        while token < x.tokens() {
            // a last panel of eight rows or fewer has no second half
            for half in 0..w.rows_of(panel).div_ceil(PANEL / 2) {
                // SAFETY: as the caller promises; a tile ends within the tokens.
                unsafe {
                    if x.tokens() - token >= TILE {
                        tile::<TILE>(w, x, panel, half, token, output, ahead);
                    } else {
                        tile::<1>(w, x, panel, half, token, output, ahead);
                    }
                }
            }
            token += if x.tokens() - token >= TILE { TILE } else { 1 };
        }
    }
}

/// Eight rows of a panel.
///
/// # Safety
/// As [`super::multiply`], with `T` tokens from `token` on.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const T: usize>(w: &PackedMatrix, x: &Activations, index: usize, half: usize, token: usize, output: Output, ahead: Ahead) {
    // SAFETY: every pointer stays within the panel and within the activations of the tile's tokens.
    unsafe {
        let (panel, kind, blocks) = (w.panel(index), w.kind(), w.blocks());
        let nibble = _mm256_set1_epi8(15);
        let ones = _mm256_set1_epi16(1);
        let mut total = [_mm256_setzero_ps(); T];
        let mut block = 0;
        while block < blocks {
            let mut sum = [_mm256_setzero_ps(); T];
            for _ in 0..w.chunk {
                if token == 0 && half == 0 {
                    let bytes = w.panel_bytes() / blocks;
                    ahead.fetch(panel.quants.as_ptr().wrapping_add(block * bytes), bytes.div_ceil(64));
                }
                let quants = panel.quants.as_ptr().add(block * kind.quant_bytes() * PANEL + half * 32);
                let mut operands = [_mm256_setzero_si256(); 8];
                if kind == BlockKind::Q8_0 {
                    let sign = _mm256_set1_epi8(-128);
                    for (four, operand) in operands.iter_mut().enumerate() {
                        *operand = _mm256_xor_si256(_mm256_loadu_si256(quants.add(four * 64).cast()), sign);
                    }
                } else {
                    for four in 0..4 {
                        let bytes = _mm256_loadu_si256(quants.add(four * 64).cast());
                        operands[four] = _mm256_and_si256(bytes, nibble);
                        operands[four + 4] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
                    }
                }
                let at = block * 32 + half * 16;
                let scale = _mm256_cvtph_ps(_mm_loadu_si128(panel.scales.as_ptr().add(at).cast()));
                for t in 0..T {
                    let place = (token + t) * blocks + block;
                    let quants = x.quants.as_ptr().add(place * BLOCK).cast::<i32>();
                    // signed weights need no offset here
                    let start = if kind == BlockKind::Q4_0 { -8 * x.sums[place] } else { 0 };
                    let mut dot = _mm256_set1_epi32(start);
                    for (four, operand) in operands.iter().enumerate() {
                        let four = _mm256_set1_epi32(quants.add(four).read_unaligned());
                        // pairs of products stay below 2^15: at most 15 · 127 · 2, or 128 · 127 · 2
                        let pairs = if kind == BlockKind::Q8_0 {
                            _mm256_maddubs_epi16(_mm256_abs_epi8(*operand), _mm256_sign_epi8(four, *operand))
                        } else {
                            _mm256_maddubs_epi16(*operand, four)
                        };
                        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
                    }
                    let dot = _mm256_cvtepi32_ps(dot);
                    sum[t] = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[place])), sum[t]);
                    if kind.has_min() {
                        let min = _mm256_cvtph_ps(_mm_loadu_si128(panel.minima.as_ptr().add(at).cast()));
                        sum[t] = _mm256_fmadd_ps(min, _mm256_set1_ps(x.weighted[place]), sum[t]);
                    }
                }
                block += 1;
            }
            if output.apart > 0 {
                store(w, index, half, token, output.of_chunk(block / w.chunk - 1), &sum);
            }
            for t in 0..T {
                total[t] = _mm256_add_ps(total[t], sum[t]);
            }
        }
        if output.apart == 0 {
            store(w, index, half, token, output, &total);
        }
    }
}

/// # Safety
/// As [`super::multiply`]; the tile's tokens are there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(w: &PackedMatrix, index: usize, half: usize, token: usize, output: Output, values: &[__m256]) {
    let rows = w.rows_of(index).saturating_sub(half * 8).min(8);
    for (t, value) in values.iter().enumerate() {
        let mut lanes = [0.0_f32; 8];
        // SAFETY: only the rows that are there are written.
        unsafe {
            _mm256_storeu_ps(lanes.as_mut_ptr(), *value);
            let target = output.start.add((token + t) * output.rows + index * PANEL + half * 8);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), target, rows);
        }
    }
}
