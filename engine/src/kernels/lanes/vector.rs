//! The operations of a vector.

/// Lanes of a vector.
pub(in super::super) const LANES: usize = 16;

/// Sixteen f32.
///
/// # Safety
/// Of every function: the processor has the instruction set of the implementation, and pointers
/// hold [`LANES`] elements.
pub(in super::super) trait Lanes: Copy {
    /// One register holds them, and there are enough registers for a large tile.
    const WIDE: bool = false;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// From f16.
    unsafe fn load_half(from: *const u16) -> Self;
    /// To f16, ties to even.
    unsafe fn store_half(self, to: *mut u16);
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

    /// Sixteen i32: sums of whole numbers.
    type Whole: Copy;
    /// Four int8 a lane.
    type Fours: Copy;

    /// Where sums begin, of weights that stand plus 128 with activations whose sum is `sum`.
    unsafe fn start(sum: i32) -> Self::Whole;
    /// Four bytes of each lane, plus 128.
    unsafe fn load_fours(from: *const u8) -> Self::Fours;
    /// Adds each lane's four products with the four bytes at `x`, none of which is -128.
    unsafe fn dot(sum: Self::Whole, w: Self::Fours, x: *const i8) -> Self::Whole;
    unsafe fn from_whole(sum: Self::Whole) -> Self;
}
