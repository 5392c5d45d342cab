//! Activations in int8, quantised in the same pass that computes them.

use std::ops::Range;

use super::ThreadPool;
use super::isa::{BLOCK, Isa};
use super::lanes::{LANES, Lanes, for_isa};
use super::ops::{inverse_rms, silu};
use super::rounding::{Rounding, Target, View, round_isa};

/// Activations in int8, `[tokens, columns]`, with a scale per block of [`BLOCK`] columns. Buffers
/// are reused between steps.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    columns: usize,
    /// Quants, `[tokens, columns]`.
    pub(super) quants: Vec<i8>,
    /// Scales, `[tokens, columns / BLOCK]`, as are the sums below.
    pub(super) scales: Vec<f32>,
    /// The sum of each block's quants, multiplied with the offset of the weights.
    pub(super) sums: Vec<i32>,
    /// The sum of the quants of each block's first half.
    pub(super) first: Vec<i32>,
    /// Scale times sum of each block, multiplied with the minima of the weights.
    pub(super) weighted: Vec<f32>,
}

/// The residual stream and the weight of the norm that follows.
#[derive(Debug)]
pub struct Residual<'a> {
    /// The residual stream, `[tokens, columns]`, updated in place.
    pub x: &'a mut [f32],
    /// Addend of the same shape; empty for none.
    pub delta: &'a [f32],
    /// Weight of the norm, `[columns]`.
    pub weight: &'a [f32],
    /// Added to the mean square under the root.
    pub eps: f32,
}

impl Activations {
    /// Number of rows; with [`Rounding::Twice`] two per token.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn blocks(&self) -> usize {
        self.columns / BLOCK
    }

    /// Resizes to `[tokens, columns]`, discarding the contents.
    fn reset(&mut self, tokens: usize, columns: usize) {
        (self.tokens, self.columns) = (tokens, columns);
        self.quants.resize(tokens * columns, 0);
        let blocks = tokens * columns / BLOCK;
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0);
        self.first.resize(blocks, 0);
        self.weighted.resize(blocks, 0.0);
    }

    /// Resizes for `tokens` tokens; returns the destination of their rows.
    ///
    /// # Panics
    /// When `columns` is not a multiple of [`BLOCK`], unless rounding is [`Rounding::None`].
    pub(super) fn target(&mut self, tokens: usize, columns: usize, rounding: Rounding) -> Target {
        if rounding != Rounding::None {
            assert!(columns.is_multiple_of(BLOCK), "whole blocks");
            self.reset(rounding.rows() * tokens, columns);
        }
        Target {
            quants: self.quants.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            first: self.first.as_mut_ptr(),
            weighted: self.weighted.as_mut_ptr(),
            blocks: if rounding == Rounding::None { 0 } else { columns / BLOCK },
            stride: columns / BLOCK,
            rounding,
        }
    }

    /// A view for kernels, with `rows` rows per token.
    pub(super) fn view(&self, rows: usize) -> View {
        View {
            quants: self.quants.as_ptr(),
            scales: self.scales.as_ptr(),
            sums: self.sums.as_ptr(),
            first: self.first.as_ptr(),
            stride: self.blocks(),
            rows,
        }
    }

    /// Quantises `x`, `[tokens, columns]`, to int8.
    ///
    /// # Panics
    /// When `x` does not hold whole rows, or `columns` is not a multiple of [`BLOCK`].
    pub fn quantise(
        &mut self,
        threads: &ThreadPool,
        isa: Isa,
        x: &[f32],
        columns: usize,
        rounding: Rounding,
    ) {
        assert!(x.len().is_multiple_of(columns), "whole rows");
        let tokens = x.len() / columns;
        let target = self.target(tokens, columns, rounding);
        if rounding == Rounding::None {
            return;
        }
        in_parts(threads, tokens, columns, |token, part| {
            let x = &x[token * columns..][part.clone()];
            // SAFETY: no other thread writes this part of the token, which is within the buffers;
            // `isa` was detected.
            unsafe { round_isa(isa, x.as_ptr(), target.at(token).part(part)) };
        });
    }

    /// `x += delta`, then RMSNorm (Zhang and Sennrich 2019) into `normed`, `[tokens, columns]`:
    /// `x / sqrt(mean(x²) + eps) · weight`, quantised in the same pass.
    ///
    /// # Panics
    /// When the shapes do not match, or `columns` is not a multiple of 16 (of [`BLOCK`], if
    /// quantised).
    pub fn add_norm(
        &mut self,
        threads: &ThreadPool,
        isa: Isa,
        residual: Residual<'_>,
        normed: &mut [f32],
        rounding: Rounding,
    ) {
        let Residual { x, delta, weight, eps } = residual;
        let columns = weight.len();
        assert!(
            columns.is_multiple_of(LANES)
                && x.len().is_multiple_of(columns)
                && x.len() == normed.len(),
            "rows of one length"
        );
        assert!(delta.is_empty() || delta.len() == x.len(), "size of the addend");
        let tokens = x.len() / columns;
        let target = self.target(tokens, columns, rounding);
        let (x, normed) = (Rows(x.as_mut_ptr()), Rows(normed.as_mut_ptr()));
        by_token(threads, tokens, columns, |token| {
            let (x, normed, at) = (&x, &normed, token * columns);
            let delta = if delta.is_empty() { delta } else { &delta[at..at + columns] };
            // SAFETY: the rows exist, and no other thread writes this token; `isa` was detected.
            unsafe {
                norm_isa(isa, x.0.add(at), delta, weight, eps, normed.0.add(at), target.at(token))
            };
        });
    }

    /// SwiGLU gate (Shazeer 2020), `gate = gate · sigmoid(gate) · up`, `[tokens, columns]`,
    /// quantised in the same pass.
    ///
    /// # Panics
    /// As [`add_norm`](Self::add_norm).
    pub fn silu_mul(
        &mut self,
        threads: &ThreadPool,
        isa: Isa,
        gate: &mut [f32],
        up: &[f32],
        columns: usize,
        rounding: Rounding,
    ) {
        assert!(
            columns.is_multiple_of(LANES)
                && gate.len().is_multiple_of(columns)
                && gate.len() == up.len(),
            "rows of one length"
        );
        let tokens = gate.len() / columns;
        let target = self.target(tokens, columns, rounding);
        let gate = Rows(gate.as_mut_ptr());
        in_parts(threads, tokens, columns, |token, part| {
            let gate = &gate;
            let up = &up[token * columns..][part.clone()];
            // SAFETY: as in `add_norm`, for this part only.
            unsafe {
                silu_isa(
                    isa,
                    gate.0.add(token * columns + part.start),
                    up,
                    target.at(token).part(part),
                )
            };
        });
    }
}

