//! Products with quantised weights on the CPU: the one module that may be `unsafe`.
//!
//! Weights are repacked at load, losslessly, for the machine's dot products: 16 output rows stand side by side (a *panel*), so that one
//! vector register holds the same four columns of all of them, and an activation's four bytes meet it by one broadcast. Activations are
//! rounded to int8 in blocks of 32, as llama.cpp's Q8_1 has them, with an f32 scale.
//!
//! Every path (AVX-512 VNNI, AVX2, NEON, portable) gives the same bits: dot products of a block are exact in i32, and blocks are added in f32
//! by the same fused multiply-adds in the same order, whatever the number of rows and threads. Threads split output rows, never columns.

#![allow(unsafe_code, reason = "vector instructions, and disjoint writes from several threads; each use says why it holds")]
#![allow(clippy::needless_range_loop, reason = "registers of several arrays are counted together")]
#![allow(clippy::too_many_arguments, reason = "what a kernel needs stands in registers, not in a struct")]

mod activations;
mod attention;
mod attention_train;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod dense;
mod gemm;
mod gradients;
#[cfg(test)]
mod guard;
mod lanes;
mod lora;
mod lora_matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod ops;
mod packed;
mod portable;
mod rounded;
mod rounded_products;
#[cfg(test)]
mod tests;
mod thread_pool;

use std::ops::Range;

pub use activations::{Activations, Residual, Rounding};
pub use attention::{AttentionShape, KV_BLOCK_SIZE, KvSlice, Span, attention};
pub use attention_train::{Attended, Heads, Tree, attend, attend_backward};
pub use blocks::BlockKind;
pub use dense::{DenseMatrix, matmul_dense, matmul_dense_apart};
pub use gemm::{Left, PairedPanels, Right, Scaled, bf16_is_faster, gemm, gemm_bf16, has_bf16, pack_pairs, to_bf16, transposed, widen};
pub use gradients::{rms_norm_backward, softmax_scaled, swiglu, swiglu_backward};
pub use lora::{LoraActivations, LowRank, add_low, low_rank, low_rank_apart, matmul_apart, matmul_low_rank};
pub use lora_matrix::LoraMatrix;
pub use ops::{SoftmaxSums, add, exp_shifted, most_of, rms_norm, rotate, silu_mul, softmax_sums, to_half};
pub use packed::PackedMatrix;
pub use rounded::RoundedMatrix;
pub use thread_pool::ThreadPool;

/// Columns that share a scale.
pub const BLOCK: usize = 32;
/// Output rows that stand side by side.
pub const PANEL: usize = 16;

/// Which instructions to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "no processor has all of them")]
pub enum Isa {
    /// AVX-512 with VNNI: 64 products an instruction.
    Avx512Vnni,
    Avx2,
    /// With dot products, which all but the oldest 64-bit Arm processors have.
    Neon,
    Portable,
}

impl Isa {
    /// The best that this processor has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let has = |all: &[bool]| all.iter().all(|present| *present);
            if has(&[
                std::arch::is_x86_feature_detected!("avx512f"),
                std::arch::is_x86_feature_detected!("avx512bw"),
                std::arch::is_x86_feature_detected!("avx512vnni"),
            ]) {
                return Self::Avx512Vnni;
            }
            if has(&[
                std::arch::is_x86_feature_detected!("avx2"),
                std::arch::is_x86_feature_detected!("fma"),
                std::arch::is_x86_feature_detected!("f16c"),
            ]) {
                return Self::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod") {
            return Self::Neon;
        }
        Self::Portable
    }

    /// Those that this processor has, the best first.
    #[cfg(any(test, feature = "bench"))]
    pub fn available() -> Vec<Self> {
        match Self::detect() {
            Self::Avx512Vnni => vec![Self::Avx512Vnni, Self::Avx2, Self::Portable],
            Self::Avx2 => vec![Self::Avx2, Self::Portable],
            Self::Neon => vec![Self::Neon, Self::Portable],
            Self::Portable => vec![Self::Portable],
        }
    }
}

/// How far ahead of its use a weight is fetched, in bytes: the processor's own prefetcher stops at every page, and what comes from memory
/// would be waited for. It goes to the second cache: what is on its way to the first takes up one of the few places for what a core waits for.
const AHEAD: usize = 16_384;

/// Begins to fetch `lines` cache lines from `at` on. They may lie behind the end of what there is: a fetch that cannot be is none.
#[inline(always)]
fn fetch(at: *const u8, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        // SAFETY: a hint reads nothing, and every x86-64 processor has it.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.wrapping_add(64 * line).cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    for line in 0..lines {
        let at = at.wrapping_add(64 * line);
        // SAFETY: a hint reads nothing.
        unsafe { std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags)) };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (at, lines);
}

/// What a thread reads one after the other, where a piece ends, and where the one after it begins (or null).
#[derive(Clone, Copy)]
struct Prefetch {
    end: *const u8,
    next: *const u8,
}

impl Prefetch {
    /// Fetches what will be read [`AHEAD`] bytes after `at`, `lines` cache lines of it.
    #[inline(always)]
    fn fetch(self, at: *const u8, lines: usize) {
        let ahead = at.wrapping_add(AHEAD);
        if ahead < self.end {
            fetch(ahead, lines);
        } else if !self.next.is_null() {
            fetch(self.next.wrapping_add(ahead as usize - self.end as usize), lines);
        }
    }
}

