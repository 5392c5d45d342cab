//! How a thread waits for another one that is nearly there.

/// How often a waiting thread looks before it lets go of its core. Between two layers the next work comes within microseconds; who waits
/// longer leaves the core to others.
const LOOKS: usize = 4_000;

/// One wait. Between two looks at what is waited for, it spins first, and then does what costs less.
#[derive(Debug, Default)]
pub(crate) struct Backoff(usize);

impl Backoff {
    /// Lends the core to others when it takes long: for what comes without waking anybody.
    #[inline]
    pub(crate) fn spin_or_yield(&mut self) {
        self.spin_or(std::thread::yield_now);
    }

    /// Sleeps when it takes long: for what wakes the thread when it comes.
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
