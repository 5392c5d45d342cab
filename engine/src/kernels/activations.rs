//! Activations rounded to int8.

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