/// The output of a product, `[tokens, rows]`, written by several threads at different columns.
#[derive(Clone, Copy)]
struct Output {
    start: *mut f32,
    rows: usize,
    /// From one chunk's sums to the next's, for a shard whose sums others add to; 0: chunks are added up.
    apart: usize,
}

// SAFETY: threads write the columns of different panels.
unsafe impl Sync for Output {}

impl Output {
    /// Where a chunk's own sums go.
    ///
    /// # Safety
    /// There is room for as many chunks.
    unsafe fn of_chunk(self, chunk: usize) -> Self {
        // SAFETY: as the caller promises.
        Self { start: unsafe { self.start.add(chunk * self.apart) }, ..self }
    }
}

/// One of the products of a phase: `y[tokens, rows] = x · wᵀ`, written whole.
#[derive(Debug)]
pub struct Product<'a> {
    pub w: &'a PackedMatrix,
    pub y: &'a mut [f32],
}

/// Products of a phase at most.
const PRODUCTS: usize = 3;

/// The products of a phase, to be shared out.
struct Phase<'a> {
    isa: Isa,
    parts: [Option<(&'a PackedMatrix, Output)>; PRODUCTS],
    x: &'a Activations,
}

impl<'a> Phase<'a> {
    /// `apart`: each output holds `[chunks, tokens, rows]`, one chunk's sums after the other.
    ///
    /// # Panics
    /// When the shapes do not fit, or there are more than [`PRODUCTS`].
    fn new<'p: 'a>(isa: Isa, products: &mut [Product<'p>], x: &'a Activations, apart: bool) -> Self {
        let mut parts = [None; PRODUCTS];
        for (part, product) in parts[..products.len()].iter_mut().zip(products) {
            let size = x.tokens() * product.w.rows();
            assert_eq!(product.w.columns(), x.columns(), "columns of weight and activations");
            assert_eq!(product.y.len(), if apart { product.w.chunks() * size } else { size }, "size of the output");
            let output = Output { start: product.y.as_mut_ptr(), rows: product.w.rows(), apart: if apart { size } else { 0 } };
            *part = Some((product.w, output));
        }
        Self { isa, parts, x }
    }

    fn parts(&self) -> impl Iterator<Item = (&'a PackedMatrix, Output)> + '_ {
        self.parts.iter().filter_map(|part| *part)
    }

    /// This thread's share of all panels.
    ///
    /// # Safety
    /// The outputs are still borrowed, and each thread of the threads calls this once with its own number.
    unsafe fn work(&self, thread: usize, threads: usize) {
        let all: usize = self.parts().map(|(w, _)| w.panels()).sum();
        let mine = all * thread / threads..all * (thread + 1) / threads;
        let mut first = 0;
        let ranges = self.parts().map(|(w, output)| {
            let panels = w.panels();
            let range = mine.start.clamp(first, first + panels) - first..mine.end.clamp(first, first + panels) - first;
            first += panels;
            (w, output, range)
        });
        // SAFETY: ranges of different threads do not overlap.
        unsafe { self.multiply_all(ranges, std::ptr::null()) };
    }

    /// The panels whose middle lies within `window`, when each takes up what those of its product cost; of every product, also none.
    fn within(&self, window: Range<f64>, costs: [f64; PRODUCTS]) -> impl Iterator<Item = (&'a PackedMatrix, Output, Range<usize>)> + '_ {
        let mut at = 0.0;
        self.parts().zip(costs).map(move |((w, output), cost)| {
            let panels = w.panels();
            let before = |edge: f64| ((edge - at) / cost - 0.5).ceil().clamp(0.0, panels as f64) as usize;
            let range = before(window.start)..before(window.end);
            at += cost * panels as f64;
            (w, output, range)
        })
    }

    /// # Safety
    /// The outputs are still borrowed, and ranges of different threads do not overlap.
    unsafe fn multiply_all(&self, ranges: impl Iterator<Item = (&'a PackedMatrix, Output, Range<usize>)>, then: *const u8) {
        let mut ranges = ranges.filter(|(.., range)| !range.is_empty()).peekable();
        while let Some((w, output, range)) = ranges.next() {
            let next = ranges.peek().map_or(then, |(w, _, range)| w.start(range.start));
            let ahead = Prefetch { end: w.start(range.end), next };
            // SAFETY: `y` has room for every row of every token, `isa` was detected, and else as the caller promises.
            unsafe { multiply(self.isa, w, self.x, range, output, ahead) }
        }
    }
}

/// All products of the same activations, shared out among the threads as one.
///
/// # Panics
/// When the shapes do not fit.
pub fn matmul(threads: &ThreadPool, isa: Isa, products: &mut [Product<'_>], x: &Activations) {
    let phase = Phase::new(isa, products, x, false);
    // SAFETY: `products` is borrowed until all are done.
    threads.run(|thread, threads| unsafe { phase.work(thread, threads) });
}

/// # Safety
/// `output` has room for `[x.tokens(), w.rows()]`, nobody else writes the columns of these panels, and the processor has `isa`.
unsafe fn multiply(isa: Isa, w: &PackedMatrix, x: &Activations, panels: Range<usize>, output: Output, ahead: Prefetch) {
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
