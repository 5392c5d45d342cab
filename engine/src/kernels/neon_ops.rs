//! NEON instructions that have no stable intrinsic.

use std::arch::aarch64::*;
use std::arch::asm;

/// Adds to each lane of `sum` the dot product of a row's four columns in `w` with the four columns
/// of `x` that `LANE` selects (`sdot`, whose intrinsic is not stable yet).
///
/// # Safety
/// The processor has the dot-product extension.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn dot<const LANE: usize>(
    mut sum: int32x4_t,
    w: int8x16_t,
    x: int8x16_t,
) -> int32x4_t {
    // SAFETY: the instruction only accesses registers, and the processor supports it.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// Loads four f16 as f32.
///
/// # Safety
/// 8 bytes can be read at `at`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn four_halves(at: *const u8) -> float32x4_t {
    // SAFETY: as the caller guarantees; the instruction only accesses registers.
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
