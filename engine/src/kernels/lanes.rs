//! Sixteen f32 side by side, on every instruction set with the same bits.
//!
//! Kernels that are generic over [`Lanes`] are written once: each instruction set computes the same IEEE operations in the same order.
//! Methods must be inlined into a function that has the instruction set enabled, which [`for_isa`] makes.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::f16;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;

/// Sixteen f32.
///
/// # Safety
/// Of every function: the processor has the instruction set of the implementation, and pointers hold [`LANES`] elements.
pub(super) trait Lanes: Copy {
    /// One register holds them, and there are enough registers for a large tile.
    const WIDE: bool = false;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// From f16.
    unsafe fn load_half(from: *const u16) -> Self;
    /// To f16, ties to even.
    unsafe fn store_half(self, to: *mut u16);
    /// From int8.
    unsafe fn load_bytes(from: *const i8) -> Self;
    /// To int8, whole numbers that fit.
    unsafe fn store_bytes(self, to: *mut i8);
    /// From bf16.
    unsafe fn load_bf16(from: *const u16) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// `self · a + b`, rounded once.
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// To whole numbers, ties to even.
    unsafe fn round(self) -> Self;
    /// `self · 2^n` for whole `n`, where neither leaves the normal numbers.
    unsafe fn times_two_to(self, n: Self) -> Self;
    /// The largest lane, of which each is a number.
    unsafe fn most(self) -> f32;
    /// The sum of whole numbers that int8 holds.
    unsafe fn whole_sum(self) -> i32;
    /// Whether every lane is 0.
    unsafe fn is_zero(self) -> bool;
}

/// The sum of all lanes, halves first.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn sum<V: Lanes>(v: V) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    // SAFETY: as the caller promises.
    unsafe { v.store(lanes.as_mut_ptr()) };
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest lane.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn largest<V: Lanes>(v: V) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    // SAFETY: as the caller promises.
    unsafe { v.store(lanes.as_mut_ptr()) };
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            if other > lanes[lane] {
                lanes[lane] = other;
            }
        }
        width /= 2;
    }
    lanes[0]
}

/// e^x to about 1 ulp: range reduction by ln 2 in two parts, then a polynomial (Cephes' `expf`, Moshier).
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp<V: Lanes>(x: V) -> V {
    // SAFETY: as the caller promises.
    unsafe {
        // below, the result is 0 for every purpose here; above, infinite
        // (max and min give their second operand where either is not a number: a NaN stays one)
        let x = V::splat(88.0).min(V::splat(-87.0).max(x));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(V::splat(-0.693_359_4), x);
        let r = n.mul_add(V::splat(2.121_944_4e-4), r);
        let mut p = V::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p.mul_add(r, V::splat(coefficient));
        }
        let r2 = r.mul(r);
        p.mul_add(r2, r.add(V::splat(1.0))).times_two_to(n)
    }
}

/// Without vector instructions.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn with(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        out.iter_mut().zip(other.0).for_each(|(a, b)| *a = f(*a, b));
        Self(out)
    }
}

