//! AVX-512 with VNNI.

use std::arch::x86_64::*;
use std::ops::Range;

use super::portable::{LEAST, not_rounded};
use super::{Activations, Ahead, BLOCK, BlockKind, Output, PANEL, PackedMatrix};

/// # Safety
/// The processor has AVX-512 F and BW; both slices have `BLOCK` elements.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn quantise_block(x: &[f32], quants: &mut [i8]) -> (f32, i32) {
    debug_assert!(x.len() == BLOCK && quants.len() == BLOCK);
    // SAFETY: 32 floats are read and 32 bytes written, as the caller promises.
    unsafe {
        let (a, b) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
        // x · 0 is 0 for finite x alone
        let zeros = _mm512_add_ps(_mm512_mul_ps(a, _mm512_setzero_ps()), _mm512_mul_ps(b, _mm512_setzero_ps()));
        let largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        if _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(zeros, _mm512_setzero_ps()) != u16::MAX || largest < LEAST {
            return not_rounded(x, quants);
        }
        let inverse = _mm512_set1_ps(127.0 / largest);
        // the default rounding: ties to even
        let (a, b) = (_mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse)));
        _mm_storeu_si128(quants.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a));
        _mm_storeu_si128(quants.as_mut_ptr().add(16).cast(), _mm512_cvtepi32_epi8(b));
        (largest / 127.0, _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)))
    }
}

type Tile = unsafe fn(&PackedMatrix, &Activations, usize, usize, Output, Ahead) -> usize;

/// # Safety
/// As [`super::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn multiply(w: &PackedMatrix, x: &Activations, panels: Range<usize>, output: Output, ahead: Ahead) {
    for panel in panels {
        let mut token = 0;
        // the last tokens take narrower tiles, of which each computes the same
        while token < x.tokens() {
            // SAFETY: as the caller promises; a tile ends within the tokens.
            unsafe {
                let (four, minima, eight): (Tile, Tile, Tile) = match x.tokens() - token {
                    1 => (four_bits_of_1::<false>, four_bits_of_1::<true>, eight_bits_of_1),
                    2 => (four_bits_of_2::<false>, four_bits_of_2::<true>, eight_bits_of_2),
                    3 => (four_bits_of_3::<false>, four_bits_of_3::<true>, eight_bits_of_3),
                    4 => (four_bits_of_4::<false>, four_bits_of_4::<true>, eight_bits_of_4),
                    5 => (four_bits_of_5::<false>, four_bits_of_5::<true>, eight_bits_of_5),
                    6 => (four_bits_of_6::<false>, four_bits_of_6::<true>, eight_bits_of_6),
                    7 => (four_bits_of_7::<false>, four_bits_of_7::<true>, eight_bits_of_7),
                    _ => (four_bits_of_8::<false>, four_bits_of_8::<true>, eight_bits_of_8),
                };
                let tile = match w.kind() {
                    BlockKind::Q4_0 => four,
                    BlockKind::Q4_1 => minima,
                    BlockKind::Q8_0 => eight,
                };
                token += tile(w, x, panel, token, output, ahead);
            }
        }
    }
}

/// Where a tile's activations stand.
#[derive(Clone, Copy)]
struct Tokens {
    quants: *const i8,
    scales: *const f32,
    sums: *const i32,
    weighted: *const f32,
    blocks: usize,
}

impl Tokens {
    /// # Safety
    /// `token` is one of `x`.
    #[inline]
    unsafe fn new(x: &Activations, token: usize) -> Self {
        let at = token * x.blocks();
        // SAFETY: each buffer has an entry a block (32 a block the quants) of every token.
        unsafe {
            Self {
                quants: x.quants.as_ptr().add(at * BLOCK),
                scales: x.scales.as_ptr().add(at),
                sums: x.sums.as_ptr().add(at),
                weighted: x.weighted.as_ptr().add(at),
                blocks: x.blocks(),
            }
        }
    }
}

