//! Rounding of activation rows to int8, and the rounded rows as the kernels read them.

use std::ops::Range;

use super::isa::{BLOCK, Isa};
use super::lanes::{LANES, Lanes, for_isa};

/// Blocks with a smaller maximum are zero: the inverse would be infinite.
pub(super) const LEAST: f32 = 1e-30;
/// Steps of the second rounding in one of the first.
const FINE: f32 = 254.0;

/// Precision of rounded activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// None: their readers take f32.
    None,
    /// One int8 term: multiples of the block's largest magnitude / 127, ties to even.
    Once,
    /// Two int8 terms (residual quantisation): row `2t` holds token `t` rounded, row `2t + 1` the
    /// residual, in multiples of 1/254 of its scale. A product has two rows per token as well,
    /// whose sum is as precise as with 15 bits: see [`matmul_low_rank`](super::matmul_low_rank).
    Twice,
}

impl Rounding {
    /// Rows of a token.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::None => 0,
            Self::Once => 1,
            Self::Twice => 2,
        }
    }
}

/// The destination of rounded rows.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) quants: *mut i8,
    pub(super) scales: *mut f32,
    pub(super) sums: *mut i32,
    pub(super) first: *mut i32,
    pub(super) weighted: *mut f32,
    /// Rounded blocks of a row; 0 without rounding.
    pub(super) blocks: usize,
    /// From one row to the next, in blocks.
    pub(super) stride: usize,
    pub(super) rounding: Rounding,
}

// SAFETY: threads write different tokens.
unsafe impl Sync for Target {}

impl Target {
    /// Where a token's begin.
    ///
    /// # Safety
    /// There is room for it, if anything is rounded.
    pub(super) unsafe fn at(self, token: usize) -> Self {
        // SAFETY: as the caller promises.
        unsafe { self.on(token * self.rounding.rows() * self.stride) }
    }

    /// Some whole blocks' columns of a row, or all of it.
    ///
    /// # Safety
    /// They are there, if anything is rounded.
    pub(super) unsafe fn part(self, columns: Range<usize>) -> Self {
        if self.blocks == 0 {
            return self;
        }
        // SAFETY: as the caller promises.
        unsafe {
            Self {
                blocks: self.blocks.min(columns.len() / BLOCK),
                ..self.on(columns.start / BLOCK)
            }
        }
    }

    /// So many blocks on.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    pub(super) unsafe fn on(self, blocks: usize) -> Self {
        // SAFETY: as the caller promises.
        unsafe {
            Self {
                quants: self.quants.add(blocks * BLOCK),
                scales: self.scales.add(blocks),
                sums: self.sums.add(blocks),
                first: self.first.add(blocks),
                weighted: self.weighted.add(blocks),
                ..self
            }
        }
    }

    /// Rounds a row that is still in the L1 cache: first all blocks' largest magnitudes, then the
    /// quants. In one pass, each block's dependency chain would be too long for several blocks to
    /// be in flight.
    ///
    /// # Safety
    /// `x` and the target have the row, and the processor has `V`.
    #[inline(always)]
    pub(super) unsafe fn round<V: Lanes>(self, x: *const f32) {
        // SAFETY: as the caller promises.
        unsafe {
            let zero = V::splat(0.0);
            for block in 0..self.blocks {
                let x = [V::load(x.add(block * BLOCK)), V::load(x.add(block * BLOCK + LANES))];
                let most = x[0].max(zero.sub(x[0])).max(x[1].max(zero.sub(x[1]))).most();
                // x · 0 is 0 for finite x alone
                let finite = x[0].mul(zero).add(x[1].mul(zero)).is_zero();
                *self.weighted.add(block) = if finite { most } else { f32::NAN };
            }
            for block in 0..self.blocks {
                let most = *self.weighted.add(block);
                let (scale, scaled) = if most >= LEAST {
                    let inverse = V::splat(127.0 / most);
                    let at = x.add(block * BLOCK);
                    (most / 127.0, [V::load(at).mul(inverse), V::load(at.add(LANES)).mul(inverse)])
                } else {
                    // a block of zeros, or one with a NaN
                    (if most.is_nan() { most } else { 0.0 }, [zero; 2])
                };
                let first = [scaled[0].round(), scaled[1].round()];
                self.on(block).put(first, scale);
                if self.rounding == Rounding::Twice {
                    let (lost, fine) =
                        ([scaled[0].sub(first[0]), scaled[1].sub(first[1])], V::splat(FINE));
                    self.on(self.stride + block)
                        .put([lost[0].mul(fine).round(), lost[1].mul(fine).round()], scale / FINE);
                }
            }
        }
    }

    /// # Safety
    /// As [`round`](Self::round).
    #[inline(always)]
    pub(super) unsafe fn put<V: Lanes>(self, quants: [V; 2], scale: f32) {
        // SAFETY: as the caller promises.
        unsafe {
            quants[0].store_bytes(self.quants);
            quants[1].store_bytes(self.quants.add(LANES));
            let (first, second) = (quants[0].whole_sum(), quants[1].whole_sum());
            *self.scales = scale;
            *self.first = first;
            *self.sums = first + second;
            *self.weighted = scale * (first + second) as f32;
        }
    }
}

impl Target {
    /// Rounds a token's row, of as many blocks as given.
    ///
    /// # Safety
    /// `x` and the target have them, nobody else touches the token's, and the processor has `isa`.
    pub(super) unsafe fn fill(self, isa: Isa, token: usize, x: *const f32, blocks: usize) {
        // SAFETY: as the caller promises.
        unsafe { round_isa(isa, x, Self { blocks, ..self.at(token) }) }
    }

    /// What has been written, to be read once all of it is.
    pub(super) fn view(self) -> View {
        View {
            quants: self.quants,
            scales: self.scales,
            sums: self.sums,
            first: self.first,
            stride: self.stride,
            rows: self.rounding.rows(),
        }
    }
}

/// Rounded rows, for kernels to read.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub quants: *const i8,
    pub scales: *const f32,
    pub sums: *const i32,
    pub first: *const i32,
    /// From one row to the next, in blocks.
    pub stride: usize,
    /// Of a token.
    pub rows: usize,
}

// SAFETY: nothing is written through it.
unsafe impl Sync for View {}

impl View {
    /// From a token on.
    ///
    /// # Safety
    /// It is there.
    pub(super) unsafe fn from(self, token: usize) -> Self {
        let blocks = token * self.rows * self.stride;
        // SAFETY: as the caller promises.
        unsafe {
            Self {
                quants: self.quants.add(blocks * BLOCK),
                scales: self.scales.add(blocks),
                sums: self.sums.add(blocks),
                first: self.first.add(blocks),
                ..self
            }
        }
    }
}

for_isa! { pub(super) unsafe fn round_isa(x: *const f32, target: Target) = round_body }

#[inline(always)]
unsafe fn round_body<V: Lanes>(x: *const f32, target: Target) {
    // SAFETY: as `quantise` says.
    unsafe { target.round::<V>(x) }
}
