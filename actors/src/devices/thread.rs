//! One device's OS thread: owns the engine, takes jobs from a bounded queue and runs the step loop.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nyx_engine::{EngineError, Finished, GenerateJob, Piece, ScoreJob, StepReport, TokenSink};
use tokio::sync::{oneshot, watch};

use super::job::Job;
use super::options::DeviceThreadOptions;
use super::replica::Loaded;
use crate::NyxError;
use crate::adapters::{AdapterLease, LOADS, Load};
use crate::observe::{ActorMetrics, Held};
use crate::supervise::panic_message;

/// Consecutive steps that may fail or panic before the weights are reloaded.
const FAILURES_BEFORE_RELOADING: usize = 3;
/// Reloads without a successful step between them before the device is given up.
const RELOADS_BEFORE_GIVING_UP: usize = 3;

/// A device with its thread, which is restarted when it has ended.
pub struct Device {
    options: DeviceThreadOptions,
    metrics: Arc<ActorMetrics>,
    steps: watch::Sender<StepReport>,
    thread: Mutex<Arc<DeviceThread>>,
    /// Held during a restart.
    reviving: tokio::sync::Mutex<()>,
}

impl Device {
    /// Starts the thread and waits until the weights are loaded.
    ///
    /// # Errors
    /// The error of the load.
    pub async fn start(
        options: DeviceThreadOptions,
        metrics: Arc<ActorMetrics>,
    ) -> Result<Self, EngineError> {
        let steps = watch::Sender::new(StepReport::default());
        let thread =
            DeviceThread::start(options.clone(), Arc::clone(&metrics), steps.clone()).await?;
        Ok(Self {
            options,
            metrics,
            steps,
            thread: Mutex::new(Arc::new(thread)),
            reviving: tokio::sync::Mutex::default(),
        })
    }