impl Lanes for Portable {
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as the trait says.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    unsafe fn load_half(from: *const u16) -> Self {
        // SAFETY: as the trait says.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Self(halves.map(|half| f16::from_bits(half).to_f32()))
    }
    unsafe fn store_half(self, to: *mut u16) {
        // SAFETY: as the trait says.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(self.0.map(|value| f16::from_f32(value).to_bits())) }
    }
    unsafe fn load_bytes(from: *const i8) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from))
    }
    unsafe fn store_bytes(self, to: *mut i8) {
        // SAFETY: as the trait says.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(self.0.map(|value| value as i8)) }
    }
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: as the trait says.
        Self(unsafe { from.cast::<[u16; LANES]>().read_unaligned() }.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
    unsafe fn add(self, other: Self) -> Self {
        self.with(other, |a, b| a + b)
    }
    unsafe fn sub(self, other: Self) -> Self {
        self.with(other, |a, b| a - b)
    }
    unsafe fn mul(self, other: Self) -> Self {
        self.with(other, |a, b| a * b)
    }
    unsafe fn div(self, other: Self) -> Self {
        self.with(other, |a, b| a / b)
    }
    unsafe fn max(self, other: Self) -> Self {
        // as the instruction has it: the second where either is not a number
        self.with(other, |a, b| if a > b { a } else { b })
    }
    unsafe fn min(self, other: Self) -> Self {
        self.with(other, |a, b| if a < b { a } else { b })
    }
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        let mut out = self.0;
        for ((out, a), b) in out.iter_mut().zip(a.0).zip(b.0) {
            *out = out.mul_add(a, b);
        }
        Self(out)
    }
    unsafe fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }
    unsafe fn times_two_to(self, n: Self) -> Self {
        self.with(n, |a, n| f32::from_bits(a.to_bits().wrapping_add_signed((n as i32) << 23)))
    }
    unsafe fn most(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    unsafe fn whole_sum(self) -> i32 {
        self.0.into_iter().map(|value| value as i32).sum()
    }
    unsafe fn is_zero(self) -> bool {
        self.0.into_iter().all(|value| value == 0.0)
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const i8) -> Self {
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(self.0))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe { Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))))) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Self(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Self(_mm512_min_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        unsafe { Self(_mm512_fmadd_ps(self.0, a.0, b.0)) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Self(_mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(self.0)) }
    }
    #[inline(always)]
    unsafe fn times_two_to(self, n: Self) -> Self {
        unsafe {
            let shift = _mm512_slli_epi32::<23>(_mm512_cvtps_epi32(n.0));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), shift)))
        }
    }
    #[inline(always)]
    unsafe fn most(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn whole_sum(self) -> i32 {
        unsafe { _mm512_reduce_add_epi32(_mm512_cvtps_epi32(self.0)) }
    }
    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, _mm512_setzero_ps()) == u16::MAX }
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

#[cfg(target_arch = "x86_64")]
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
        unsafe { Self(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast()))) }
    }
    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0));
            _mm_storeu_si128(to.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.1));
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const i8) -> Self {
        unsafe {
            let eight = |at: usize| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(from.add(at).cast())));
            Self(eight(0), eight(8))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        unsafe {
            let pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            // packing keeps to halves of a register: 0..4, 8..12 | 4..8, 12..16
            let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
            _mm_storeu_si128(to.cast(), _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs)));
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
        unsafe { Self(_mm256_round_ps::<_MM_FROUND_TO_NEAREST_INT>(self.0), _mm256_round_ps::<_MM_FROUND_TO_NEAREST_INT>(self.1)) }
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
            let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        }
    }
    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        unsafe {
            let zero = _mm256_setzero_ps();
            let (low, high) = (_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, zero), _mm256_cmp_ps::<_CMP_EQ_OQ>(self.1, zero));
            _mm256_movemask_ps(_mm256_and_ps(low, high)) == 0xff
        }
    }
}

#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy)]
pub(super) struct Neon([float32x4_t; 4]);

#[cfg(target_arch = "aarch64")]
impl Neon {
    #[inline(always)]
    fn of(four: impl Fn(usize) -> float32x4_t) -> Self {
        Self([four(0), four(1), four(2), four(3)])
    }
}

