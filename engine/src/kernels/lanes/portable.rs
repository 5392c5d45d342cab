//! Sixteen f32 lanes in scalar code.

use half::f16;

use super::vector::{LANES, Lanes};

/// Scalar implementation of [`Lanes`].
#[derive(Clone, Copy)]
pub(in super::super) struct Portable([f32; LANES]);

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
        // SAFETY: as the trait requires.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as the trait requires.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    unsafe fn load_half(from: *const u16) -> Self {
        // SAFETY: as the trait requires.
        let halves = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        Self(halves.map(|half| f16::from_bits(half).to_f32()))
    }
    unsafe fn store_half(self, to: *mut u16) {
        // SAFETY: as the trait requires.
        unsafe {
            to.cast::<[u16; LANES]>()
                .write_unaligned(self.0.map(|value| f16::from_f32(value).to_bits()))
        }
    }
    unsafe fn store_bytes(self, to: *mut i8) {
        // SAFETY: as the trait requires.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(self.0.map(|value| value as i8)) }
    }
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: as the trait requires.
        Self(
            unsafe { from.cast::<[u16; LANES]>().read_unaligned() }
                .map(|bits| f32::from_bits(u32::from(bits) << 16)),
        )
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
        // as the x86-64 instruction: `other` if either is NaN
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

    type Whole = [i32; LANES];
    type Fours = [[u8; 4]; LANES];

    unsafe fn start(_: i32) -> Self::Whole {
        [0; LANES]
    }
    unsafe fn load_fours(from: *const u8) -> Self::Fours {
        // SAFETY: as the trait requires.
        unsafe { from.cast::<Self::Fours>().read_unaligned() }
    }
    unsafe fn dot(mut sum: Self::Whole, w: Self::Fours, x: *const i8) -> Self::Whole {
        // SAFETY: as the trait requires.
        let x = unsafe { x.cast::<[i8; 4]>().read_unaligned() };
        for (sum, w) in sum.iter_mut().zip(w) {
            *sum +=
                w.into_iter().zip(x).map(|(w, x)| (i32::from(w) - 128) * i32::from(x)).sum::<i32>();
        }
        sum
    }
    unsafe fn from_whole(sum: Self::Whole) -> Self {
        Self(sum.map(|sum| sum as f32))
    }
}
