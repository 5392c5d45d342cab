//! Products of bf16 matrices, for training on processors with AVX-512 BF16.

use std::ops::Range;

use super::ThreadPool;
use super::isa::Isa;
use super::lanes::{LANES, Lanes, for_isa};
use crate::kernels::gemm::Target;

/// Whether bf16 products are faster than f32 products on this processor. On Intel processors they
/// are not: bf16 instructions have a quarter of the throughput of f32 ones and compute two products
/// each.
pub fn bf16_is_faster() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        let intel =
            [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel";
        has_bf16() && !intel
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether the processor has bf16 dot products (AVX-512 BF16).
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16") && Isa::detect() == Isa::Avx512Vnni
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A right operand `[inner, columns]` in bf16: panels of 16 columns, each `[inner / 2, 16, 2]`, the
/// layout of the dot-product instruction.
#[derive(Debug, Default)]
pub struct PairedPanels {
    inner: usize,
    columns: usize,
    values: Vec<u32>,
}

impl PairedPanels {
    /// Resizes for `[inner, columns]`; the values are unspecified until written.
    ///
    /// # Panics
    /// When `inner` is odd or 16 does not divide `columns`.
    pub fn shape(&mut self, inner: usize, columns: usize) {
        assert!(
            inner.is_multiple_of(2) && columns.is_multiple_of(LANES),
            "pairs of rows, whole lanes"
        );
        (self.inner, self.columns) = (inner, columns);
        self.values.resize(inner / 2 * columns, 0);
    }
}

/// The nearest bf16, ties to even.
#[inline(always)]
fn bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    // keep a NaN a NaN
    if value.is_nan() { (bits >> 16) | 0x40 } else { (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 }
}

/// Writes the transpose of a matrix `[rows, columns]` to `into`, `[columns, rows]`; `read(rows,
/// buffer)` copies a range of rows to a buffer.
///
/// # Panics
/// When 16 does not divide the rows, or `into` has another size.
pub fn transposed(
    threads: &ThreadPool,
    rows: usize,
    columns: usize,
    read: impl Fn(Range<usize>, &mut [f32]) + Sync,
    into: &mut [f32],
) {
    struct Start(*mut f32);
    // SAFETY: threads write different columns.
    unsafe impl Sync for Start {}
    assert!(
        rows.is_multiple_of(LANES) && into.len() == rows * columns,
        "whole lanes of rows, and capacity for them"
    );
    let (start, panels) = (Start(into.as_mut_ptr()), rows / LANES);
    threads.run(|thread, threads| {
        let start = &start;
        let mut tile = vec![0.0_f32; LANES * columns];
        for first in
            (panels * thread / threads..panels * (thread + 1) / threads).map(|panel| panel * LANES)
        {
            read(first..first + LANES, &mut tile);
            for column in 0..columns {
                // SAFETY: within `into`, and no other thread accesses these columns.
                let to = unsafe {
                    std::slice::from_raw_parts_mut(start.0.add(column * rows + first), LANES)
                };
                to.iter_mut()
                    .zip(tile[column..].iter().step_by(columns))
                    .for_each(|(to, value)| *to = *value);
            }
        }
    });
}

/// Destinations of a weight `[out, in]` for both directions; sixteen of its rows are packed at a
/// time.
#[derive(Clone, Copy)]
struct Both {
    /// `wᵀ`, `[in, out]`; null if not requested.
    forward: *mut u32,
    /// `w`, `[out, in]`; null if not requested.
    backward: *mut u32,
    out: usize,
    columns: usize,
}

// SAFETY: threads write the parts of different rows.
unsafe impl Sync for Both {}

/// Packs a weight `[out, columns]` for `x · wᵀ` (`forward`), for `dy · w` (`backward`), or both;
/// `rows(range, buffer)` copies a range of its rows to a buffer in f32.
///
/// # Panics
/// When 16 does not divide both dimensions.
pub fn pack_pairs(
    threads: &ThreadPool,
    isa: Isa,
    out: usize,
    columns: usize,
    rows: impl Fn(Range<usize>, &mut [f32]) + Sync,
    forward: Option<&mut PairedPanels>,
    backward: Option<&mut PairedPanels>,
) {
    assert!(out.is_multiple_of(LANES) && columns.is_multiple_of(LANES), "whole panels");
    let start = |panels: Option<&mut PairedPanels>, inner: usize, columns: usize| {
        panels.map_or(std::ptr::null_mut(), |panels| {
            panels.shape(inner, columns);
            panels.values.as_mut_ptr()
        })
    };
    let both = Both {
        forward: start(forward, columns, out),
        backward: start(backward, out, columns),
        out,
        columns,
    };
    let panels = out / LANES;
    threads.run(|thread, threads| {
        let both = &both;
        let mut tile = vec![0.0_f32; LANES * columns];
        for panel in panels * thread / threads..panels * (thread + 1) / threads {
            rows(panel * LANES..(panel + 1) * LANES, &mut tile);
            // SAFETY: both outputs have capacity for every panel, and no other thread writes this
            // one.
            unsafe { pack_isa(isa, &tile, panel, *both) }
        }
    });
}

for_isa! { unsafe fn pack_isa(tile: &[f32], panel: usize, both: Both) = pack_body }

/// `V` only selects the instruction set that the function is compiled for.
#[inline(always)]
unsafe fn pack_body<V: Lanes>(tile: &[f32], panel: usize, both: Both) {
    let columns = both.columns;
    // SAFETY: as `pack_pairs` passes them.
    unsafe {
        if !both.forward.is_null() {
            let to = both.forward.add(panel * columns / 2 * LANES);
            for lane in 0..LANES {
                let row = tile.as_ptr().add(lane * columns);
                for pair in 0..columns / 2 {
                    *to.add(pair * LANES + lane) =
                        bf16(*row.add(2 * pair)) | (bf16(*row.add(2 * pair + 1)) << 16);
                }
            }
        }
        if !both.backward.is_null() {
            for pair in 0..LANES / 2 {
                let (low, high) = (
                    tile.as_ptr().add(2 * pair * columns),
                    tile.as_ptr().add((2 * pair + 1) * columns),
                );
                for block in 0..columns / LANES {
                    let to = both
                        .backward
                        .add((block * both.out / 2 + panel * LANES / 2 + pair) * LANES);
                    for lane in 0..LANES {
                        *to.add(lane) = bf16(*low.add(block * LANES + lane))
                            | (bf16(*high.add(block * LANES + lane)) << 16);
                    }
                }
            }
        }
    }
}

/// Converts f32 to bf16, ties to even.
///
/// # Panics
/// When the two differ in length.
pub fn to_bf16(threads: &ThreadPool, isa: Isa, x: &[f32], out: &mut [u16]) {
    struct Start(*mut u16);
    // SAFETY: threads write different parts.
    unsafe impl Sync for Start {}
    assert_eq!(x.len(), out.len(), "equal numbers of values");
    let to = Start(out.as_mut_ptr());
    threads.run(|thread, threads| {
        let to = &to;
        let range = x.len() * thread / threads..x.len() * (thread + 1) / threads;
        // SAFETY: within both, and no other thread writes this part.
        unsafe { to_bf16_isa(isa, &x[range.clone()], to.0.add(range.start)) }
    });
}

for_isa! { unsafe fn to_bf16_isa(x: &[f32], out: *mut u16) = to_bf16_body }

#[inline(always)]
unsafe fn to_bf16_body<V: Lanes>(x: &[f32], out: *mut u16) {
    for (at, value) in x.iter().enumerate() {
        // SAFETY: `out` has as many elements as `x`.
        unsafe { *out.add(at) = bf16(*value) as u16 }
    }
}

/// Converts bf16 to f32.
///
/// # Panics
/// When the two differ in length.
pub fn widen(threads: &ThreadPool, isa: Isa, x: &[u16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "equal numbers of values");
    let width = 1024.min(x.len());
    if width == 0 {
        return;
    }
    let (whole, rest) = out.split_at_mut(x.len() / width * width);
    // SAFETY: both have equal numbers of values.
    threads.for_rows(whole, width, |row, out| unsafe {
        widen_isa(isa, &x[row * width..(row + 1) * width], out)
    });
    unsafe { widen_isa(isa, &x[whole.len()..], rest) }
}

for_isa! { unsafe fn widen_isa(x: &[u16], out: &mut [f32]) = widen_body }

#[inline(always)]
unsafe fn widen_body<V: Lanes>(x: &[u16], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = f32::from_bits(u32::from(*x) << 16));
}

