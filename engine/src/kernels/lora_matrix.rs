//! The two matrices of a LoRA adapter in memory.

use std::ops::Range;

use super::isa::{BLOCK, Isa, PANEL};
use super::output::Output;
use super::rounding::View;
use super::{DenseMatrix, RoundedMatrix, dense, rounded_products};

/// One of an adapter's two matrices, A `[rank, in]` or B `[out, rank]`.
#[derive(Debug)]
pub enum LoraMatrix {
    /// In f32 or f16, multiplied with f32 activations.
    Dense(DenseMatrix),
    /// In int8, multiplied with int8 activations.
    Rounded(RoundedMatrix),
}

macro_rules! either {
    ($self:ident, $w:ident => $body:expr) => {
        match $self {
            Self::Dense($w) => $body,
            Self::Rounded($w) => $body,
        }
    };
}

impl LoraMatrix {
    /// Number of output rows.
    pub fn rows(&self) -> usize {
        either!(self, w => w.rows())
    }

    /// Number of input columns.
    pub fn columns(&self) -> usize {
        either!(self, w => w.columns())
    }

    /// Number of equal column ranges that are summed separately.
    pub fn chunks(&self) -> usize {
        either!(self, w => w.chunks())
    }

    /// Memory of the values in bytes.
    pub fn bytes(&self) -> usize {
        either!(self, w => w.bytes())
    }

    /// Whether the matrix is in int8 and needs quantised activations.
    pub fn is_rounded(&self) -> bool {
        matches!(self, Self::Rounded(_))
    }

    pub(super) fn panel_bytes(&self) -> usize {
        either!(self, w => w.panel_bytes())
    }

    pub(super) fn start(&self, panel: usize) -> *const u8 {
        either!(self, w => w.start(panel))
    }

    pub(super) fn panels(&self) -> usize {
        self.rows().div_ceil(PANEL)
    }

    /// `output[tokens, rows] = x · wᵀ` for `panels`, or `+=` if `add`. Reads `rounded` instead of
    /// `x` if the matrix is in int8.
    ///
    /// # Safety
    /// Same requirements as [`dense::multiply`]; if the matrix is in int8, `rounded` has as many
    /// tokens as `x`.
    pub(super) unsafe fn multiply(
        &self,
        isa: Isa,
        x: &[f32],
        rounded: View,
        panels: Range<usize>,
        add: bool,
        output: Output,
        next: *const u8,
    ) {
        // SAFETY: as the caller guarantees.
        unsafe {
            match self {
                Self::Dense(w) => dense::multiply(isa, w, x, panels, add, output, next),
                Self::Rounded(w) => rounded_products::multiply(
                    isa,
                    w,
                    rounded,
                    x.len() / low_width(self),
                    panels,
                    add,
                    output,
                    next,
                ),
            }
        }
    }
}

/// Row stride, in elements, of the low-rank activations that `w` multiplies: its columns, padded to
/// whole blocks if it is in int8.
pub(super) fn low_width(w: &LoraMatrix) -> usize {
    if w.is_rounded() { w.columns().next_multiple_of(BLOCK) } else { w.columns() }
}
