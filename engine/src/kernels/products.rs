//! Products of packed weights with int8 activations, distributed over threads.

use std::ops::Range;

use super::activations::Activations;
#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::isa::Isa;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::output::{Output, Prefetch};
use super::packed::PackedMatrix;
use super::portable;
use super::thread_pool::ThreadPool;

/// One of the products of a phase: `y[tokens, rows] = x · wᵀ`, overwriting `y`.
#[derive(Debug)]
pub struct Product<'a> {
    /// Weight, `[rows, columns]`.
    pub w: &'a PackedMatrix,
    /// Output, `[tokens, rows]`; `[chunks, tokens, rows]` for partial sums.
    pub y: &'a mut [f32],
}

/// Maximum number of products in a phase.
pub(super) const PRODUCTS: usize = 3;

/// The products of a phase: several weights with the same activations, distributed over threads.
pub(super) struct Phase<'a> {
    pub(super) isa: Isa,
    pub(super) parts: [Option<(&'a PackedMatrix, Output)>; PRODUCTS],
    pub(super) x: &'a Activations,
}

impl<'a> Phase<'a> {
    /// Checks the shapes. If `partial`, chunks are kept separate: each output is `[chunks, tokens,
    /// rows]`.
    ///
    /// # Panics
    /// When the shapes do not match, or there are more than [`PRODUCTS`] products.
    pub(super) fn new<'p: 'a>(
        isa: Isa,
        products: &mut [Product<'p>],
        x: &'a Activations,
        partial: bool,
    ) -> Self {
        let mut parts = [None; PRODUCTS];
        for (part, product) in parts[..products.len()].iter_mut().zip(products) {
            let size = x.tokens() * product.w.rows();
            assert_eq!(product.w.columns(), x.columns(), "columns of weight and activations");
            assert_eq!(
                product.y.len(),
                if partial { product.w.chunks() * size } else { size },
                "size of the output"
            );
            let output = Output {
                start: product.y.as_mut_ptr(),
                rows: product.w.rows(),
                chunk_stride: if partial { size } else { 0 },
            };
            *part = Some((product.w, output));
        }
        Self { isa, parts, x }
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = (&'a PackedMatrix, Output)> + '_ {
        self.parts.iter().filter_map(|part| *part)
    }

    /// Computes one thread's share of all panels.
    ///
    /// # Safety
    /// The outputs are still borrowed, and each of the `threads` threads calls this once with its
    /// own number.
    pub(super) unsafe fn work(&self, thread: usize, threads: usize) {
        let all: usize = self.parts().map(|(w, _)| w.panels()).sum();
        let mine = all * thread / threads..all * (thread + 1) / threads;
        let mut first = 0;
        let ranges = self.parts().map(|(w, output)| {
            let panels = w.panels();
            let range = mine.start.clamp(first, first + panels) - first
                ..mine.end.clamp(first, first + panels) - first;
            first += panels;
            (w, output, range)
        });
        // SAFETY: ranges of different threads do not overlap.
        unsafe { self.multiply_all(ranges, std::ptr::null()) };
    }

    /// The panels whose midpoint lies within `window` on a common cost axis, where each panel is as
    /// long as the cost of its product's panels. Yields one range for every product, possibly
    /// empty.
    pub(super) fn within(
        &self,
        window: Range<f64>,
        costs: [f64; PRODUCTS],
    ) -> impl Iterator<Item = (&'a PackedMatrix, Output, Range<usize>)> + '_ {
        let mut at = 0.0;
        self.parts().zip(costs).map(move |((w, output), cost)| {
            let panels = w.panels();
            let before =
                |edge: f64| ((edge - at) / cost - 0.5).ceil().clamp(0.0, panels as f64) as usize;
            let range = before(window.start)..before(window.end);
            at += cost * panels as f64;
            (w, output, range)
        })
    }

    /// Computes the given ranges in order; `then` is the address read after them (or null), for
    /// prefetching.
    ///
    /// # Safety
    /// The outputs are still borrowed, and ranges of different threads do not overlap.
    pub(super) unsafe fn multiply_all(
        &self,
        ranges: impl Iterator<Item = (&'a PackedMatrix, Output, Range<usize>)>,
        then: *const u8,
    ) {
        let mut ranges = ranges.filter(|(.., range)| !range.is_empty()).peekable();
        while let Some((w, output, range)) = ranges.next() {
            let next = ranges.peek().map_or(then, |(w, _, range)| w.start(range.start));
            let ahead = Prefetch { end: w.start(range.end), next };
            // SAFETY: `new` has checked the size of the outputs, `isa` was detected, and the rest
            // as the caller guarantees.
            unsafe { multiply(self.isa, w, self.x, range, output, ahead) }
        }
    }
}

/// Computes several products of the same activations, with their panels divided among the threads
/// as if they were one product.
///
/// # Panics
/// When the shapes do not match.
pub fn matmul(threads: &ThreadPool, isa: Isa, products: &mut [Product<'_>], x: &Activations) {
    let phase = Phase::new(isa, products, x, false);
    // SAFETY: `products` is borrowed until all threads are done.
    threads.run(|thread, threads| unsafe { phase.work(thread, threads) });
}

/// Multiplies some panels of `w` with all tokens of `x`.
///
/// # Safety
/// `output` has `[x.tokens(), w.rows()]` elements (per chunk, if chunks are kept separate), no
/// other thread writes the columns of these panels, and the processor supports `isa`.
unsafe fn multiply(
    isa: Isa,
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    output: Output,
    ahead: Prefetch,
) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { avx512::multiply(w, x, panels, output, ahead) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::multiply(w, x, panels, output, ahead) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::multiply(w, x, panels, output, ahead) },
        _ => unsafe { portable::multiply(w, x, panels, output) },
    }
}
