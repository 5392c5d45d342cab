//! Products with weights in f32 or f16: unquantised models, and LoRA matrices as stored in their
//! files.

use std::ops::Range;

use half::f16;

use super::ThreadPool;
use super::isa::Isa;
use super::lanes::{LANES, Lanes, for_isa};
use super::output::{Output, Prefetch};

/// A weight `[rows, columns]` in panels of 16 rows, each `[columns, 16]`. Rows that the last panel
/// lacks are 0.
#[derive(Debug)]
pub struct DenseMatrix {
    rows: usize,
    columns: usize,
    /// Number of equal column ranges whose sums are added left to right.
    chunks: usize,
    values: Values,
}

#[derive(Debug)]
enum Values {
    F32(Vec<f32>),
    F16(Vec<u16>),
}

fn panels<T: Copy + Default>(rows: usize, columns: usize, values: &[T]) -> Vec<T> {
    let mut packed = vec![T::default(); rows.next_multiple_of(LANES) * columns];
    for (row, values) in values.chunks_exact(columns).enumerate() {
        let (panel, lane) = (row / LANES, row % LANES);
        for (column, value) in values.iter().enumerate() {
            packed[(panel * columns + column) * LANES + lane] = *value;
        }
    }
    packed
}

impl DenseMatrix {
    /// Packs row-major f32 `values`.
    ///
    /// # Panics
    /// When `values` does not hold `[rows, columns]`.
    pub fn from_f32(rows: usize, columns: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * columns, "size of the matrix");
        Self { rows, columns, chunks: 1, values: Values::F32(panels(rows, columns, values)) }
    }

    /// Packs row-major f16 `values`, which stay in f16.
    ///
    /// # Panics
    /// When `values` does not hold `[rows, columns]`.
    pub fn from_f16(rows: usize, columns: usize, values: &[f16]) -> Self {
        assert_eq!(values.len(), rows * columns, "size of the matrix");
        let bits: Vec<u16> = values.iter().map(|value| value.to_bits()).collect();
        Self { rows, columns, chunks: 1, values: Values::F16(panels(rows, columns, &bits)) }
    }

    /// Divides the columns into `chunks` equal ranges that are summed separately: see
    /// [`PackedMatrix::pack`](super::PackedMatrix::pack).
    ///
    /// # Panics
    /// When `chunks` does not divide the columns.
    pub fn in_chunks(self, chunks: usize) -> Self {
        assert!(chunks > 0 && self.columns.is_multiple_of(chunks), "equal chunks");
        Self { chunks, ..self }
    }

    /// Number of equal column ranges that are summed separately.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Number of output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of input columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Memory of the values in bytes.
    pub fn bytes(&self) -> usize {
        match &self.values {
            Values::F32(values) => values.len() * 4,
            Values::F16(values) => values.len() * 2,
        }
    }

    /// Bytes of one panel.
    pub(super) fn panel_bytes(&self) -> usize {
        match &self.values {
            Values::F32(_) => self.columns * LANES * 4,
            Values::F16(_) => self.columns * LANES * 2,
        }
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Address of a panel's first byte, or of the end of the last panel.
    pub(super) fn start(&self, panel: usize) -> *const u8 {
        let start: *const u8 = match &self.values {
            Values::F32(values) => values.as_ptr().cast(),
            Values::F16(values) => values.as_ptr().cast(),
        };
        start.wrapping_add(panel * self.panel_bytes())
    }

    /// Copies one row into `into`, `[columns]`, in f32: for embedding lookup.
    ///
    /// # Panics
    /// When the row does not exist, or `into` has another size.
    pub fn row(&self, row: usize, into: &mut [f32]) {
        assert!(row < self.rows && into.len() == self.columns, "a row of the matrix");
        let at = |column: usize| (row / LANES * self.columns + column) * LANES + row % LANES;
        let columns = into.iter_mut().enumerate();
        match &self.values {
            Values::F32(values) => columns.for_each(|(column, value)| *value = values[at(column)]),
            Values::F16(values) => columns
                .for_each(|(column, value)| *value = f16::from_bits(values[at(column)]).to_f32()),
        }
    }
}