/// Minimum number of elements to use several threads: with fewer, waking them costs more than it
/// saves.
const SHARED_FROM: usize = 2048;

/// Runs `row` for each token, with tokens divided among the threads if there is enough work.
fn by_token(threads: &ThreadPool, tokens: usize, columns: usize, row: impl Fn(usize) + Sync) {
    if tokens < 2 || tokens * columns < SHARED_FROM {
        return (0..tokens).for_each(row);
    }
    threads.run(|thread, threads| {
        (tokens * thread / threads..tokens * (thread + 1) / threads).for_each(&row)
    });
}

/// Runs `part` for each token. With many tokens, threads divide the tokens; with few, they divide
/// the columns at block boundaries.
fn in_parts(
    threads: &ThreadPool,
    tokens: usize,
    columns: usize,
    part: impl Fn(usize, Range<usize>) + Sync,
) {
    if tokens >= 2 * threads.threads()
        || tokens * columns < SHARED_FROM
        || !columns.is_multiple_of(BLOCK)
    {
        return by_token(threads, tokens, columns, |token| part(token, 0..columns));
    }
    let blocks = columns / BLOCK;
    threads.run(|thread, threads| {
        let mine = blocks * thread / threads * BLOCK..blocks * (thread + 1) / threads * BLOCK;
        (0..tokens).for_each(|token| part(token, mine.clone()));
    });
}

/// A buffer whose rows are divided among threads.
struct Rows(*mut f32);

// SAFETY: threads write different rows.
unsafe impl Sync for Rows {}

for_isa! {
    unsafe fn norm_isa(x: *mut f32, delta: &[f32], weight: &[f32], eps: f32, normed: *mut f32, target: Target) = norm_body
}

#[inline(always)]
unsafe fn norm_body<V: Lanes>(
    x: *mut f32,
    delta: &[f32],
    weight: &[f32],
    eps: f32,
    normed: *mut f32,
    target: Target,
) {
    // SAFETY: as `add_norm` has checked: rows of `weight`'s length, a multiple of the lanes.
    unsafe {
        for at in (0..delta.len()).step_by(LANES) {
            V::load(x.add(at)).add(V::load(delta.as_ptr().add(at))).store(x.add(at));
        }
        let scale = inverse_rms::<V>(x, weight.len(), eps);
        for at in (0..weight.len()).step_by(LANES) {
            V::load(x.add(at))
                .mul(scale)
                .mul(V::load(weight.as_ptr().add(at)))
                .store(normed.add(at));
        }
        target.round::<V>(normed);
    }
}

