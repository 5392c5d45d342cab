//! Vectors of sixteen f32 lanes, with bit-identical results on every instruction set.
//!
//! Kernels that are generic over [`Lanes`] are written once: each instruction set computes the same
//! IEEE operations in the same order. Methods must be inlined into a function for which the
//! instruction set is enabled; [`for_isa`] generates such functions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod vector;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;

#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;
pub(super) use portable::Portable;
pub(super) use vector::{LANES, Lanes};

/// The sum of all lanes, as a tree: the upper half is added to the lower half, then recursively.
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn sum<V: Lanes>(v: V) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    // SAFETY: as the caller guarantees.
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
    // SAFETY: as the caller guarantees.
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

/// e^x to about 1 ulp: range reduction by ln 2 in two parts, then a polynomial (Cephes' `expf`,
/// Moshier).
///
/// # Safety
/// As [`Lanes`].
#[inline(always)]
pub(super) unsafe fn exp<V: Lanes>(x: V) -> V {
    // SAFETY: as the caller guarantees.
    unsafe {
        // clamp to [-87, 88], so that 2^n stays a normal number: e^-87 is small enough to count as
        // 0 (max and min return their second operand if either is NaN, so that a NaN propagates)
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

/// Defines a function that calls a kernel generic over [`Lanes`] for the instruction set `isa`.
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
                #[target_feature(enable = "neon,dotprod")]
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
