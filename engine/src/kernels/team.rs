//! A fixed team of threads that works on one thing at a time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How often a waiting thread looks before it sleeps. Between two layers the next work comes within microseconds; a thread that waits
/// longer leaves its core to others.
const SPINS: usize = 4_000;

/// The caller and `threads - 1` helpers. Helpers spin briefly for the next work, then sleep.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// One piece of work at a time.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    /// Rises by one with every piece of work.
    epoch: AtomicUsize,
    /// The work of this epoch.
    work: Mutex<Option<Work>>,
    /// Helpers that have not finished it.
    pending: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// A borrowed closure, as a pointer: it outlives its use, since [`Team::run`] waits for every helper.
#[derive(Debug, Clone, Copy)]
struct Work {
    call: unsafe fn(*const (), usize, usize),
    closure: *const (),
    /// Those that take part: a team that could not be filled has fewer than were asked for.
    threads: usize,
}

// SAFETY: the closure is `Sync`, and lives until every helper is done with it.
unsafe impl Send for Work {}

/// # Safety
/// `closure` points to an `F` that is alive.
unsafe fn call<F: Fn(usize, usize) + Sync>(closure: *const (), thread: usize, threads: usize) {
    // SAFETY: as the caller promises.
    unsafe { (*closure.cast::<F>())(thread, threads) }
}

impl Team {
    /// A team of `threads`, the caller included; at least one.
    pub fn new(threads: usize) -> Self {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            work: Mutex::new(None),
            pending: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let start = |thread: usize| {
            let shared = Arc::clone(&shared);
            let body = move || help(&shared, thread);
            std::thread::Builder::new().name(format!("nyx-team-{thread}")).spawn(body)
        };
        // a team that could not be filled works with those it has
        let helpers: Vec<_> = (1..threads).map_while(|thread| start(thread).ok()).collect();
        Self { shared, helpers, turn: Mutex::new(()) }
    }

    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs `work(row, values)` for each row of `width` values, rows shared out among the threads.
    ///
    /// # Panics
    /// When `values` does not hold whole rows, or the work panics.
    pub fn for_rows(&self, values: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        struct Start(*mut f32);
        // SAFETY: threads take different rows.
        unsafe impl Sync for Start {}
        assert!(values.len().is_multiple_of(width), "whole rows");
        let (start, rows) = (Start(values.as_mut_ptr()), values.len() / width);
        self.run(|thread, threads| {
            let start = &start;
            for row in rows * thread / threads..rows * (thread + 1) / threads {
                // SAFETY: the row is within `values`, and no other thread has it.
                work(row, unsafe { std::slice::from_raw_parts_mut(start.0.add(row * width), width) });
            }
        });
    }

    /// Runs `work(thread, threads)` once on each thread and waits for all.
    ///
    /// # Panics
    /// When the work does, on any thread.
    pub fn run<F: Fn(usize, usize) + Sync>(&self, work: F) {
        let threads = self.threads();
        if threads == 1 {
            return work(0, 1);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &self.shared;
        *shared.work.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Work { call: call::<F>, closure: (&raw const work).cast(), threads });
        // of an earlier piece of work whose caller panicked too
        shared.panicked.store(false, Ordering::Relaxed);
        shared.pending.store(threads - 1, Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Release);
        self.helpers.iter().for_each(|helper| helper.thread().unpark());
        // waits also when its own part panics: the helpers still use the closure
        let waiting = WaitForHelpers(shared);
        work(0, threads);
        drop(waiting);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a helper thread panicked");
    }
}

struct WaitForHelpers<'a>(&'a Shared);

impl Drop for WaitForHelpers<'_> {
    fn drop(&mut self) {
        let mut looks = 0;
        while self.0.pending.load(Ordering::Acquire) > 0 {
            looks += 1;
            // a helper may have no core at the moment
            if looks > SPINS { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            let _ = helper.join();
        }
    }
}

fn help(shared: &Shared, thread: usize) {
    let (mut seen, mut looks) = (0, 0);
    loop {
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        let epoch = shared.epoch.load(Ordering::Acquire);
        if epoch == seen {
            looks += 1;
            // whoever starts work wakes those that sleep; one that is about to is not kept asleep
            if looks > SPINS {
                std::thread::park()
            } else {
                std::hint::spin_loop()
            }
            continue;
        }
        (seen, looks) = (epoch, 0);
        let work = *shared.work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(work) = work {
            // SAFETY: the closure is alive until `pending` has come down to 0.
            let done = std::panic::catch_unwind(|| unsafe { (work.call)(work.closure, thread, work.threads) });
            if done.is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.pending.fetch_sub(1, Ordering::Release);
    }
}
