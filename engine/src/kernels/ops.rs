//! Element-wise and row-wise operations: norms, rotations, activation functions.

use super::isa::Isa;
use super::lanes::{LANES, Lanes, exp, for_isa, largest, sum};

/// RMSNorm (Zhang and Sennrich 2019) of one row: `x / sqrt(mean(x²) + eps) · weight`.
///
/// # Panics
/// When the lengths differ or are not a multiple of 16.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(
        x.len() == weight.len() && x.len() == out.len() && x.len().is_multiple_of(LANES),
        "rows of one length"
    );
    // SAFETY: the pointers point to the stated number of elements, a multiple of the lanes.
    unsafe { rms_norm_isa(isa, x.as_ptr(), weight.as_ptr(), x.len(), eps, out.as_mut_ptr()) }
}

for_isa! { unsafe fn rms_norm_isa(x: *const f32, weight: *const f32, len: usize, eps: f32, out: *mut f32) = rms_norm_body }

#[inline(always)]
unsafe fn rms_norm_body<V: Lanes>(
    x: *const f32,
    weight: *const f32,
    len: usize,
    eps: f32,
    out: *mut f32,
) {
    // SAFETY: as `rms_norm` has checked.
    unsafe {
        let scale = inverse_rms::<V>(x, len, eps);
        for at in (0..len).step_by(LANES) {
            V::load(x.add(at)).mul(scale).mul(V::load(weight.add(at))).store(out.add(at));
        }
    }
}

/// `1 / sqrt(mean(x²) + eps)` in every lane.
///
/// # Safety
/// `x` points to `len` values, a multiple of the lanes, and the processor supports `V`.
#[inline(always)]
pub(super) unsafe fn inverse_rms<V: Lanes>(x: *const f32, len: usize, eps: f32) -> V {
    // SAFETY: as the caller guarantees.
    unsafe {
        let mut squares = V::splat(0.0);
        for at in (0..len).step_by(LANES) {
            let x = V::load(x.add(at));
            squares = x.mul_add(x, squares);
        }
        V::splat(1.0 / (sum(squares) / len as f32 + eps).sqrt())
    }
}

/// `x · sigmoid(x)`.
///
/// # Safety
/// The processor supports `V`.
#[inline(always)]
pub(super) unsafe fn silu<V: Lanes>(x: V) -> V {
    // SAFETY: as the caller guarantees.
    unsafe { x.div(V::splat(1.0).add(exp(V::splat(0.0).sub(x)))) }
}

/// SwiGLU gate (Shazeer 2020): `gate = gate · sigmoid(gate) · up`.
///
/// # Panics
/// When the lengths differ or are not a multiple of 16.
pub fn silu_mul(isa: Isa, gate: &mut [f32], up: &[f32]) {
    assert!(gate.len() == up.len() && gate.len().is_multiple_of(LANES), "rows of one length");
    // SAFETY: as in `rms_norm`.
    unsafe { silu_mul_isa(isa, gate.as_mut_ptr(), up.as_ptr(), gate.len()) }
}

for_isa! { unsafe fn silu_mul_isa(gate: *mut f32, up: *const f32, len: usize) = silu_mul_body }

#[inline(always)]
unsafe fn silu_mul_body<V: Lanes>(gate: *mut f32, up: *const f32, len: usize) {
    // SAFETY: as `silu_mul` has checked.
    unsafe {
        for at in (0..len).step_by(LANES) {
            silu(V::load(gate.add(at))).mul(V::load(up.add(at))).store(gate.add(at));
        }
    }
}

/// `x += y`.
///
/// # Panics
/// When the lengths differ or are not a multiple of 16.
pub fn add(isa: Isa, x: &mut [f32], y: &[f32]) {
    assert!(x.len() == y.len() && x.len().is_multiple_of(LANES), "rows of one length");
    // SAFETY: as in `rms_norm`.
    unsafe { add_isa(isa, x.as_mut_ptr(), y.as_ptr(), x.len()) }
}

for_isa! { unsafe fn add_isa(x: *mut f32, y: *const f32, len: usize) = add_body }

#[inline(always)]
unsafe fn add_body<V: Lanes>(x: *mut f32, y: *const f32, len: usize) {
    // SAFETY: as `add` has checked.
    unsafe {
        for at in (0..len).step_by(LANES) {
            V::load(x.add(at)).add(V::load(y.add(at))).store(x.add(at));
        }
    }
}