/// `y[tokens, rows] = x · wᵀ`, or `y += x · wᵀ` if `add`; `x` is `[tokens, columns]`. The columns
/// of a chunk are accumulated in four interleaved sums that are added at the end, so that a token's
/// result does not depend on the number of tokens.
///
/// # Panics
/// When the shapes do not match.
pub fn matmul_dense(
    threads: &ThreadPool,
    isa: Isa,
    w: &DenseMatrix,
    x: &[f32],
    add: bool,
    y: &mut [f32],
) {
    let tokens = x.len() / w.columns;
    assert!(x.len() == tokens * w.columns && y.len() == tokens * w.rows, "shapes of the product");
    shared_out(
        threads,
        isa,
        w,
        x,
        add,
        Output { start: y.as_mut_ptr(), rows: w.rows, chunk_stride: 0 },
    );
}

/// Like [`matmul_dense`], but keeps each chunk's sums separate: `y[chunks, tokens, rows]`.
///
/// # Panics
/// When the shapes do not match.
pub fn matmul_dense_partial(
    threads: &ThreadPool,
    isa: Isa,
    w: &DenseMatrix,
    x: &[f32],
    y: &mut [f32],
) {
    let size = x.len() / w.columns * w.rows;
    assert!(
        x.len().is_multiple_of(w.columns) && y.len() == w.chunks * size,
        "shapes of the product"
    );
    shared_out(
        threads,
        isa,
        w,
        x,
        false,
        Output { start: y.as_mut_ptr(), rows: w.rows, chunk_stride: size },
    );
}

fn shared_out(
    threads: &ThreadPool,
    isa: Isa,
    w: &DenseMatrix,
    x: &[f32],
    add: bool,
    output: Output,
) {
    let panels = w.panels();
    threads.run(|thread, threads| {
        let range = panels * thread / threads..panels * (thread + 1) / threads;
        // SAFETY: ranges of different threads do not overlap, and the callers have checked the size
        // of the output.
        unsafe { multiply(isa, w, x, range, add, output, std::ptr::null()) }
    });
}

/// `output[tokens, rows] = x · wᵀ` for `panels`, or `+=` if `add`.
///
/// `next` is the address that this thread reads after these panels, or null: its beginning is
/// prefetched while their end is multiplied.
///
/// # Safety
/// `output` has capacity for every row of every token of `x`, no other thread accesses the columns
/// of these panels, and the processor supports `isa`.
pub(super) unsafe fn multiply(
    isa: Isa,
    w: &DenseMatrix,
    x: &[f32],
    panels: Range<usize>,
    add: bool,
    output: Output,
    next: *const u8,
) {
    let end = w.start(panels.end);
    let part = Part {
        rows: w.rows,
        columns: w.columns,
        chunks: w.chunks,
        x: x.as_ptr(),
        tokens: x.len() / w.columns,
        panels,
        add,
        output,
        ahead: Prefetch { end, next },
    };
    // SAFETY: as the caller guarantees; the panels are within the weight.
    unsafe {
        match &w.values {
            Values::F32(values) => f32_isa(isa, values.as_ptr(), part),
            Values::F16(values) => f16_isa(isa, values.as_ptr(), part),
        }
    }
}

/// The products of a range of panels with all tokens.
struct Part {
    rows: usize,
    columns: usize,
    chunks: usize,
    x: *const f32,
    tokens: usize,
    panels: Range<usize>,
    add: bool,
    output: Output,
    ahead: Prefetch,
}

/// Tokens per pass over a panel.
const TILE: usize = 4;
/// Number of interleaved sums.
const SUMS: usize = 4;

for_isa! { unsafe fn f32_isa(w: *const f32, part: Part) = f32_body }
for_isa! { unsafe fn f16_isa(w: *const u16, part: Part) = f16_body }

