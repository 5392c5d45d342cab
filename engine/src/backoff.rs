//! Backoff of a thread that waits for another thread: spin first, then yield or park.

/// Polls before a waiting thread releases its core. Between two layers the next work arrives within
/// microseconds; a longer wait releases the core.
const LOOKS: usize = 4_000;

/// The state of one wait: spins for the first polls, then yields or parks.
#[derive(Debug, Default)]
pub(crate) struct Backoff(usize);

impl Backoff {
    /// Yields the core on a long wait: for a condition whose change wakes no thread.
    #[inline]
    pub(crate) fn spin_or_yield(&mut self) {
        self.spin_or(std::thread::yield_now);
    }

    /// Parks the thread on a long wait: for a condition whose change unparks the thread.
    #[inline]
    pub(crate) fn spin_or_park(&mut self) {
        self.spin_or(std::thread::park);
    }

    #[inline]
    fn spin_or(&mut self, otherwise: fn()) {
        self.0 += 1;
        if self.0 > LOOKS { otherwise() } else { std::hint::spin_loop() }
    }
}