    fn thread(&self) -> Arc<DeviceThread> {
        Arc::clone(&self.thread.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a new thread if the old one has ended.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn revive(&self) -> Result<(), EngineError> {
        let _one = self.reviving.lock().await;
        let old = self.thread();
        if old.alive() || old.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        tracing::warn!(actor = %self.metrics.name, "starting the device's thread anew");
        let thread = DeviceThread::start(
            self.options.clone(),
            Arc::clone(&self.metrics),
            self.steps.clone(),
        )
        .await?;
        // dropped outside the lock, so that submitters do not wait
        let _replaced = std::mem::replace(
            &mut *self.thread.lock().unwrap_or_else(PoisonError::into_inner),
            Arc::new(thread),
        );
        Ok(())
    }

    /// Accepts a job; never waits.
    ///
    /// # Errors
    /// [`NyxError::Overloaded`] when the queue is full, [`NyxError::ActorDown`] when the thread has
    /// ended.
    pub fn submit(&self, job: Job) -> Result<(), NyxError> {
        self.thread().submit(job)
    }

    pub fn steps(&self) -> watch::Receiver<StepReport> {
        self.steps.subscribe()
    }

    /// Maximum number of tokens of a sequence.
    pub fn window(&self) -> usize {
        self.thread().window
    }

    /// Whether the thread still runs.
    pub fn alive(&self) -> bool {
        self.thread().alive()
    }

    /// Ends running jobs with [`EngineError::Cancelled`] and waits for the thread.
    pub fn stop(&self) {
        self.thread().stop();
    }
}

/// The handle of a device thread; dropping it stops the thread.
struct DeviceThread {
    jobs: SyncSender<Job>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    metrics: Arc<ActorMetrics>,
    window: usize,
    /// Maximum number of running and waiting jobs.
    most: usize,
    retry_after_s: u64,
}

impl DeviceThread {
    async fn start(
        options: DeviceThreadOptions,
        metrics: Arc<ActorMetrics>,
        steps: watch::Sender<StepReport>,
    ) -> Result<Self, EngineError> {
        let (most, retry_after_s) =
            (options.engine.max_batch + options.queue, options.retry_after_s);
        // accepted jobs are counted: the channel never fills before that limit
        let (jobs, receiver) = sync_channel(most + 1);
        let (loads, loading) = sync_channel(LOADS);
        // attached before the thread reads what to load, so that no load is missed
        let queue: SyncSender<Job> = jobs.clone();
        let wake = move || {
            // a full queue wakes the thread as well
            let _ = queue.try_send(Job::Wake);
        };
        options.adapters.attach(&metrics.name, loads, Box::new(wake));
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, loaded) = oneshot::channel();
        let device = options.device.to_string();
        let body = {
            let (stop, metrics) = (Arc::clone(&stop), Arc::clone(&metrics));
            move || run(options, (&receiver, &loading), &stop, &metrics, ready, &steps)
        };
        let failed = |reason: String| EngineError::Device { device: device.clone(), reason };
        let thread = std::thread::Builder::new()
            .name(format!("nyx-{device}"))
            .spawn(body)
            .map_err(|error| failed(error.to_string()))?;
        let window =
            loaded.await.map_err(|_| failed("its thread ended while loading".into()))??;
        Ok(Self {
            jobs,
            stop,
            thread: Mutex::new(Some(thread)),
            metrics,
            window,
            most,
            retry_after_s,
        })
    }

    fn submit(&self, job: Job) -> Result<(), NyxError> {
        let overloaded =
            || NyxError::Overloaded { capacity: self.most, retry_after_s: self.retry_after_s };
        let held = self.metrics.hold(self.most as u64).ok_or_else(overloaded)?;
        match self.jobs.try_send(job.held_by(held)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(overloaded()),
            Err(TrySendError::Disconnected(_)) => {
                let reason = "its device thread has ended: restart the actor".into();
                Err(NyxError::ActorDown {
                    actor: self.metrics.name.clone(),
                    state: "stopped",
                    reason,
                })
            }
        }
    }

    fn alive(&self) -> bool {
        self.thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // a full queue wakes the thread as well
        let _ = self.jobs.try_send(Job::Wake);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(actor = %self.metrics.name, "the device thread ended in a panic");
        }
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Job {
    /// The same job, counted until it has ended.
    fn held_by(self, held: Held) -> Self {
        match self {
            Self::Generate { job, adapter } => {
                let sink = Box::new(HeldSink { sink: job.sink, held });
                Self::Generate { job: GenerateJob { sink, ..job }, adapter }
            }
            Self::Score { job, adapter } => {
                let reply = job.reply;
                let jobs = move |scores| {
                    drop(held);
                    reply(scores);
                };
                Self::Score { job: ScoreJob { reply: Box::new(jobs), ..job }, adapter }
            }
            Self::Wake => Self::Wake,
        }
    }
}

/// A sink whose job is counted until it has ended.
struct HeldSink {
    sink: Box<dyn TokenSink>,
    held: Held,
}

impl TokenSink for HeldSink {
    fn piece(&mut self, piece: Piece) -> ControlFlow<()> {
        self.sink.piece(piece)
    }

    fn finish(self: Box<Self>, end: Result<Finished, EngineError>) {
        // the count is decreased before the end is reported
        drop(self.held);
        self.sink.finish(end);
    }
}

/// The inputs of a device thread: jobs, and adapters to load between two steps.
type Jobs<'a> = (&'a Receiver<Job>, &'a Receiver<Load>);

fn run(
    options: DeviceThreadOptions,
    jobs: Jobs<'_>,
    stop: &AtomicBool,
    metrics: &ActorMetrics,
    ready: oneshot::Sender<Result<usize, EngineError>>,
    steps: &watch::Sender<StepReport>,
) {
    let loaded = match Loaded::new(&options) {
        Ok(loaded) => loaded,
        Err(error) => return drop(ready.send(Err(error))),
    };
    if ready.send(Ok(loaded.engine.window())).is_err() {
        return;
    }
    // from here on the pool relies on this thread, however it ends
    metrics.lost.store(false, Ordering::Relaxed);
    let _lost = Lost(metrics);
    let why = work(&options, loaded, jobs, stop, metrics, steps);
    // waiting jobs are reported as ended, too
    for job in jobs.0.try_iter() {
        match job {
            Job::Generate { job, .. } => job.sink.finish(Err(why())),
            Job::Score { job, .. } => (job.reply)(Err(why())),
            Job::Wake => {}
        }
    }
    steps.send_replace(StepReport::default());
}

/// Reports the device as lost when its thread ends, also by a panic.
struct Lost<'a>(&'a ActorMetrics);

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        self.0.lost.store(true, Ordering::Relaxed);
        self.0.running.store(0, Ordering::Relaxed);
    }
}

