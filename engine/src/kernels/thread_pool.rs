//! A fixed-size thread pool that runs one parallel section at a time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::backoff::Backoff;

/// The calling thread and `threads - 1` helpers. Helpers spin briefly for the next parallel
/// section, then park. A section is split into as many shares as there are threads, and each free
/// thread claims the next one: a helper that the OS has descheduled does not delay the others.
#[derive(Debug)]
pub struct ThreadPool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Held by the caller of the current section.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    /// Upper half: the section's number, increased by one each time. Lower half: the next share to
    /// claim. A claim therefore succeeds only for the section that it was meant for, while the
    /// caller of that section waits.
    claims: AtomicU64,
    /// The current section.
    work: Mutex<Option<Work>>,
    /// Number of shares that are done.
    done: AtomicUsize,
    /// The panic payload of the first share that panicked.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Set when the pool is dropped: helpers exit.
    stop: AtomicBool,
}

/// A borrowed closure as a raw pointer. The closure outlives its use, since [`ThreadPool::run`]
/// waits until every share is done.
#[derive(Debug, Clone, Copy)]
struct Work {
    call: unsafe fn(*const (), usize, usize),
    closure: *const (),
    /// Number of shares, equal to the number of threads; fewer than requested if some threads could
    /// not be started.
    shares: usize,
    number: u64,
}

// SAFETY: the closure is `Sync` and lives until every share is done.
unsafe impl Send for Work {}

/// Calls the closure for one share.
///
/// # Safety
/// `closure` points to a live `F`.
unsafe fn call<F: Fn(usize, usize) + Sync>(closure: *const (), share: usize, shares: usize) {
    // SAFETY: as the caller guarantees.
    unsafe { (*closure.cast::<F>())(share, shares) }
}

/// Bits of the share in [`Shared::claims`]; the section's number has the rest.
const SHARE_BITS: u32 = 32;

impl Shared {
    /// Number of the current section.
    fn number(&self) -> u64 {
        self.claims.load(Ordering::Acquire) >> SHARE_BITS
    }

    /// Claims the next share of `work`; `None` if all are claimed or another section has begun.
    fn claim(&self, work: &Work) -> Option<usize> {
        let mut claims = self.claims.load(Ordering::Acquire);
        loop {
            let share = (claims & u64::from(u32::MAX)) as usize;
            if claims >> SHARE_BITS != work.number || share >= work.shares {
                return None;
            }
            match self.claims.compare_exchange_weak(
                claims,
                claims + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(share),
                Err(now) => claims = now,
            }
        }
    }

    /// Claims and runs shares of `work` until none is left.
    fn take_part(&self, work: &Work) {
        while let Some(share) = self.claim(work) {
            // SAFETY: the share is claimed but not done, so that the caller still waits for it and
            // the closure is alive.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe {
                (work.call)(work.closure, share, work.shares)
            }));
            if let Err(payload) = outcome {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }
}

impl ThreadPool {
    /// Creates a pool of `threads` threads (at least one), including the caller's.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            claims: AtomicU64::new(0),
            work: Mutex::new(None),
            done: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let start = |thread: usize| {
            let shared = Arc::clone(&shared);
            let body = move || help(&shared);
            std::thread::Builder::new().name(format!("nyx-threads-{thread}")).spawn(body)
        };
        // if a thread cannot be started, the pool works with fewer
        let helpers: Vec<_> = (1..threads).map_while(|thread| start(thread).ok()).collect();
        Self { shared, helpers, turn: Mutex::new(()) }
    }

    /// Creates a pool with one thread per available core.
    pub fn on_all_cores() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get))
    }

    /// Number of threads, including the caller's.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `work(row, values)` for each row of `width` values, with rows divided among the
    /// threads.
    ///
    /// # Panics
    /// When `values` does not hold whole rows, or the work panics.
    pub fn for_rows(
        &self,
        values: &mut [f32],
        width: usize,
        work: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        struct Start(*mut f32);
        // SAFETY: threads write different rows.
        unsafe impl Sync for Start {}
        assert!(values.len().is_multiple_of(width), "whole rows");
        let (start, rows) = (Start(values.as_mut_ptr()), values.len() / width);
        self.run(|thread, threads| {
            let start = &start;
            for row in rows * thread / threads..rows * (thread + 1) / threads {
                // SAFETY: the row is within `values`, and no other thread accesses it.
                work(row, unsafe {
                    std::slice::from_raw_parts_mut(start.0.add(row * width), width)
                });
            }
        });
    }

    /// Runs `work(share, shares)` once for each share, where `shares` is the number of threads, and
    /// waits until all are done. Concurrent calls are serialised.
    ///
    /// # Panics
    /// When `work` panics on any thread.
    pub fn run<F: Fn(usize, usize) + Sync>(&self, work: F) {
        let shares = self.threads();
        if shares == 1 {
            return work(0, 1);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &self.shared;
        let number = (shared.number() + 1) & u64::from(u32::MAX);
        let work = Work { call: call::<F>, closure: (&raw const work).cast(), shares, number };
        *shared.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        shared.done.store(0, Ordering::Relaxed);
        shared.claims.store(number << SHARE_BITS, Ordering::Release);
        self.helpers.iter().for_each(|helper| helper.thread().unpark());
        shared.take_part(&work);
        self.wait_until_done(shares);
        if let Some(payload) = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            resume_unwind(payload);
        }
    }

    fn wait_until_done(&self, shares: usize) {
        let mut backoff = Backoff::default();
        while self.shared.done.load(Ordering::Acquire) < shares {
            // the thread that runs the last share may have been descheduled
            backoff.spin_or_yield();
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            let _ = helper.join();
        }
    }
}

/// Main loop of a helper thread.
fn help(shared: &Shared) {
    let (mut seen, mut backoff) = (0, Backoff::default());
    while !shared.stop.load(Ordering::Acquire) {
        let number = shared.number();
        if number == seen {
            // `run` unparks all helpers; an unpark that comes before the park makes it return at
            // once
            backoff.spin_or_park();
            continue;
        }
        (seen, backoff) = (number, Backoff::default());
        let work = *shared.work.lock().unwrap_or_else(PoisonError::into_inner);
        // this may already be the next section; its shares cannot be claimed before it begins
        if let Some(work) = work {
            shared.take_part(&work);
        }
    }
}
