//! Backward passes of the operations between matrix products, for training.

use super::ThreadPool;
use super::isa::Isa;
use super::lanes::{LANES, Lanes, exp, for_isa, sum};

/// Two buffers of the same size that threads write row by row.
struct Rows(*mut f32, *mut f32);

// SAFETY: threads write different rows.
unsafe impl Sync for Rows {}

/// Adds the gradient of [`rms_norm`](super::rms_norm)'s input to `dx`, given `dy`, the gradient of
/// its output: `dxᵢ += r wᵢ dyᵢ - xᵢ r³ Σⱼ wⱼ dyⱼ xⱼ / n`, where `r = 1 / sqrt(mean(x²) + eps)`.
/// `x`, `dy` and `dx` are `[rows, n]`, `weight` is `[n]`.
///
/// # Panics
/// When the shapes do not match.
pub fn rms_norm_backward(
    threads: &ThreadPool,
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
) {
    let width = weight.len();
    assert!(
        x.len() == dy.len() && x.len() == dx.len() && width.is_multiple_of(LANES),
        "rows of one length"
    );
    threads.for_rows(dx, width, |row, dx| {
        let (x, dy) = (&x[row * width..(row + 1) * width], &dy[row * width..(row + 1) * width]);
        // SAFETY: the pointers point to `width` elements, a multiple of the lanes.
        unsafe {
            rms_norm_isa(isa, x.as_ptr(), weight.as_ptr(), width, eps, dy.as_ptr(), dx.as_mut_ptr())
        }
    });
}

for_isa! { unsafe fn rms_norm_isa(x: *const f32, weight: *const f32, len: usize, eps: f32, dy: *const f32, dx: *mut f32) = rms_norm_body }

#[inline(always)]
unsafe fn rms_norm_body<V: Lanes>(
    x: *const f32,
    weight: *const f32,
    len: usize,
    eps: f32,
    dy: *const f32,
    dx: *mut f32,
) {
    // SAFETY: as `rms_norm_backward` says.
    unsafe {
        let (mut squares, mut along) = (V::splat(0.0), V::splat(0.0));
        for at in (0..len).step_by(LANES) {
            let x = V::load(x.add(at));
            squares = x.mul_add(x, squares);
            along = V::load(weight.add(at)).mul(V::load(dy.add(at))).mul_add(x, along);
        }
        let r = 1.0 / (sum(squares) / len as f32 + eps).sqrt();
        let (less, r) = (V::splat(-(r * r * r) * sum(along) / len as f32), V::splat(r));
        for at in (0..len).step_by(LANES) {
            let direct = V::load(weight.add(at)).mul(V::load(dy.add(at))).mul(r);
            let gradient = V::load(x.add(at)).mul_add(less, direct);
            V::load(dx.add(at)).add(gradient).store(dx.add(at));
        }
    }
}

/// `out = silu(gate) · up`, leaving `gate` and `up` unchanged. All are `[rows, width]`.
///
/// # Panics
/// When the lengths differ, or 16 does not divide `width`.
pub fn swiglu(
    threads: &ThreadPool,
    isa: Isa,
    gate: &[f32],
    up: &[f32],
    width: usize,
    out: &mut [f32],
) {
    assert!(
        gate.len() == up.len() && gate.len() == out.len() && width.is_multiple_of(LANES),
        "rows of one length"
    );
    threads.for_rows(out, width, |row, out| {
        out.copy_from_slice(&gate[row * width..(row + 1) * width]);
        super::silu_mul(isa, out, &up[row * width..(row + 1) * width]);
    });
}

/// Replaces `gate` and `up` by their gradients, given `dout`, the gradient of [`swiglu`]'s output.
/// All are `[rows, width]`.
///
/// # Panics
/// When the shapes do not match.
pub fn swiglu_backward(
    threads: &ThreadPool,
    isa: Isa,
    dout: &[f32],
    width: usize,
    gate: &mut [f32],
    up: &mut [f32],
) {
    assert!(
        gate.len() == up.len() && gate.len() == dout.len() && width.is_multiple_of(LANES),
        "rows of one length"
    );
    let (to, rows) = (Rows(gate.as_mut_ptr(), up.as_mut_ptr()), gate.len() / width);
    threads.run(|thread, threads| {
        let to = &to;
        let range = rows * thread / threads * width..rows * (thread + 1) / threads * width;
        // SAFETY: the range is within all three, and no other thread accesses these rows.
        unsafe {
            swiglu_isa(
                isa,
                dout.as_ptr().add(range.start),
                range.len(),
                to.0.add(range.start),
                to.1.add(range.start),
            )
        }
    });
}

for_isa! { unsafe fn swiglu_isa(dout: *const f32, len: usize, gate: *mut f32, up: *mut f32) = swiglu_body }

#[inline(always)]
unsafe fn swiglu_body<V: Lanes>(dout: *const f32, len: usize, gate: *mut f32, up: *mut f32) {
    // SAFETY: as `swiglu_backward` says.
    unsafe {
        let one = V::splat(1.0);
        for at in (0..len).step_by(LANES) {
            let (d, g, u) = (V::load(dout.add(at)), V::load(gate.add(at)), V::load(up.add(at)));
            let sigmoid = one.div(one.add(exp(V::splat(0.0).sub(g))));
            let slope = one.sub(sigmoid).mul_add(g, one).mul(sigmoid);
            d.mul(u).mul(slope).store(gate.add(at));
            d.mul(g).mul(sigmoid).store(up.add(at));
        }
    }
}

/// Replaces a row of logits by `weight · softmax(logits)`, given `log_sum = log Σ e^logit`.
///
/// # Panics
/// When 16 does not divide the length.
pub fn softmax_scaled(isa: Isa, logits: &mut [f32], log_sum: f32, weight: f32) {
    assert!(logits.len().is_multiple_of(LANES), "whole lanes");
    // SAFETY: the length is a multiple of the lanes.
    unsafe { softmax_scaled_isa(isa, logits.as_mut_ptr(), logits.len(), log_sum, weight) }
}

for_isa! { unsafe fn softmax_scaled_isa(logits: *mut f32, len: usize, log_sum: f32, weight: f32) = softmax_scaled_body }

#[inline(always)]
unsafe fn softmax_scaled_body<V: Lanes>(logits: *mut f32, len: usize, log_sum: f32, weight: f32) {
    // SAFETY: as `softmax_scaled` says.
    unsafe {
        let (log_sum, weight) = (V::splat(log_sum), V::splat(weight));
        for at in (0..len).step_by(LANES) {
            exp(V::load(logits.add(at)).sub(log_sum)).mul(weight).store(logits.add(at));
        }
    }
}
