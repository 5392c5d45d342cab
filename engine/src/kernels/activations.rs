//! Activations rounded to int8.

use std::ops::Range;

use super::lanes::{LANES, Lanes, for_isa, largest, sum};
use super::portable::LEAST;
use super::{BLOCK, Isa, Team};

/// Rows of activations in int8, a scale for each block of [`BLOCK`] columns. Buffers are kept for the next step.
#[derive(Debug, Default)]
pub struct Activations {
    tokens: usize,
    columns: usize,
    /// `[tokens, columns]`
    pub(super) quants: Vec<i8>,
    /// `[tokens, columns / BLOCK]`
    pub(super) scales: Vec<f32>,
    /// The sum of each block's quants: what an offset of the weights adds to their product.
    pub(super) sums: Vec<i32>,
    /// Scale times sum: what a weight's minimum is multiplied with.
    pub(super) weighted: Vec<f32>,
}

impl Activations {
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn blocks(&self) -> usize {
        self.columns / BLOCK
    }

    /// Makes room for `[tokens, columns]`; what was held is forgotten.
    pub fn reset(&mut self, tokens: usize, columns: usize) {
        debug_assert!(columns.is_multiple_of(BLOCK));
        (self.tokens, self.columns) = (tokens, columns);
        self.quants.resize(tokens * columns, 0);
        let blocks = tokens * columns / BLOCK;
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0);
        self.weighted.resize(blocks, 0.0);
    }

    /// Rounds `x`, `[tokens, columns]`: each block to multiples of its largest magnitude / 127, ties to even.
    ///
    /// # Panics
    /// When `x` does not hold whole rows of whole blocks.
    pub fn quantise(&mut self, team: &Team, isa: Isa, x: &[f32], columns: usize) {
        assert!(columns.is_multiple_of(BLOCK) && x.len().is_multiple_of(columns), "whole rows of whole blocks");
        self.reset(x.len() / columns, columns);
        let target = Target {
            quants: self.quants.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            weighted: self.weighted.as_mut_ptr(),
        };
        let blocks = self.scales.len();
        let part = |thread: usize, threads: usize| {
            let target = &target;
            for block in blocks * thread / threads..blocks * (thread + 1) / threads {
                let x = &x[block * BLOCK..(block + 1) * BLOCK];
                // SAFETY: no other thread has this block, whose places are within the buffers; `isa` was detected.
                unsafe {
                    let quants = std::slice::from_raw_parts_mut(target.quants.add(block * BLOCK), BLOCK);
                    let (scale, sum) = match isa {
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512Vnni => super::avx512::quantise_block(x, quants),
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx2 => super::avx2::quantise_block(x, quants),
                        _ => super::portable::quantise_block(x, quants),
                    };
                    *target.scales.add(block) = scale;
                    *target.sums.add(block) = sum;
                    *target.weighted.add(block) = scale * sum as f32;
                }
            }
        };
        if self.tokens >= SHARED_FROM { team.run(part) } else { part(0, 1) }
    }
}

