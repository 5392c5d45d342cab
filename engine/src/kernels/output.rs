//! Output buffers of matrix products, and prefetching of weights.

/// Prefetch distance in bytes. Software prefetching is needed because the hardware prefetcher stops
/// at page boundaries. Prefetches go to the L2 cache: those to L1 would occupy the few line-fill
/// buffers.
pub(super) const AHEAD: usize = 16_384;

/// Prefetches `lines` cache lines starting at `at`. Addresses outside the buffer are ignored by the
/// processor.
#[inline(always)]
pub(super) fn prefetch(at: *const u8, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        // SAFETY: a prefetch hint does not access memory, and every x86-64 processor supports it.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(
                at.wrapping_add(64 * line).cast(),
            )
        };
    }
    #[cfg(target_arch = "aarch64")]
    for line in 0..lines {
        let at = at.wrapping_add(64 * line);
        // SAFETY: a prefetch hint does not access memory.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags))
        };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (at, lines);
}

/// The end of the range of weights that a thread reads now, and the start of its next range (or
/// null).
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    pub(super) end: *const u8,
    pub(super) next: *const u8,
}

impl Prefetch {
    /// Prefetches `lines` cache lines of the weights [`AHEAD`] bytes after `at` in reading order.
    #[inline(always)]
    pub(super) fn prefetch(self, at: *const u8, lines: usize) {
        let ahead = at.wrapping_add(AHEAD);
        if ahead < self.end {
            prefetch(ahead, lines);
        } else if !self.next.is_null() {
            prefetch(self.next.wrapping_add(ahead as usize - self.end as usize), lines);
        }
    }
}

/// The output of a product, `[tokens, rows]`. Several threads write it, each its own columns.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) start: *mut f32,
    pub(super) rows: usize,
    /// Elements from one chunk's partial sums to the next chunk's when they are kept separate
    /// (output `[chunks, tokens, rows]`, for tensor parallelism); 0 when chunks are added up.
    pub(super) chunk_stride: usize,
}

// SAFETY: threads write the columns of different panels.
unsafe impl Sync for Output {}

impl Output {
    /// Returns the destination of a chunk's partial sums.
    ///
    /// # Safety
    /// The buffer has capacity for this chunk.
    pub(super) unsafe fn of_chunk(self, chunk: usize) -> Self {
        // SAFETY: as the caller guarantees.
        Self { start: unsafe { self.start.add(chunk * self.chunk_stride) }, ..self }
    }
}