#[inline(always)]
unsafe fn f32_body<V: Lanes>(w: *const f32, part: Part) {
    // SAFETY: as `multiply`.
    unsafe { body::<V, f32>(w, |at| V::load(w.add(at)), part) }
}

#[inline(always)]
unsafe fn f16_body<V: Lanes>(w: *const u16, part: Part) {
    // SAFETY: as `multiply`.
    unsafe { body::<V, u16>(w, |at| V::load_half(w.add(at)), part) }
}

#[inline(always)]
unsafe fn body<V: Lanes, T>(start: *const T, w: impl Fn(usize) -> V + Copy, part: Part) {
    for panel in part.panels.clone() {
        let at = panel * part.columns * LANES;
        let w = |column: usize| w(at + column * LANES);
        let lines = (SUMS * LANES * size_of::<T>()).div_ceil(64);
        let ahead = |column: usize| {
            part.ahead.prefetch(start.wrapping_add(at + column * LANES).cast(), lines)
        };
        for token in (0..part.tokens).step_by(TILE) {
            // SAFETY: as `multiply`; a tile ends within the tokens.
            unsafe {
                match part.tokens - token {
                    1 => tile::<V, 1>(w, ahead, &part, panel, token),
                    2 => tile::<V, 2>(w, ahead, &part, panel, token),
                    3 => tile::<V, 3>(w, ahead, &part, panel, token),
                    _ => tile::<V, TILE>(w, ahead, &part, panel, token),
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn tile<V: Lanes, const T: usize>(
    w: impl Fn(usize) -> V + Copy,
    ahead: impl Fn(usize),
    part: &Part,
    panel: usize,
    token: usize,
) {
    let columns = part.columns;
    let rows = (part.rows - panel * LANES).min(LANES);
    // SAFETY: as `multiply` requires; lanes of missing rows are not written.
    unsafe {
        let x = part.x.add(token * columns);
        let width = columns / part.chunks;
        let mut total = [V::splat(0.0); T];
        for chunk in 0..part.chunks {
            let (mut column, end) = (chunk * width, (chunk + 1) * width);
            let mut sums = [[V::splat(0.0); SUMS]; T];
            while column + SUMS <= end {
                if token == 0 {
                    ahead(column);
                }
                for s in 0..SUMS {
                    let w = w(column + s);
                    for t in 0..T {
                        sums[t][s] =
                            w.mul_add(V::splat(*x.add(t * columns + column + s)), sums[t][s]);
                    }
                }
                column += SUMS;
            }
            for s in 0..end - column {
                let w = w(column + s);
                for t in 0..T {
                    sums[t][s] = w.mul_add(V::splat(*x.add(t * columns + column + s)), sums[t][s]);
                }
            }
            for t in 0..T {
                let sum = sums[t][0].add(sums[t][1]).add(sums[t][2].add(sums[t][3]));
                if part.output.chunk_stride > 0 {
                    put(sum, part.output.of_chunk(chunk), panel, token + t, rows, false);
                }
                total[t] = total[t].add(sum);
            }
        }
        if part.output.chunk_stride == 0 {
            for t in 0..T {
                put(total[t], part.output, panel, token + t, rows, part.add);
            }
        }
    }
}

/// Stores the first `rows` lanes of a panel for one token, or adds them to the output if `add`.
#[inline(always)]
pub(super) unsafe fn put<V: Lanes>(
    value: V,
    output: Output,
    panel: usize,
    token: usize,
    rows: usize,
    add: bool,
) {
    // SAFETY: only existing rows are written, as `multiply` requires.
    unsafe {
        let y = output.start.add(token * output.rows + panel * LANES);
        if rows == LANES {
            return if add { V::load(y).add(value).store(y) } else { value.store(y) };
        }
        let mut lanes = [0.0_f32; LANES];
        value.store(lanes.as_mut_ptr());
        for row in 0..rows {
            *y.add(row) = if add { *y.add(row) + lanes[row] } else { lanes[row] };
        }
    }
}