impl Activations {
    /// Rounds `x`, `[tokens, columns]`, twice: row `2t` holds token `t` as [`quantise`](Self::quantise) has it, row `2t + 1` what that lost, to
    /// multiples of 1/254 of its scale. A product has two rows a token as well, whose sum is as exact as with 15 bits: see
    /// [`matmul_low_rank`](super::matmul_low_rank).
    ///
    /// # Panics
    /// When `x` does not hold whole rows of whole blocks.
    pub fn quantise_fine(&mut self, team: &Team, isa: Isa, x: &[f32], columns: usize) {
        assert!(columns.is_multiple_of(BLOCK) && x.len().is_multiple_of(columns), "whole rows of whole blocks");
        let tokens = x.len() / columns;
        self.reset(2 * tokens, columns);
        let target = Target {
            quants: self.quants.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            sums: self.sums.as_mut_ptr(),
            weighted: self.weighted.as_mut_ptr(),
        };
        let per_row = columns / BLOCK;
        let part = |thread: usize, threads: usize| {
            let target = &target;
            for token in tokens * thread / threads..tokens * (thread + 1) / threads {
                for block in 0..per_row {
                    let x = &x[token * columns + block * BLOCK..][..BLOCK];
                    let mut rounded = Fine::default();
                    // SAFETY: `isa` was detected, the slice is a block.
                    unsafe { fine_isa(isa, x.as_ptr(), &mut rounded) };
                    let scales = [rounded.scale, rounded.scale / FINE];
                    for (row, (quants, scale)) in rounded.quants.iter().zip(scales).enumerate() {
                        let at = (2 * token + row) * per_row + block;
                        // SAFETY: no other thread has this token, whose places are within the buffers.
                        unsafe {
                            let into = std::slice::from_raw_parts_mut(target.quants.add(at * BLOCK), BLOCK);
                            into.iter_mut().zip(quants).for_each(|(into, quant)| *into = *quant as i8);
                            let sum = quants.iter().sum::<f32>() as i32;
                            *target.scales.add(at) = scale;
                            *target.sums.add(at) = sum;
                            *target.weighted.add(at) = scale * sum as f32;
                        }
                    }
                }
            }
        };
        if tokens >= SHARED_FROM { team.run(part) } else { part(0, 1) }
    }
}

/// Steps of the second rounding in one of the first.
const FINE: f32 = 254.0;

/// A block rounded twice, as whole numbers.
struct Fine {
    quants: [[f32; BLOCK]; 2],
    scale: f32,
}

impl Default for Fine {
    fn default() -> Self {
        Self { quants: [[0.0; BLOCK]; 2], scale: 0.0 }
    }
}

for_isa! { unsafe fn fine_isa(x: *const f32, into: &mut Fine) = fine_body }

#[inline(always)]
unsafe fn fine_body<V: Lanes>(x: *const f32, into: &mut Fine) {
    // SAFETY: as `quantise_fine` says.
    unsafe {
        let x = [V::load(x), V::load(x.add(LANES))];
        let zero = V::splat(0.0);
        // x · 0 is 0 for finite x alone
        let zeros = sum(x[0].mul(zero).add(x[1].mul(zero)));
        let most = largest(x[0].max(zero.sub(x[0])).max(x[1].max(zero.sub(x[1]))));
        if zeros != 0.0 || most < LEAST {
            into.scale = if zeros == 0.0 { 0.0 } else { f32::NAN };
            return;
        }
        into.scale = most / 127.0;
        for half in 0..2 {
            let scaled = x[half].mul(V::splat(127.0 / most));
            let first = scaled.round();
            first.store(into.quants[0].as_mut_ptr().add(half * LANES));
            scaled.sub(first).mul(V::splat(FINE)).round().store(into.quants[1].as_mut_ptr().add(half * LANES));
        }
    }
}

for_isa! {
    /// Adds the two rows of each token in some columns: `y` `[2 · tokens, rows]` becomes `[tokens, rows]`.
    ///
    /// # Safety
    /// `y` holds as much, and nobody else touches these columns.
    pub(super) unsafe fn fold_isa(y: *mut f32, rows: usize, tokens: usize, columns: Range<usize>) = fold_body
}

#[inline(always)]
unsafe fn fold_body<V: Lanes>(y: *mut f32, rows: usize, tokens: usize, columns: Range<usize>) {
    // SAFETY: as `fold_isa` says; a token's sum goes where its rows, or those of earlier tokens, stood.
    unsafe {
        for token in 0..tokens {
            let (first, second, into) = (y.add(2 * token * rows), y.add((2 * token + 1) * rows), y.add(token * rows));
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

/// Rows from which rounding is shared out: below, waking the others costs more.
const SHARED_FROM: usize = 8;

struct Target {
    quants: *mut i8,
    scales: *mut f32,
    sums: *mut i32,
    weighted: *mut f32,
}

// SAFETY: threads write different blocks.
unsafe impl Sync for Target {}
