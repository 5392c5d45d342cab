//! The two matrices of a LoRA adapter in memory.

use std::ops::Range;

use super::isa::{BLOCK, Isa, PANEL};
use super::output::Output;
use super::rounding::View;
use super::{DenseMatrix, RoundedMatrix, dense, rounded_products};

/// One of an adapter's two matrices.
#[derive(Debug)]
pub enum LoraMatrix {
    /// Multiplied with activations in f32.
    Dense(DenseMatrix),
    /// Multiplied with activations that are rounded as well.
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
    pub fn rows(&self) -> usize {
        either!(self, w => w.rows())
    }

    pub fn columns(&self) -> usize {
        either!(self, w => w.columns())
    }

    pub fn chunks(&self) -> usize {
        either!(self, w => w.chunks())
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        either!(self, w => w.bytes())
    }

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

    /// # Safety
    /// As [`dense::multiply`]; `rounded` has as many tokens as `x`, if this is.
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
        // SAFETY: as the caller promises.
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

/// From one row that such a matrix multiplies to the next: whole blocks of what is rounded.
pub(super) fn low_width(w: &LoraMatrix) -> usize {
    if w.is_rounded() { w.columns().next_multiple_of(BLOCK) } else { w.columns() }
}