for_isa! { unsafe fn silu_isa(gate: *mut f32, up: &[f32], target: Target) = silu_body }

#[inline(always)]
unsafe fn silu_body<V: Lanes>(gate: *mut f32, up: &[f32], target: Target) {
    // SAFETY: as `silu_mul` has checked: rows of `up`'s length, a multiple of the lanes.
    unsafe {
        for at in (0..up.len()).step_by(LANES) {
            silu(V::load(gate.add(at))).mul(V::load(up.as_ptr().add(at))).store(gate.add(at));
        }
        target.round::<V>(gate);
    }
}

for_isa! {
    /// Adds up the two rows of each token in a range of columns: `y` `[2 · tokens, rows]` becomes
    /// `[tokens, rows]`, in place.
    ///
    /// # Safety
    /// `y` has `[2 · tokens, rows]` elements, and no other thread accesses these columns.
    pub(super) unsafe fn fold_isa(y: *mut f32, rows: usize, tokens: usize, columns: Range<usize>) = fold_body
}

#[inline(always)]
unsafe fn fold_body<V: Lanes>(y: *mut f32, rows: usize, tokens: usize, columns: Range<usize>) {
    // SAFETY: as `fold_isa` requires; a token's sum overwrites its own rows or those of earlier
    // tokens, which have been read.
    unsafe {
        for token in 0..tokens {
            let (first, second, into) =
                (y.add(2 * token * rows), y.add((2 * token + 1) * rows), y.add(token * rows));
            let whole = columns.start + columns.len() / LANES * LANES;
            for at in (columns.start..whole).step_by(LANES) {
                V::load(first.add(at)).add(V::load(second.add(at))).store(into.add(at));
            }
            for at in whole..columns.end {
                *into.add(at) = *first.add(at) + *second.add(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{floats, random};
    use super::super::{add, rms_norm, silu_mul};
    use super::*;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    fn held(quants: &Activations) -> (&[i8], [&[i32]; 2], [Vec<u32>; 2]) {
        (
            &quants.quants,
            [&quants.sums, &quants.first],
            [bits(&quants.scales), bits(&quants.weighted)],
        )
    }

    #[test]
    fn rows_are_summed_normed_gated_and_rounded_in_one_pass_as_in_several() {
        // with many tokens, threads divide rows; with few, columns
        let (mut random, columns) = (random(), 1056);
        let weight = floats(&mut random, columns, 1.0);
        for tokens in [1, 3, 4, 17] {
            let mut x = floats(&mut random, tokens * columns, 5.0);
            // a block of zeros, one with a NaN, one with an outlier
            x[..BLOCK].fill(0.0);
            (x[BLOCK + 3], x[2 * BLOCK]) = (f32::NAN, 1e4);
            let delta = floats(&mut random, tokens * columns, 1.0);
            for (isa, rounding) in Isa::available()
                .into_iter()
                .flat_map(|isa| [Rounding::None, Rounding::Once, Rounding::Twice].map(|r| (isa, r)))
            {
                let (threads, portable) = (ThreadPool::new(4), Isa::Portable);
                let mut expected = Activations::default();
                let (mut sum, mut normed) = (x.clone(), vec![0.0; x.len()]);
                add(portable, &mut sum, &delta);
                let rows = sum.chunks_exact(columns).zip(normed.chunks_exact_mut(columns));
                rows.for_each(|(sum, normed)| rms_norm(portable, sum, &weight, 1e-5, normed));
                expected.quantise(&threads, portable, &normed, columns, rounding);
                let (mut found, mut at_once, mut to) =
                    (Activations::default(), x.clone(), vec![0.0; x.len()]);
                let residual =
                    Residual { x: &mut at_once, delta: &delta, weight: &weight, eps: 1e-5 };
                found.add_norm(&threads, isa, residual, &mut to, rounding);
                assert_eq!((bits(&at_once), bits(&to)), (bits(&sum), bits(&normed)), "{isa:?}");
                assert_eq!(held(&found), held(&expected), "{isa:?} {rounding:?}");

                let mut gate = x.clone();
                silu_mul(portable, &mut gate, &delta);
                expected.quantise(&threads, portable, &gate, columns, rounding);
                let mut at_once = x.clone();
                found.silu_mul(&threads, isa, &mut at_once, &delta, columns, rounding);
                assert_eq!(bits(&at_once), bits(&gate), "{isa:?}");
                assert_eq!(held(&found), held(&expected), "{isa:?} {rounding:?}");
            }
        }
    }
}
