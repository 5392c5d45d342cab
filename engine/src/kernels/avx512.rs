//! Products with AVX-512 and VNNI: one register holds four columns of all 16 rows of a panel.

use std::arch::x86_64::*;
use std::ops::Range;

use super::blocks::{Kind, for_kind};
use super::isa::{BLOCK, PANEL};
use super::output::{Output, Prefetch};
use super::packed::{Panel, two_levels_at};
use super::{Activations, PackedMatrix};

/// # Safety
/// Same requirements as [`super::products::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn multiply_kind<K: Kind>(
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    output: Output,
    ahead: Prefetch,
) {
    for panel in panels {
        let mut token = 0;
        // the last tokens use narrower tiles, which compute bit-identical results
        while token < x.tokens() {
            // SAFETY: as the caller guarantees; a tile ends within the tokens.
            token += unsafe {
                match x.tokens() - token {
                    1 => tile_of_1::<K>(w, x, panel, token, output, ahead),
                    2 => tile_of_2::<K>(w, x, panel, token, output, ahead),
                    3 => tile_of_3::<K>(w, x, panel, token, output, ahead),
                    4 => tile_of_4::<K>(w, x, panel, token, output, ahead),
                    5 => tile_of_5::<K>(w, x, panel, token, output, ahead),
                    6 => tile_of_6::<K>(w, x, panel, token, output, ahead),
                    7 => tile_of_7::<K>(w, x, panel, token, output, ahead),
                    _ => tile_of_8::<K>(w, x, panel, token, output, ahead),
                }
            };
        }
    }
}

/// Pointers to a tile's activations; fields as in [`Activations`].
#[derive(Clone, Copy)]
struct Tokens {
    quants: *const i8,
    scales: *const f32,
    sums: *const i32,
    first: *const i32,
    weighted: *const f32,
    blocks: usize,
}

impl Tokens {
    /// # Safety
    /// `token` is one of `x`.
    #[inline]
    unsafe fn new(x: &Activations, token: usize) -> Self {
        let at = token * x.blocks();
        // SAFETY: each buffer has one entry per block of every token; the quants have 32.
        unsafe {
            Self {
                quants: x.quants.as_ptr().add(at * BLOCK),
                scales: x.scales.as_ptr().add(at),
                sums: x.sums.as_ptr().add(at),
                first: x.first.as_ptr().add(at),
                weighted: x.weighted.as_ptr().add(at),
                blocks: x.blocks(),
            }
        }
    }
}

/// `start` plus the dot products of a block of 16 rows with one token's block.
///
/// # Safety
/// `quants` points to a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot(operands: &[__m512i; 8], quants: *const i8, start: __m512i) -> __m512 {
    // SAFETY: eight reads of four bytes within a block.
    unsafe {
        let four =
            |index: usize| _mm512_broadcastd_epi32(_mm_loadu_si32(quants.add(4 * index).cast()));
        // two independent dependency chains
        let even = _mm512_dpbusd_epi32(start, operands[0], four(0));
        let odd = _mm512_dpbusd_epi32(_mm512_setzero_si512(), operands[1], four(1));
        let even = _mm512_dpbusd_epi32(even, operands[2], four(2));
        let odd = _mm512_dpbusd_epi32(odd, operands[3], four(3));
        let even = _mm512_dpbusd_epi32(even, operands[4], four(4));
        let odd = _mm512_dpbusd_epi32(odd, operands[5], four(5));
        let even = _mm512_dpbusd_epi32(even, operands[6], four(6));
        let odd = _mm512_dpbusd_epi32(odd, operands[7], four(7));
        _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd))
    }
}

/// Like [`dot`], with separate sums for the two halves of the block, 16 columns each.
///
/// # Safety
/// `quants` points to a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot_halves(
    operands: &[__m512i; 8],
    quants: *const i8,
    start: [__m512i; 2],
) -> [__m512; 2] {
    // SAFETY: eight reads of four bytes within a block.
    unsafe {
        let four =
            |index: usize| _mm512_broadcastd_epi32(_mm_loadu_si32(quants.add(4 * index).cast()));
        let [mut first, mut second] = start;
        for index in 0..4 {
            first = _mm512_dpbusd_epi32(first, operands[index], four(index));
            second = _mm512_dpbusd_epi32(second, operands[index + 4], four(index + 4));
        }
        [_mm512_cvtepi32_ps(first), _mm512_cvtepi32_ps(second)]
    }
}

