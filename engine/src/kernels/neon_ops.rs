//! NEON instructions without a stable intrinsic.

use std::arch::aarch64::*;
use std::arch::asm;

/// `sum` plus the products of four columns of four rows with the four columns of `x` that `LANE`
/// says. The intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn dot<const LANE: usize>(
    mut sum: int32x4_t,
    w: int8x16_t,
    x: int8x16_t,
) -> int32x4_t {
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
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
        wide
    }
}
