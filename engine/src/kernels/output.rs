//! Where products are written, and prefetching of weights.

/// Prefetch distance in bytes: the hardware prefetcher stops at page boundaries. Prefetches go to
/// the L2 cache: those to L1 would occupy the few line-fill buffers.
pub(super) const AHEAD: usize = 16_384;

/// Prefetches `lines` cache lines from `at` on. Addresses outside the buffer are ignored by the
/// processor.
#[inline(always)]
pub(super) fn prefetch(at: *const u8, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..lines {
        // SAFETY: a hint reads nothing, and every x86-64 processor has it.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(
                at.wrapping_add(64 * line).cast(),
            )
        };
    }
    #[cfg(target_arch = "aarch64")]
    for line in 0..lines {
        let at = at.wrapping_add(64 * line);
        // SAFETY: a hint reads nothing.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags))
        };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (at, lines);
}

/// The end of a thread's current range of weights, and the beginning of its next one (or null).
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    pub(super) end: *const u8,
    pub(super) next: *const u8,
}

impl Prefetch {
    /// Prefetches `lines` cache lines of what will be read [`AHEAD`] bytes after `at`.
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

/// The output of a product, `[tokens, rows]`, written by several threads at different columns.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) start: *mut f32,
    pub(super) rows: usize,
    /// Distance between the partial sums of two chunks, for a rank of several; 0: chunks are added
    /// up.
    pub(super) chunk_stride: usize,
}

// SAFETY: threads write the columns of different panels.
unsafe impl Sync for Output {}

impl Output {
    /// The destination of a chunk's partial sums.
    ///
    /// # Safety
    /// There is room for as many chunks.
    pub(super) unsafe fn of_chunk(self, chunk: usize) -> Self {
        // SAFETY: as the caller promises.
        Self { start: unsafe { self.start.add(chunk * self.chunk_stride) }, ..self }
    }
}
