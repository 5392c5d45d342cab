//! Sixteen f32 lanes in four NEON registers.

use std::arch::aarch64::*;

use super::vector::Lanes;

#[derive(Clone, Copy)]
pub(in super::super) struct Neon([float32x4_t; 4]);

impl Neon {
    #[inline(always)]
    fn of(four: impl Fn(usize) -> float32x4_t) -> Self {
        Self([four(0), four(1), four(2), four(3)])
    }
}

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
        unsafe { Self::of(|at| super::super::neon_ops::four_halves(from.add(4 * at).cast())) }
    }
    #[inline(always)]
    unsafe fn store_half(self, to: *mut u16) {
        for at in 0..4 {
            // SAFETY: the instruction only accesses registers; then four f16 are stored.
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
        unsafe {
            Self::of(|at| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.add(4 * at)))))
        }
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
        // as on x86-64: `other` if either is NaN
        unsafe {
            Self::of(|at| vbslq_f32(vcgtq_f32(self.0[at], other.0[at]), self.0[at], other.0[at]))
        }
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        unsafe {
            Self::of(|at| vbslq_f32(vcltq_f32(self.0[at], other.0[at]), self.0[at], other.0[at]))
        }
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
        unsafe {
            vmaxvq_f32(vmaxq_f32(vmaxq_f32(self.0[0], self.0[1]), vmaxq_f32(self.0[2], self.0[3])))
        }
    }
    #[inline(always)]
    unsafe fn whole_sum(self) -> i32 {
        unsafe {
            let [a, b, c, d] = self.0;
            vaddvq_s32(vaddq_s32(
                vaddq_s32(vcvtnq_s32_f32(a), vcvtnq_s32_f32(b)),
                vaddq_s32(vcvtnq_s32_f32(c), vcvtnq_s32_f32(d)),
            ))
        }
    }
    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        unsafe {
            let [a, b, c, d] = self.0;
            vminvq_u32(vandq_u32(
                vandq_u32(vceqzq_f32(a), vceqzq_f32(b)),
                vandq_u32(vceqzq_f32(c), vceqzq_f32(d)),
            )) == u32::MAX
        }
    }

    type Whole = [int32x4_t; 4];
    /// Signed: the offset of 128 is removed on loading.
    type Fours = [int8x16_t; 4];

    #[inline(always)]
    unsafe fn start(_: i32) -> Self::Whole {
        unsafe { [vdupq_n_s32(0); 4] }
    }
    #[inline(always)]
    unsafe fn load_fours(from: *const u8) -> Self::Fours {
        unsafe {
            let four = |at: usize| {
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from.add(16 * at)), vdupq_n_u8(0x80)))
            };
            [four(0), four(1), four(2), four(3)]
        }
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::Whole, w: Self::Fours, x: *const i8) -> Self::Whole {
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()));
            let four = |at: usize| super::super::neon_ops::dot::<0>(sum[at], w[at], x);
            [four(0), four(1), four(2), four(3)]
        }
    }
    #[inline(always)]
    unsafe fn from_whole(sum: Self::Whole) -> Self {
        unsafe { Self::of(|at| vcvtq_f32_s32(sum[at])) }
    }
}