/// Rotates the heads of one row by its position (RoPE, Su et al. 2021). `row` is `[heads,
/// head_dim]`, `cos` and `sin` are `[head_dim / 2]`. Pairs are adjacent columns (`interleaved`, the
/// order of GGUF) or columns of the two halves (the order of Hugging Face).
pub fn rotate(row: &mut [f32], cos: &[f32], sin: &[f32], interleaved: bool) {
    let pairs = cos.len();
    for head in row.chunks_exact_mut(2 * pairs) {
        if interleaved {
            for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a * cos - b * sin;
                pair[1] = a * sin + b * cos;
            }
        } else {
            let (first, second) = head.split_at_mut(pairs);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

/// The largest finite f16. Larger magnitudes are clamped to it: an infinity would make sums that
/// include it NaN.
const MOST_HALF: f32 = 65_504.0;

/// Converts f32 to f16, ties to even, clamped to the largest finite f16. NaN stays NaN.
///
/// # Panics
/// When the lengths differ or are not a multiple of 16.
pub fn to_half(isa: Isa, x: &[f32], out: &mut [u16]) {
    assert!(x.len() == out.len() && x.len().is_multiple_of(LANES), "rows of one length");
    // SAFETY: as in `rms_norm`.
    unsafe { to_half_isa(isa, x.as_ptr(), out.as_mut_ptr(), x.len()) }
}

for_isa! { unsafe fn to_half_isa(x: *const f32, out: *mut u16, len: usize) = to_half_body }

#[inline(always)]
unsafe fn to_half_body<V: Lanes>(x: *const f32, out: *mut u16, len: usize) {
    // SAFETY: as `to_half` has checked.
    unsafe {
        for at in (0..len).step_by(LANES) {
            // with this operand order a NaN propagates
            V::splat(MOST_HALF)
                .min(V::splat(-MOST_HALF).max(V::load(x.add(at))))
                .store_half(out.add(at));
        }
    }
}

/// Finite substitute for −∞ in shifted logits: `0 · −∞` would be NaN.
const FAR_BELOW: f32 = -1e4;

/// Sums of a softmax over any number of logits, from which its normaliser and entropy follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftmaxSums {
    /// The largest logit.
    pub best: f32,
    /// `Σ exp(logit − best)`.
    pub total: f32,
    /// `Σ exp(logit − best) · (logit − best)`.
    pub weighted: f32,
}

/// Computes [`SoftmaxSums`] of any number of logits.
pub fn softmax_sums(isa: Isa, logits: &[f32]) -> SoftmaxSums {
    let (whole, rest) = logits.split_at(logits.len() / LANES * LANES);
    let mut tail = [f32::NEG_INFINITY; LANES];
    tail[..rest.len()].copy_from_slice(rest);
    // SAFETY: the length is a multiple of the lanes, and the tail has one vector.
    unsafe { softmax_sums_isa(isa, whole.as_ptr(), whole.len(), tail.as_ptr()) }
}

for_isa! { unsafe fn softmax_sums_isa(x: *const f32, len: usize, tail: *const f32) -> SoftmaxSums = softmax_sums_body }

#[inline(always)]
unsafe fn softmax_sums_body<V: Lanes>(x: *const f32, len: usize, tail: *const f32) -> SoftmaxSums {
    // SAFETY: as `softmax_sums` passes it.
    unsafe {
        let best = most_body::<V>(std::slice::from_raw_parts(x, len), &*tail.cast());
        let (shift, floor) = (V::splat(best), V::splat(FAR_BELOW));
        // one loop for body and tail: a closure called from two places would not be inlined, and
        // without inlining each vector instruction becomes a function call
        let mut sums = [[V::splat(0.0); 2]; 2];
        for at in (0..len + LANES).step_by(LANES) {
            let values = if at < len { V::load(x.add(at)) } else { V::load(tail) };
            let shifted = floor.max(values.sub(shift));
            let weight = exp(shifted);
            let [total, weighted] = &mut sums[at / LANES % 2];
            *total = total.add(weight);
            *weighted = weight.mul_add(shifted, *weighted);
        }
        let [even, odd] = sums;
        SoftmaxSums { best, total: sum(even[0].add(odd[0])), weighted: sum(even[1].add(odd[1])) }
    }
}

/// The largest value of `x`, of any length; −∞ if empty.
pub fn most_of(isa: Isa, x: &[f32]) -> f32 {
    let (whole, rest) = x.split_at(x.len() / LANES * LANES);
    let mut tail = [f32::NEG_INFINITY; LANES];
    tail[..rest.len()].copy_from_slice(rest);
    // SAFETY: the length is a multiple of the lanes, and the tail has one vector.
    unsafe { most_isa(isa, whole, &tail) }
}

for_isa! { unsafe fn most_isa(x: &[f32], tail: &[f32; LANES]) -> f32 = most_body }

#[inline(always)]
unsafe fn most_body<V: Lanes>(x: &[f32], tail: &[f32; LANES]) -> f32 {
    // SAFETY: as `most_of` passes it.
    unsafe {
        let mut most = V::load(tail.as_ptr());
        for at in (0..x.len()).step_by(LANES) {
            most = most.max(V::load(x.as_ptr().add(at)));
        }
        largest(most)
    }
}

/// `x = exp((x − shift) · scale)` for any length; arguments below -87 result in about 1e-38.
pub fn exp_shifted(isa: Isa, x: &mut [f32], shift: f32, scale: f32) {
    let whole = x.len() / LANES * LANES;
    let (x, rest) = x.split_at_mut(whole);
    let mut tail = [0.0; LANES];
    tail[..rest.len()].copy_from_slice(rest);
    // SAFETY: the length is a multiple of the lanes, and the tail has one vector.
    unsafe {
        exp_shifted_isa(isa, x.as_mut_ptr(), x.len(), shift, scale);
        exp_shifted_isa(isa, tail.as_mut_ptr(), LANES, shift, scale);
    }
    rest.copy_from_slice(&tail[..rest.len()]);
}

for_isa! { unsafe fn exp_shifted_isa(x: *mut f32, len: usize, shift: f32, scale: f32) = exp_shifted_body }

#[inline(always)]
unsafe fn exp_shifted_body<V: Lanes>(x: *mut f32, len: usize, shift: f32, scale: f32) {
    // SAFETY: as `exp_shifted` passes it.
    unsafe {
        let (shift, scale, floor) = (V::splat(shift), V::splat(scale), V::splat(FAR_BELOW));
        for at in (0..len).step_by(LANES) {
            exp(floor.max(V::load(x.add(at)).sub(shift).mul(scale))).store(x.add(at));
        }
    }
}