/// Loads sixteen f16 as f32.
///
/// # Safety
/// 32 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn sixteen_halves(at: *const u8) -> __m512 {
    // SAFETY: as the caller guarantees.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

/// Unpacks a block's quants: one register per four columns, with four bytes per row.
///
/// # Safety
/// The panel is of kind `K` and has the block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn operands<K: Kind>(panel: &Panel<'_>, block: usize) -> [__m512i; 8] {
    // SAFETY: within the block, as the caller guarantees.
    unsafe {
        let at = panel.quants.as_ptr().add(block * K::KIND.low_bytes());
        let load = |from: *const u8, four: usize| _mm512_loadu_si512(from.add(four * 64).cast());
        if K::BITS == 8 {
            return [
                load(at, 0),
                load(at, 1),
                load(at, 2),
                load(at, 3),
                load(at, 4),
                load(at, 5),
                load(at, 6),
                load(at, 7),
            ];
        }
        let low = _mm512_set1_epi8(15);
        let high = |bytes| _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low);
        let (a, b, c, d) = (load(at, 0), load(at, 1), load(at, 2), load(at, 3));
        let and = |bytes| _mm512_and_si512(bytes, low);
        let mut out = [and(a), and(b), and(c), and(d), high(a), high(b), high(c), high(d)];
        let further = panel.high.as_ptr().add(block * K::KIND.high_bytes());
        // shift the high bits into place; the mask removes bits of the neighbouring byte
        if K::BITS == 5 {
            let (bits, fifth) = (load(further, 0), _mm512_set1_epi8(16));
            let shifted = [
                _mm512_slli_epi16::<4>(bits),
                _mm512_slli_epi16::<3>(bits),
                _mm512_slli_epi16::<2>(bits),
                _mm512_slli_epi16::<1>(bits),
                bits,
                _mm512_srli_epi16::<1>(bits),
                _mm512_srli_epi16::<2>(bits),
                _mm512_srli_epi16::<3>(bits),
            ];
            for four in 0..8 {
                out[four] = _mm512_or_si512(out[four], _mm512_and_si512(shifted[four], fifth));
            }
        }
        if K::BITS == 6 {
            let two = _mm512_set1_epi8(0x30);
            for half in 0..2 {
                let bits = load(further, half);
                let shifted = [
                    _mm512_slli_epi16::<4>(bits),
                    _mm512_slli_epi16::<2>(bits),
                    bits,
                    _mm512_srli_epi16::<2>(bits),
                ];
                for four in 0..4 {
                    out[4 * half + four] =
                        _mm512_or_si512(out[4 * half + four], _mm512_and_si512(shifted[four], two));
                }
            }
        }
        out
    }
}

/// Loads the scales of a block, or of half `half` if halves have their own, for each row.
///
/// # Safety
/// The panel is of kind `K` and has the block.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scale<K: Kind>(panel: &Panel<'_>, block: usize, half: usize) -> __m512 {
    // SAFETY: within the panel, as the caller guarantees.
    unsafe {
        let scales = panel.scales.as_ptr();
        if !K::TWO_LEVELS {
            return sixteen_halves(scales.add(block * 2 * PANEL));
        }
        let (whole, times) = two_levels_at(block, K::HALVES, half);
        let times = _mm_loadu_si128(scales.add(times).cast());
        let times =
            if K::HALVES { _mm512_cvtepi8_epi32(times) } else { _mm512_cvtepu8_epi32(times) };
        _mm512_mul_ps(sixteen_halves(scales.add(whole)), _mm512_cvtepi32_ps(times))
    }
}

/// Loads the minima of a block for each row.
///
/// # Safety
/// The panel is of kind `K`, which has minima, and has the block.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn min<K: Kind>(panel: &Panel<'_>, block: usize) -> __m512 {
    // SAFETY: within the panel, as the caller guarantees.
    unsafe {
        let minima = panel.minima.as_ptr();
        if !K::TWO_LEVELS {
            return sixteen_halves(minima.add(block * 2 * PANEL));
        }
        let (whole, times) = two_levels_at(block, false, 0);
        let times =
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(minima.add(times).cast())));
        _mm512_mul_ps(sixteen_halves(minima.add(whole)), times)
    }
}

