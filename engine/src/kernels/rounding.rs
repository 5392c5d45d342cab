//! Quantisation of activation rows to int8, and views of them for the kernels.

use std::ops::Range;

use super::isa::{BLOCK, Isa};
use super::lanes::{LANES, Lanes, for_isa};

/// Blocks whose largest magnitude is smaller are quantised to zero: the inverse of the scale would
/// be infinite.
pub(super) const LEAST: f32 = 1e-30;
/// Steps of the second int8 term per step of the first.
const FINE: f32 = 254.0;

/// Precision of quantised activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Not quantised: the products read f32.
    None,
    /// One int8 term: the scale is the block's largest magnitude / 127; ties to even.
    Once,
    /// Two int8 terms (residual quantisation): row `2t` holds token `t` in int8, row `2t + 1` the
    /// quantisation error, with 1/254 of the scale. A product also has two rows per token, whose
    /// sum is as precise as with 15 bits: see [`matmul_low_rank`](super::matmul_low_rank).
    Twice,
}

impl Rounding {
    /// Rows per token.
    pub(super) fn rows(self) -> usize {
        match self {
            Self::None => 0,
            Self::Once => 1,
            Self::Twice => 2,
        }
    }
}

/// Destination of quantised rows; fields as in [`Activations`](super::Activations).
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) quants: *mut i8,
    pub(super) scales: *mut f32,
    pub(super) sums: *mut i32,
    pub(super) first: *mut i32,
    pub(super) weighted: *mut f32,
    /// Blocks of a row to quantise; 0 without quantisation.
    pub(super) blocks: usize,
    /// Row stride in blocks.
    pub(super) stride: usize,
    pub(super) rounding: Rounding,
}

// SAFETY: threads write different tokens.
unsafe impl Sync for Target {}

impl Target {
    /// The destination of a token's rows.
    ///
    /// # Safety
    /// The buffers have capacity for the token, unless rounding is [`Rounding::None`].
    pub(super) unsafe fn at(self, token: usize) -> Self {
        // SAFETY: as the caller guarantees.
        unsafe { self.on(token * self.rounding.rows() * self.stride) }
    }

    /// The destination of a range of a row's columns: whole blocks, or the entire row.
    ///
    /// # Safety
    /// The columns are within the row, unless rounding is [`Rounding::None`].
    pub(super) unsafe fn part(self, columns: Range<usize>) -> Self {
        if self.blocks == 0 {
            return self;
        }
        // SAFETY: as the caller guarantees.
        unsafe {
            Self {
                blocks: self.blocks.min(columns.len() / BLOCK),
                ..self.on(columns.start / BLOCK)
            }
        }
    }

    /// The destination `blocks` blocks further on.
    ///
    /// # Safety
    /// The buffers have capacity for these blocks.
    #[inline(always)]
    pub(super) unsafe fn on(self, blocks: usize) -> Self {
        // SAFETY: as the caller guarantees.
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

    /// Quantises a row that is still in the L1 cache: first the largest magnitudes of all blocks,
    /// then the quants. In a single pass, the dependency chain of a block would be too long for
    /// several blocks to be in flight.
    ///
    /// # Safety
    /// `x` and the target have all blocks of the row, and the processor supports `V`.
    #[inline(always)]
    pub(super) unsafe fn round<V: Lanes>(self, x: *const f32) {
        // SAFETY: as the caller guarantees.
        unsafe {
            let zero = V::splat(0.0);
            for block in 0..self.blocks {
                let x = [V::load(x.add(block * BLOCK)), V::load(x.add(block * BLOCK + LANES))];
                let most = x[0].max(zero.sub(x[0])).max(x[1].max(zero.sub(x[1]))).most();
                // x · 0 is 0 only for finite x
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
                    // a block of zeros, or one with a NaN or infinity
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

    /// Stores a block's quants with its scale and sums.
    ///
    /// # Safety
    /// Same requirements as [`round`](Self::round).
    #[inline(always)]
    pub(super) unsafe fn put<V: Lanes>(self, quants: [V; 2], scale: f32) {
        // SAFETY: as the caller guarantees.
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
    /// Quantises the first `blocks` blocks of a token's row.
    ///
    /// # Safety
    /// `x` and the target have these blocks, no other thread accesses the token's rows, and the
    /// processor supports `isa`.
    pub(super) unsafe fn fill(self, isa: Isa, token: usize, x: *const f32, blocks: usize) {
        // SAFETY: as the caller guarantees.
        unsafe { round_isa(isa, x, Self { blocks, ..self.at(token) }) }
    }

    /// A view of the rows, to be read after all of them have been written.
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

/// Quantised rows, as read by the kernels.
#[derive(Clone, Copy)]
pub(super) struct View {
    /// Quants, [`BLOCK`] per block.
    pub quants: *const i8,
    /// Scale of each block.
    pub scales: *const f32,
    /// Sum of each block's quants.
    pub sums: *const i32,
    /// Sum of the quants of each block's first half.
    pub first: *const i32,
    /// Row stride in blocks.
    pub stride: usize,
    /// Rows per token.
    pub rows: usize,
}

// SAFETY: a view is only read.
unsafe impl Sync for View {}

impl View {
    /// The view starting at a token.
    ///
    /// # Safety
    /// The token exists.
    pub(super) unsafe fn from(self, token: usize) -> Self {
        let blocks = token * self.rows * self.stride;
        // SAFETY: as the caller guarantees.
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
    // SAFETY: as the caller guarantees.
    unsafe { target.round::<V>(x) }
}