/// `c[rows, columns] = a · b`, or `+=` if `add`; `a` is `[rows, inner]` in bf16, sums are in f32.
///
/// # Panics
/// When the shapes do not match, or the processor has no bf16 dot products ([`has_bf16`]).
pub fn gemm_bf16(threads: &ThreadPool, a: &[u16], b: &PairedPanels, c: &mut [f32], add: bool) {
    assert!(has_bf16(), "bf16 dot products");
    assert!(b.inner > 0 && a.len().is_multiple_of(b.inner), "whole rows");
    let rows = a.len() / b.inner;
    assert_eq!(c.len(), rows * b.columns, "capacity for the product");
    #[cfg(target_arch = "x86_64")]
    {
        let to = Target { start: c.as_mut_ptr(), stride: b.columns };
        let panels = b.columns / LANES;
        threads.run(|thread, threads| {
            let to = &to;
            let mine = panels * thread / threads..panels * (thread + 1) / threads;
            // SAFETY: the shapes were checked, threads have different panels, and the processor
            // supports the instructions.
            unsafe { paired::multiply(a, rows, b, mine, to.start, add) }
        });
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (threads, rows, add);
}

#[cfg(target_arch = "x86_64")]
mod paired {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use super::super::lanes::LANES;
    use super::PairedPanels;

    /// Pairs of a panel that stay in the L1 cache while all rows are multiplied with them.
    const PAIRS: usize = 192;

    /// Multiplies all rows of `a` with a range of panels.
    ///
    /// # Safety
    /// `c` has capacity for `[rows, b.columns]`, no other thread accesses the columns of these
    /// panels, and the processor supports AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn multiply(
        a: &[u16],
        rows: usize,
        b: &PairedPanels,
        panels: Range<usize>,
        c: *mut f32,
        add: bool,
    ) {
        let pairs = b.inner / 2;
        let mut panel = panels.start;
        while panel < panels.end {
            let side = (panels.end - panel).min(2);
            for from in (0..pairs).step_by(PAIRS) {
                let count = PAIRS.min(pairs - from);
                let mut row = 0;
                while row < rows {
                    // SAFETY: as the caller guarantees.
                    unsafe {
                        let left = a.as_ptr().cast::<u32>().add(row * pairs + from);
                        let right = b.values.as_ptr().add((panel * pairs + from) * LANES);
                        let to = c.add(row * b.columns + panel * LANES);
                        let (right, add) =
                            ([right, right.wrapping_add(pairs * LANES)], add || from > 0);
                        row += match (side, rows - row) {
                            (2, 8..) => tile::<8, 2>(left, pairs, right, count, to, b.columns, add),
                            (2, 4..) => tile::<4, 2>(left, pairs, right, count, to, b.columns, add),
                            (2, _) => tile::<1, 2>(left, pairs, right, count, to, b.columns, add),
                            (_, 8..) => tile::<8, 1>(left, pairs, right, count, to, b.columns, add),
                            _ => tile::<1, 1>(left, pairs, right, count, to, b.columns, add),
                        };
                    }
                }
            }
            panel += side;
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn tile<const R: usize, const S: usize>(
        left: *const u32,
        stride: usize,
        right: [*const u32; 2],
        count: usize,
        to: *mut f32,
        columns: usize,
        add: bool,
    ) -> usize {
        // SAFETY: as `multiply`.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); S]; R];
            let (mut left, mut right) = (left, right);
            for _ in 0..count {
                let mut b = [_mm512_setzero_si512(); S];
                for s in 0..S {
                    b[s] = _mm512_loadu_si512(right[s].cast());
                    right[s] = right[s].wrapping_add(LANES);
                }
                for r in 0..R {
                    // wrapping arithmetic as in `gemm`'s tile
                    let a: __m512bh = std::mem::transmute::<__m512i, _>(_mm512_set1_epi32(
                        left.wrapping_add(r.wrapping_mul(stride)).read_unaligned().cast_signed(),
                    ));
                    for s in 0..S {
                        sums[r][s] = _mm512_dpbf16_ps(
                            sums[r][s],
                            a,
                            std::mem::transmute::<__m512i, __m512bh>(b[s]),
                        );
                    }
                }
                left = left.wrapping_add(1);
            }
            for r in 0..R {
                for s in 0..S {
                    let to = to.add(r * columns + s * LANES);
                    let sum = if add {
                        _mm512_add_ps(_mm512_loadu_ps(to), sums[r][s])
                    } else {
                        sums[r][s]
                    };
                    _mm512_storeu_ps(to, sum);
                }
            }
        }
        R
    }
}
