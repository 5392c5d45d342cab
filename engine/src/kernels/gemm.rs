//! General f32 matrix products with strided operands, for training. For bf16 see
//! [`gemm_bf16`](super::gemm_bf16()).
//!
//! Columns of the inner dimension are added in the same order for any number of threads: threads
//! split rows or columns of the output.

use std::ops::Range;

use super::ThreadPool;
use super::isa::Isa;
use super::lanes::{LANES, Lanes, for_isa};

/// Inner columns of a packed panel, which stays in the L1 cache while all rows are multiplied with
/// it.
const INNER: usize = 192;
/// Minimum rows per thread for dividing the product by rows, so that packing the right operand pays
/// off.
const ROWS_APIECE: usize = 64;
/// Vectors per row of a tile, if there are enough registers.
const SIDE: usize = 3;

/// The left operand `[rows, inner]`, with any strides; exchanging them transposes it.
#[derive(Debug, Clone, Copy)]
pub struct Left<'a> {
    /// Elements.
    pub values: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of inner columns, over which products are summed.
    pub inner: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one inner column to the next.
    pub inner_stride: usize,
}

impl<'a> Left<'a> {
    /// A contiguous row-major matrix `[rows, inner]`.
    ///
    /// # Panics
    /// When `inner` does not divide the number of values.
    pub fn rows(values: &'a [f32], inner: usize) -> Self {
        assert!(values.len().is_multiple_of(inner), "whole rows");
        Self { values, rows: values.len() / inner, inner, row_stride: inner, inner_stride: 1 }
    }

    /// The transpose of a contiguous row-major matrix with rows of `width` columns.
    ///
    /// # Panics
    /// When `width` does not divide the number of values.
    pub fn transposed(values: &'a [f32], width: usize) -> Self {
        assert!(values.len().is_multiple_of(width), "whole rows");
        Self {
            values,
            rows: width,
            inner: values.len() / width,
            row_stride: 1,
            inner_stride: width,
        }
    }

    fn fits(&self) -> bool {
        let last = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        self.rows == 0
            || self.inner == 0
            || last(self.rows, self.row_stride) + last(self.inner, self.inner_stride)
                < self.values.len()
    }
}

/// The right operand `[inner, columns]`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Right<'a> {
    /// Elements.
    pub values: &'a [f32],
    /// Number of columns; a multiple of 16.
    pub columns: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl<'a> Right<'a> {
    /// A contiguous row-major matrix.
    pub fn rows(values: &'a [f32], columns: usize) -> Self {
        Self { values, columns, stride: columns }
    }
}

/// How a product is written: scaled, and assigned or added.
#[derive(Debug, Clone, Copy)]
pub struct Scaled {
    /// Factor of the product.
    pub by: f32,
    /// Whether the product is added to the output instead of overwriting it.
    pub add: bool,
}

impl Scaled {
    /// `c = a · b`.
    pub const WRITE: Self = Self { by: 1.0, add: false };
    /// `c += a · b`.
    pub const ADD: Self = Self { by: 1.0, add: true };
}

/// `c[rows, columns] = by · a · b`, or `+=` (see [`Scaled`]); `stride` is the number of elements
/// from one row of `c` to the next.
///
/// # Panics
/// When the shapes do not match, or 16 does not divide the columns.
pub fn gemm(
    threads: &ThreadPool,
    isa: Isa,
    a: Left<'_>,
    b: Right<'_>,
    c: &mut [f32],
    stride: usize,
    scaled: Scaled,
) {
    check(&a, &b, c.len(), stride);
    let to = Target { start: c.as_mut_ptr(), stride };
    let panels = b.columns / LANES;
    // divide rows if each thread gets enough of them: its part of the left operand then stays in
    // its caches
    let by_rows = a.rows >= b.columns.min(ROWS_APIECE * threads.threads());
    threads.run(|thread, threads| {
        let share = |all: usize| all * thread / threads..all * (thread + 1) / threads;
        let (rows, panels) =
            if by_rows { (share(a.rows), 0..panels) } else { (0..a.rows, share(panels)) };
        // SAFETY: `check` has checked the shapes, and shares do not overlap.
        unsafe { part(isa, a, b, to, rows, panels, scaled) }
    });
}

/// Asserts that the operands fit into their buffers and the product into `c` elements.
fn check(a: &Left<'_>, b: &Right<'_>, c: usize, stride: usize) {
    assert!(
        a.fits(),
        "the left operand has {} values, too few for [{}, {}]",
        a.values.len(),
        a.rows,
        a.inner
    );
    assert!(b.columns.is_multiple_of(LANES) && b.stride >= b.columns, "whole lanes of columns");
    assert!(
        a.inner == 0 || (a.inner - 1) * b.stride + b.columns <= b.values.len(),
        "rows of the right operand"
    );
    assert!(
        stride >= b.columns && (a.rows == 0 || (a.rows - 1) * stride + b.columns <= c),
        "capacity for the product"
    );
}

/// The destination of a product.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// The first element.
    pub start: *mut f32,
    /// Elements from one row to the next.
    pub stride: usize,
}

// SAFETY: threads write different parts.
unsafe impl Sync for Target {}