/// Why waiting work ended.
type Ended = Box<dyn Fn() -> EngineError>;

/// Accepts jobs and runs steps until it is stopped, or until the device keeps failing.
fn work(
    options: &DeviceThreadOptions,
    mut loaded: Loaded,
    jobs: Jobs<'_>,
    stop: &AtomicBool,
    metrics: &ActorMetrics,
    steps: &watch::Sender<StepReport>,
) -> Ended {
    let failed = |reason: String| -> Ended {
        let device = metrics.name.clone();
        Box::new(move || EngineError::Device { device: device.clone(), reason: reason.clone() })
    };
    let give_up = |reason: String| {
        metrics.record_failure(reason.clone());
        failed(reason)
    };
    let (mut failures, mut reloads) = (0, 0);
    while take_jobs(&mut loaded, jobs, stop) {
        let reason = match catch_unwind(AssertUnwindSafe(|| loaded.engine.step())) {
            Ok(Ok(report)) => {
                (failures, reloads) = (0, 0);
                metrics.running.store(report.running as u64, Ordering::Relaxed);
                steps.send_replace(report);
                continue;
            }
            Ok(Err(error)) => format!("step failed: {error}"),
            Err(payload) => panic_message(&*payload),
        };
        metrics.record_failure(reason.clone());
        loaded.engine.abort_all(&failed(reason.clone()));
        failures += 1;
        // a replica that has lost a shard cannot recover
        if failures < FAILURES_BEFORE_RELOADING && loaded.engine.is_whole() {
            continue;
        }
        if reloads == RELOADS_BEFORE_GIVING_UP {
            return give_up(format!(
                "given up after {reloads} loads of the weights; last: {reason}"
            ));
        }
        (failures, reloads) = (0, reloads + 1);
        tracing::warn!(actor = %metrics.name, "loading the weights anew");
        // the old weights are freed first: both may not fit
        drop(loaded);
        match Loaded::new(options) {
            Ok(anew) => loaded = anew,
            Err(error) => return give_up(format!("the weights could not be loaded anew: {error}")),
        }
    }
    loaded.engine.abort_all(&|| EngineError::Cancelled);
    Box::new(|| EngineError::Cancelled)
}

/// Moves waiting jobs into the engine; sleeps while there is nothing to do. False when the thread
/// must end.
fn take_jobs(loaded: &mut Loaded, (jobs, loads): Jobs<'_>, stop: &AtomicBool) -> bool {
    loop {
        // before the next job: the holder of a lease has waited until the adapter was loaded
        loads.try_iter().for_each(|load| loaded.obey(load));
        loaded.sweep();
        let Loaded { engine, adapters, .. } = loaded;
        if stop.load(Ordering::Acquire) {
            return false;
        }
        let job = if engine.has_work() {
            match jobs.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        } else {
            match jobs.recv() {
                Ok(job) => job,
                Err(RecvError) => return false,
            }
        };
        let resolve = |lease: Option<AdapterLease>| match lease {
            None => Ok(None),
            Some(lease) => adapters
                .get(lease.id())
                .cloned()
                .map(Some)
                .ok_or_else(|| EngineError::UnknownAdapter(lease.id().to_owned())),
        };
        match job {
            Job::Wake => continue,
            Job::Generate { mut job, adapter } => match resolve(adapter) {
                Ok(adapter) => {
                    job.adapter = adapter;
                    engine.submit(job);
                }
                Err(error) => job.sink.finish(Err(error)),
            },
            Job::Score { mut job, adapter } => match resolve(adapter) {
                Ok(adapter) => {
                    job.adapter = adapter;
                    engine.score(job);
                }
                Err(error) => (job.reply)(Err(error)),
            },
        }
    }
}
