//! The operations of a vector of f32 lanes.

/// Number of lanes of a vector.
pub(in super::super) const LANES: usize = 16;

/// A vector of sixteen f32.
///
/// # Safety
/// For every method: the processor supports the instruction set of the implementation, and pointers
/// point to [`LANES`] elements unless stated otherwise. Pointers need not be aligned.
pub(in super::super) trait Lanes: Copy {
    /// Whether one register holds the vector and there are enough registers for a large tile.
    const WIDE: bool = false;

    /// Sets every lane to `value`.
    unsafe fn splat(value: f32) -> Self;
    /// Loads f32.
    unsafe fn load(from: *const f32) -> Self;
    /// Stores f32.
    unsafe fn store(self, to: *mut f32);
    /// Loads f16.
    unsafe fn load_half(from: *const u16) -> Self;
    /// Stores f16, rounded with ties to even.
    unsafe fn store_half(self, to: *mut u16);
    /// Stores int8; lanes are integers in the range of int8.
    unsafe fn store_bytes(self, to: *mut i8);
    /// Loads bf16.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// `self + other` per lane.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other` per lane.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self · other` per lane.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other` per lane.
    unsafe fn div(self, other: Self) -> Self;
    /// The larger value per lane; `other` if either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller value per lane; `other` if either is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// Fused multiply-add, `self · a + b`, rounded once.
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// Rounds to integers, ties to even.
    unsafe fn round(self) -> Self;
    /// `self · 2^n` for integer `n`; `2^n` and the result must be normal numbers.
    unsafe fn times_two_to(self, n: Self) -> Self;
    /// The largest lane; no lane may be NaN.
    unsafe fn most(self) -> f32;
    /// The sum of the lanes, which are integers in the range of int8.
    unsafe fn whole_sum(self) -> i32;
    /// Whether every lane is 0.
    unsafe fn is_zero(self) -> bool;

    /// Sixteen i32 accumulators.
    type Whole: Copy;
    /// Four int8 weights per lane.
    type Fours: Copy;

    /// Initial accumulators for [`dot`](Self::dot), given the sum of the activations: they correct
    /// for the offset of 128 with which weights are stored, where the instruction keeps it.
    unsafe fn start(sum: i32) -> Self::Whole;
    /// Loads four weights per lane (64 bytes), stored with an offset of 128.
    unsafe fn load_fours(from: *const u8) -> Self::Fours;
    /// Adds to each lane the dot product of its four weights with the four bytes at `x`, none of
    /// which is -128.
    unsafe fn dot(sum: Self::Whole, w: Self::Fours, x: *const i8) -> Self::Whole;
    /// Converts i32 to f32.
    unsafe fn from_whole(sum: Self::Whole) -> Self;
}