/// Defines tiles with a fixed number of tokens. Token loops are expanded by the macro, since
/// otherwise the sums do not stay in registers.
macro_rules! tiles {
    ($tokens:literal: $($t:literal)*, $tile:ident) => {
        /// # Safety
        /// Same requirements as [`super::products::multiply`]; `x` has the tile's
        /// tokens, and the weight is of kind `K`.
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        unsafe fn $tile<K: Kind>(w: &PackedMatrix, x: &Activations, index: usize, token: usize, output: Output, ahead: Prefetch) -> usize {
            // SAFETY: every pointer stays within the panel and within the activations of the tile's
            // tokens.
            unsafe {
                let panel = w.panel(index);
                let x = Tokens::new(x, token);
                let mut total = [_mm512_setzero_ps(); $tokens];
                let mut block = 0;
                while block < x.blocks {
                    let mut sum = [_mm512_setzero_ps(); $tokens];
                    for block in block..block + w.chunk {
                        if token == 0 {
                            let bytes = const { K::KIND.panel_bytes() };
                            ahead.prefetch(panel.quants.as_ptr().wrapping_add(block * bytes), bytes.div_ceil(64));
                        }
                        let operands = operands::<K>(&panel, block);
                        let scales = [scale::<K>(&panel, block, 0), if K::HALVES { scale::<K>(&panel, block, 1) } else { _mm512_setzero_ps() }];
                        let min = if K::MIN { min::<K>(&panel, block) } else { _mm512_setzero_ps() };
                        $({
                            let place = $t * x.blocks + block;
                            let (quants, scale) = (x.quants.add(place * BLOCK), _mm512_set1_ps(*x.scales.add(place)));
                            let start = |sum: i32| if K::MIN { _mm512_setzero_si512() } else { _mm512_set1_epi32(-K::OFFSET * sum) };
                            if K::HALVES {
                                let first = *x.first.add(place);
                                let dots = dot_halves(&operands, quants, [start(first), start(*x.sums.add(place) - first)]);
                                sum[$t] = _mm512_fmadd_ps(dots[0], _mm512_mul_ps(scales[0], scale), sum[$t]);
                                sum[$t] = _mm512_fmadd_ps(dots[1], _mm512_mul_ps(scales[1], scale), sum[$t]);
                            } else {
                                let dot = dot(&operands, quants, start(if K::MIN { 0 } else { *x.sums.add(place) }));
                                sum[$t] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scales[0], scale), sum[$t]);
                            }
                            if K::MIN {
                                sum[$t] = _mm512_fmadd_ps(min, _mm512_set1_ps(*x.weighted.add(place)), sum[$t]);
                            }
                        })*
                    }
                    if output.chunk_stride > 0 {
                        store(w, index, token, output.of_chunk(block / w.chunk), &sum);
                    }
                    block += w.chunk;
                    $(total[$t] = _mm512_add_ps(total[$t], sum[$t]);)*
                }
                if output.chunk_stride == 0 {
                    store(w, index, token, output, &total);
                }
            }
            $tokens
        }
    };
}

tiles!(1: 0, tile_of_1);
tiles!(2: 0 1, tile_of_2);
tiles!(3: 0 1 2, tile_of_3);
tiles!(4: 0 1 2 3, tile_of_4);
tiles!(5: 0 1 2 3 4, tile_of_5);
tiles!(6: 0 1 2 3 4 5, tile_of_6);
tiles!(7: 0 1 2 3 4 5 6, tile_of_7);
tiles!(8: 0 1 2 3 4 5 6 7, tile_of_8);

/// # Safety
/// Same requirements as [`super::products::multiply`]; `x` has the tile's tokens.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(w: &PackedMatrix, index: usize, token: usize, output: Output, values: &[__m512]) {
    let mask = (u32::MAX >> (32 - w.rows_of(index))) as __mmask16;
    for (t, value) in values.iter().enumerate() {
        // SAFETY: the mask restricts the store to existing rows.
        unsafe {
            _mm512_mask_storeu_ps(
                output.start.add((token + t) * output.rows + index * PANEL),
                mask,
                *value,
            )
        };
    }
}