/// Computes a range of rows and panels of a product.
///
/// # Safety
/// The shapes are as checked by [`check`]; no other thread accesses these rows and panels of the
/// output.
pub(super) unsafe fn part(
    isa: Isa,
    a: Left<'_>,
    b: Right<'_>,
    c: Target,
    rows: Range<usize>,
    panels: Range<usize>,
    scaled: Scaled,
) {
    let packed = if rows.len() > LANES { INNER.min(a.inner) * SIDE * LANES } else { 0 };
    let mut scratch = vec![0.0_f32; packed];
    // SAFETY: as the caller guarantees.
    unsafe { part_isa(isa, a, b, c, rows, panels, scaled, &mut scratch) }
}

for_isa! { unsafe fn part_isa(
    a: Left<'_>, b: Right<'_>, c: Target, rows: Range<usize>, panels: Range<usize>, scaled: Scaled, scratch: &mut [f32],
) = part_body }

#[inline(always)]
unsafe fn part_body<V: Lanes>(
    a: Left<'_>,
    b: Right<'_>,
    c: Target,
    rows: Range<usize>,
    panels: Range<usize>,
    scaled: Scaled,
    scratch: &mut [f32],
) {
    let widest = if V::WIDE { SIDE } else { 1 };
    let mut panel = panels.start;
    while panel < panels.end {
        let side = widest.min(panels.end - panel);
        for from in (0..a.inner.max(1)).step_by(INNER) {
            let inner = INNER.min(a.inner - from);
            let add = scaled.add || from > 0;
            // SAFETY: as `part`: rows, panels and inner columns are within their operands.
            unsafe {
                let mut right = (b.values.as_ptr().add(from * b.stride + panel * LANES), b.stride);
                if !scratch.is_empty() {
                    for k in 0..inner {
                        let row = right.0.add(k * right.1);
                        for s in 0..side {
                            V::load(row.add(s * LANES))
                                .store(scratch.as_mut_ptr().add((k * side + s) * LANES));
                        }
                    }
                    right = (scratch.as_ptr(), side * LANES);
                }
                let mut row = rows.start;
                while row < rows.end {
                    let left = a.values.as_ptr().add(row * a.row_stride + from * a.inner_stride);
                    let tile = Tile {
                        left,
                        a,
                        right,
                        inner,
                        to: c.start.add(row * c.stride + panel * LANES),
                        stride: c.stride,
                        add,
                        by: scaled.by,
                    };
                    row += match (side, rows.end - row) {
                        (SIDE, 8..) if V::WIDE => tile.run::<V, 8, SIDE>(),
                        (SIDE, _) if V::WIDE => tile.run::<V, 1, SIDE>(),
                        (2, 8..) if V::WIDE => tile.run::<V, 8, 2>(),
                        (2, _) if V::WIDE => tile.run::<V, 1, 2>(),
                        (_, 8..) if V::WIDE => tile.run::<V, 8, 1>(),
                        (_, 4..) => tile.run::<V, 4, 1>(),
                        _ => tile.run::<V, 1, 1>(),
                    };
                }
            }
        }
        panel += side;
    }
}

struct Tile<'a> {
    left: *const f32,
    a: Left<'a>,
    right: (*const f32, usize),
    inner: usize,
    to: *mut f32,
    stride: usize,
    add: bool,
    by: f32,
}

impl Tile<'_> {
    /// Computes a tile of `R` rows and `S` vectors; returns `R`.
    #[inline(always)]
    unsafe fn run<V: Lanes, const R: usize, const S: usize>(&self) -> usize {
        // a constant stride needs no register
        // SAFETY: as `part`.
        unsafe {
            if self.a.inner_stride == 1 {
                self.sum::<V, R, S>(1)
            } else {
                self.sum::<V, R, S>(self.a.inner_stride)
            }
        }
    }

    #[inline(always)]
    unsafe fn sum<V: Lanes, const R: usize, const S: usize>(&self, inner_stride: usize) -> usize {
        // SAFETY: as `part`.
        unsafe {
            let mut sums = [[V::splat(0.0); S]; R];
            let (mut left, mut right) = (self.left, self.right.0);
            let (row_stride, next) = (self.a.row_stride, self.right.1);
            // wrapping arithmetic: pointer checks in builds with debug assertions would spill the
            // sums from their registers
            for _ in 0..self.inner {
                let mut b = [V::splat(0.0); S];
                for s in 0..S {
                    b[s] = V::load(right.wrapping_add(s.wrapping_mul(LANES)));
                }
                for r in 0..R {
                    let a =
                        V::splat(left.wrapping_add(r.wrapping_mul(row_stride)).read_unaligned());
                    for s in 0..S {
                        sums[r][s] = b[s].mul_add(a, sums[r][s]);
                    }
                }
                left = left.wrapping_add(inner_stride);
                right = right.wrapping_add(next);
            }
            let by = V::splat(self.by);
            for r in 0..R {
                for s in 0..S {
                    let to = self.to.add(r * self.stride + s * LANES);
                    let product = sums[r][s].mul(by);
                    if self.add { V::load(to).add(product).store(to) } else { product.store(to) }
                }
            }
        }
        R
    }
}