/// `start` plus the products of a block of 16 rows with one token's block.
///
/// # Safety
/// `quants` points to a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn dot(operands: &[__m512i; 8], quants: *const i8, start: __m512i) -> __m512 {
    // SAFETY: eight times four bytes of a block.
    unsafe {
        let four = |index: usize| _mm512_broadcastd_epi32(_mm_loadu_si32(quants.add(4 * index).cast()));
        // two chains, so that one need not wait for itself
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

/// # Safety
/// 32 bytes can be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn sixteen_halves(at: *const u8) -> __m512 {
    // SAFETY: as the caller promises.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

/// Tiles of a fixed number of tokens, written out: only then do their sums stay in registers.
macro_rules! tiles {
    ($tokens:literal: $($t:literal)*, $four_bits:ident, $eight_bits:ident) => {
        /// # Safety
        /// As [`super::multiply`]; the tile's tokens are there, and the weight has 4 bits, with minima if `MIN`.
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        unsafe fn $four_bits<const MIN: bool>(w: &PackedMatrix, x: &Activations, index: usize, token: usize, output: Output, ahead: Ahead) -> usize {
            // SAFETY: every pointer stays within the panel and within the activations of the tile's tokens.
            unsafe {
                let panel = w.panel(index);
                let x = Tokens::new(x, token);
                let low = _mm512_set1_epi8(15);
                let mut total = [_mm512_setzero_ps(); $tokens];
                let mut block = 0;
                while block < x.blocks {
                    let mut sum = [_mm512_setzero_ps(); $tokens];
                    for block in block..block + w.chunk {
                        if token == 0 {
                            ahead.fetch(panel.quants.as_ptr().wrapping_add(block * (256 + 32 + 32 * MIN as usize)), 4 + MIN as usize);
                        }
                        let quants = panel.quants.as_ptr().add(block * 256);
                        let bytes = |four: usize| _mm512_loadu_si512(quants.add(four * 64).cast());
                        let high = |bytes| _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low);
                        let (a, b, c, d) = (bytes(0), bytes(1), bytes(2), bytes(3));
                        let operands = [
                            _mm512_and_si512(a, low), _mm512_and_si512(b, low), _mm512_and_si512(c, low), _mm512_and_si512(d, low),
                            high(a), high(b), high(c), high(d),
                        ];
                        let scale = sixteen_halves(panel.scales.as_ptr().add(block * 32));
                        let min = if MIN { sixteen_halves(panel.minima.as_ptr().add(block * 32)) } else { _mm512_setzero_ps() };
                        $({
                            let place = $t * x.blocks + block;
                            let start = if MIN { _mm512_setzero_si512() } else { _mm512_set1_epi32(-8 * *x.sums.add(place)) };
                            let dot = dot(&operands, x.quants.add(place * BLOCK), start);
                            sum[$t] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scale, _mm512_set1_ps(*x.scales.add(place))), sum[$t]);
                            if MIN {
                                sum[$t] = _mm512_fmadd_ps(min, _mm512_set1_ps(*x.weighted.add(place)), sum[$t]);
                            }
                        })*
                    }
                    if output.apart > 0 {
                        store(w, index, token, output.of_chunk(block / w.chunk), &sum);
                    }
                    block += w.chunk;
                    $(total[$t] = _mm512_add_ps(total[$t], sum[$t]);)*
                }
                if output.apart == 0 {
                    store(w, index, token, output, &total);
                }
            }
            $tokens
        }

        /// # Safety
        /// As [`super::multiply`]; the tile's tokens are there, and the weight has 8 bits.
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        unsafe fn $eight_bits(w: &PackedMatrix, x: &Activations, index: usize, token: usize, output: Output, ahead: Ahead) -> usize {
            // SAFETY: every pointer stays within the panel and within the activations of the tile's tokens.
            unsafe {
                let panel = w.panel(index);
                let x = Tokens::new(x, token);
                let mut total = [_mm512_setzero_ps(); $tokens];
                let mut block = 0;
                while block < x.blocks {
                    let mut sum = [_mm512_setzero_ps(); $tokens];
                    for block in block..block + w.chunk {
                        if token == 0 {
                            ahead.fetch(panel.quants.as_ptr().wrapping_add(block * (512 + 32)), 9);
                        }
                        let quants = panel.quants.as_ptr().add(block * 512);
                        let operand = |four: usize| _mm512_loadu_si512(quants.add(four * 64).cast());
                        let operands = [operand(0), operand(1), operand(2), operand(3), operand(4), operand(5), operand(6), operand(7)];
                        let scale = sixteen_halves(panel.scales.as_ptr().add(block * 32));
                        $({
                            let place = $t * x.blocks + block;
                            let start = _mm512_set1_epi32(-128 * *x.sums.add(place));
                            let dot = dot(&operands, x.quants.add(place * BLOCK), start);
                            sum[$t] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scale, _mm512_set1_ps(*x.scales.add(place))), sum[$t]);
                        })*
                    }
                    if output.apart > 0 {
                        store(w, index, token, output.of_chunk(block / w.chunk), &sum);
                    }
                    block += w.chunk;
                    $(total[$t] = _mm512_add_ps(total[$t], sum[$t]);)*
                }
                if output.apart == 0 {
                    store(w, index, token, output, &total);
                }
            }
            $tokens
        }
    };
}

tiles!(1: 0, four_bits_of_1, eight_bits_of_1);
tiles!(2: 0 1, four_bits_of_2, eight_bits_of_2);
tiles!(3: 0 1 2, four_bits_of_3, eight_bits_of_3);
tiles!(4: 0 1 2 3, four_bits_of_4, eight_bits_of_4);
tiles!(5: 0 1 2 3 4, four_bits_of_5, eight_bits_of_5);
tiles!(6: 0 1 2 3 4 5, four_bits_of_6, eight_bits_of_6);
tiles!(7: 0 1 2 3 4 5 6, four_bits_of_7, eight_bits_of_7);
tiles!(8: 0 1 2 3 4 5 6 7, four_bits_of_8, eight_bits_of_8);

/// # Safety
/// As [`super::multiply`]; the tile's tokens are there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store(w: &PackedMatrix, index: usize, token: usize, output: Output, values: &[__m512]) {
    let mask = (u32::MAX >> (32 - w.rows_of(index))) as __mmask16;
    for (t, value) in values.iter().enumerate() {
        // SAFETY: the mask keeps to the rows that are there.
        unsafe { _mm512_mask_storeu_ps(output.start.add((token + t) * output.rows + index * PANEL), mask, *value) };
    }
}