#[cfg(target_arch = "aarch64")]
impl Lanes for Neon {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self([vdupq_n_f32(value); 4]) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self::of(|at| vld1q_f32(from.add(4 * at))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { (0..4).for_each(|at| vst1q_f32(to.add(4 * at), self.0[at])) }
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        unsafe { Self::of(|at| super::neon::four_halves(from.add(4 * at).cast())) }
    }
    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        for at in 0..4 {
            // SAFETY: registers alone are read and written, then the four f16.
            unsafe {
                let halves: uint16x4_t;
                std::arch::asm!(
                    "fcvtn {halves:v}.4h, {wide:v}.4s",
                    halves = lateout(vreg) halves, wide = in(vreg) self.0[at],
                    options(pure, nomem, nostack, preserves_flags)
                );
                vst1_u16(to.add(4 * at), halves);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const i8) -> Self {
        unsafe {
            let bytes = vld1q_s8(from);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            let low = [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low)];
            let high = [vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)];
            Self([vcvtq_f32_s32(low[0]), vcvtq_f32_s32(low[1]), vcvtq_f32_s32(high[0]), vcvtq_f32_s32(high[1])])
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut i8) {
        unsafe {
            let half = |at: usize| {
                let whole = |at: usize| vmovn_s32(vcvtnq_s32_f32(self.0[at]));
                vmovn_s16(vcombine_s16(whole(at), whole(at + 1)))
            };
            vst1q_s8(to, vcombine_s8(half(0), half(2)));
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe { Self::of(|at| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.add(4 * at))))) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        unsafe { Self::of(|at| vaddq_f32(self.0[at], other.0[at])) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Self::of(|at| vsubq_f32(self.0[at], other.0[at])) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self::of(|at| vmulq_f32(self.0[at], other.0[at])) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        unsafe { Self::of(|at| vdivq_f32(self.0[at], other.0[at])) }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // as x86-64 has it: the second where either is not a number
        unsafe { Self::of(|at| vbslq_f32(vcgtq_f32(self.0[at], other.0[at]), self.0[at], other.0[at])) }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe { Self::of(|at| vbslq_f32(vcltq_f32(self.0[at], other.0[at]), self.0[at], other.0[at])) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, a: Self, b: Self) -> Self {
        unsafe { Self::of(|at| vfmaq_f32(b.0[at], self.0[at], a.0[at])) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        unsafe { Self::of(|at| vrndnq_f32(self.0[at])) }
    }
    #[inline(always)]
    unsafe fn times_two_to(self, n: Self) -> Self {
        unsafe {
            Self::of(|at| {
                let shift = vshlq_n_s32::<23>(vcvtq_s32_f32(n.0[at]));
                vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(self.0[at]), shift))
            })
        }
    }
    #[inline(always)]
    unsafe fn most(self) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(self.0[0], self.0[1]), vmaxq_f32(self.0[2], self.0[3]))) }
    }
    #[inline(always)]
    unsafe fn whole_sum(self) -> i32 {
        unsafe {
            let [a, b, c, d] = self.0;
            vaddvq_s32(vaddq_s32(vaddq_s32(vcvtnq_s32_f32(a), vcvtnq_s32_f32(b)), vaddq_s32(vcvtnq_s32_f32(c), vcvtnq_s32_f32(d))))
        }
    }
    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        unsafe {
            let [a, b, c, d] = self.0;
            vminvq_u32(vandq_u32(vandq_u32(vceqzq_f32(a), vceqzq_f32(b)), vandq_u32(vceqzq_f32(c), vceqzq_f32(d)))) == u32::MAX
        }
    }
}

/// A safe function that runs a generic kernel with the lanes of an instruction set.
macro_rules! for_isa {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name(isa: $crate::kernels::Isa, $($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
                unsafe fn avx512($($arg: $type),*) $(-> $ret)? {
                    unsafe { $body::<$crate::kernels::lanes::Avx512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn avx2($($arg: $type),*) $(-> $ret)? {
                    unsafe { $body::<$crate::kernels::lanes::Avx2>($($arg),*) }
                }
                match isa {
                    $crate::kernels::Isa::Avx512Vnni => return unsafe { avx512($($arg),*) },
                    $crate::kernels::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::kernels::Isa::Neon | $crate::kernels::Isa::Portable => {}
                }
            }
            #[cfg(target_arch = "aarch64")]
            if isa == $crate::kernels::Isa::Neon {
                #[target_feature(enable = "neon")]
                unsafe fn neon($($arg: $type),*) $(-> $ret)? {
                    unsafe { $body::<$crate::kernels::lanes::Neon>($($arg),*) }
                }
                return unsafe { neon($($arg),*) };
            }
            let _ = isa;
            unsafe { $body::<$crate::kernels::lanes::Portable>($($arg),*) }
        }
    };
}
pub(super) use for_isa;
