//! Sixteen f32 lanes in two AVX2 registers.

use std::arch::x86_64::*;

use super::vector::Lanes;

#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(__m256, __m256);

impl Lanes for Avx2 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        unsafe {
            Self(
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
            _mm_storeu_si128(
                to.add(8).cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1),
            );
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        unsafe {
            let pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            // packing works within 128-bit lanes: 0..4, 8..12 | 4..8, 12..16
            let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
            _mm_storeu_si128(
                to.cast(),
                _mm_packs_epi16(
                    _mm256_castsi256_si128(pairs),
                    _mm256_extracti128_si256::<1>(pairs),
                ),
            );
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let eight = |at: usize| {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(at).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            };
            Self(eight(0), eight(8))
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(self.0, a.0, b.0), _mm256_fmadd_ps(self.1, a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe {
            Self(
                _mm256_round_ps::<_MM_FROUND_TO_NEAREST_INT>(self.0),
                _mm256_round_ps::<_MM_FROUND_TO_NEAREST_INT>(self.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn times_two_to(self, n: Self) -> Self {
        unsafe {
            let half = |x: __m256, n: __m256| {
                let shift = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(n));
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), shift))
            };
            Self(half(self.0, n.0), half(self.1, n.1))
        }
    }
    #[inline(always)]
    unsafe fn most(self) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn whole_sum(self) -> i32 {
        unsafe {
            let eight = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            let four =
                _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        }
    }
    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        unsafe {
            let zero = _mm256_setzero_ps();
            let (low, high) = (
                _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, zero),
                _mm256_cmp_ps::<_CMP_EQ_OQ>(self.1, zero),
            );
            _mm256_movemask_ps(_mm256_and_ps(low, high)) == 0xff
        }
    }

    type Whole = [__m256i; 2];
    /// Signed: the offset of 128 is removed on loading.
    type Fours = [__m256i; 2];

    #[inline(always)]
    unsafe fn start(_: i32) -> Self::Whole {
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn load_fours(from: *const u8) -> Self::Fours {
        unsafe {
            let sign = _mm256_set1_epi8(-128);
            [
                _mm256_xor_si256(_mm256_loadu_si256(from.cast()), sign),
                _mm256_xor_si256(_mm256_loadu_si256(from.add(32).cast()), sign),
            ]
        }
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::Whole, w: Self::Fours, x: *const i8) -> Self::Whole {
        unsafe {
            let (x, ones) =
                (_mm256_set1_epi32(x.cast::<i32>().read_unaligned()), _mm256_set1_epi16(1));
            // the sum of two products fits in i16: at most 2 · 128 · 127 < 2^15
            let low = _mm256_maddubs_epi16(_mm256_abs_epi8(w[0]), _mm256_sign_epi8(x, w[0]));
            let high = _mm256_maddubs_epi16(_mm256_abs_epi8(w[1]), _mm256_sign_epi8(x, w[1]));
            [
                _mm256_add_epi32(sum[0], _mm256_madd_epi16(low, ones)),
                _mm256_add_epi32(sum[1], _mm256_madd_epi16(high, ones)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn from_whole(sum: Self::Whole) -> Self {
        unsafe { Self(_mm256_cvtepi32_ps(sum[0]), _mm256_cvtepi32_ps(sum[1])) }
    }
}
