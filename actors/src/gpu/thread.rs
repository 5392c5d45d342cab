//! One device's OS thread: owns the engine, takes jobs from a bounded queue and runs the step loop.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use chrono::Utc;
use nyx_engine::{
    AdapterHandle, DeviceSpec, Engine, EngineError, EngineOptions, GenerateJob, ModelFiles, ModelInfo, ScoreJob, StepReport, Text,
};
use tokio::sync::{oneshot, watch};

use crate::NyxError;
use crate::decision::AdapterVersion;
use crate::observe::{Failure, Vitals};
use crate::supervise::panic_message;

/// Steps in a row that may panic before the weights are loaded anew.
const PANICS_BEFORE_RELOADING: usize = 3;
/// Loads without a good step between them before the device is given up.
const RELOADS_BEFORE_GIVING_UP: usize = 3;

/// Work for a device.
pub enum Job {
    Generate {
        job: GenerateJob,
        adapter: Option<String>,
    },
    Score {
        job: ScoreJob,
        adapter: Option<String>,
    },
    /// Only wakes the thread, so that it sees that it must stop.
    Wake,
}

/// What a device thread starts with.
pub struct DeviceThreadOptions {
    pub device: DeviceSpec,
    pub files: Arc<ModelFiles>,
    pub text: Arc<Text>,
    pub engine: EngineOptions,
    /// Name and PEFT folder of each adapter.
    pub adapters: Vec<(String, PathBuf)>,
    /// Jobs that may wait.
    pub queue: usize,
    pub retry_after_s: u64,
}

/// The handle of a device thread; dropping it stops the thread.
pub struct DeviceThread {
    jobs: SyncSender<Job>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    vitals: Arc<Vitals>,
    steps: watch::Receiver<StepReport>,
    adapters: BTreeMap<String, AdapterVersion>,
    model: ModelInfo,
    queue: usize,
    retry_after_s: u64,
}

struct Ready {
    model: ModelInfo,
    adapters: BTreeMap<String, AdapterVersion>,
}

impl DeviceThread {
    /// Starts the thread and waits until the weights are on the device.
    ///
    /// # Errors
    /// What loading fails with.
    pub async fn start(options: DeviceThreadOptions, vitals: Arc<Vitals>) -> Result<Self, EngineError> {
        let (jobs, receiver) = sync_channel(options.queue);
        let (queue, retry_after_s) = (options.queue, options.retry_after_s);
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, loaded) = oneshot::channel();
        let (steps_sender, steps) = watch::channel(StepReport::default());
        let device = options.device.to_string();
        let body = {
            let (stop, vitals) = (Arc::clone(&stop), Arc::clone(&vitals));
            move || run(options, &receiver, &stop, &vitals, ready, &steps_sender)
        };
        let failed = |reason: String| EngineError::Device { device: device.clone(), reason };
        let thread = std::thread::Builder::new().name(format!("nyx-{device}")).spawn(body).map_err(|error| failed(error.to_string()))?;
        let Ready { model, adapters } = loaded.await.map_err(|_| failed("its thread ended while loading".into()))??;
        Ok(Self { jobs, stop, thread: Mutex::new(Some(thread)), vitals, steps, adapters, model, queue, retry_after_s })
    }

    /// Puts a job into the device's queue; never waits.
    ///
    /// # Errors
    /// [`NyxError::Overloaded`] when the queue is full, [`NyxError::ActorDown`] when the thread has ended.
    pub fn submit(&self, job: Job) -> Result<(), NyxError> {
        self.vitals.queue_depth.fetch_add(1, Ordering::Relaxed);
        let refused = match self.jobs.try_send(job) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(_)) => NyxError::Overloaded { capacity: self.queue, retry_after_s: self.retry_after_s },
            Err(TrySendError::Disconnected(_)) => {
                NyxError::ActorDown { actor: self.vitals.name.clone(), state: "stopped", reason: "its device thread has ended".into() }
            }
        };
        self.vitals.queue_depth.fetch_sub(1, Ordering::Relaxed);
        Err(refused)
    }

    pub fn steps(&self) -> watch::Receiver<StepReport> {
        self.steps.clone()
    }

    /// The adapters on this device by name.
    pub fn adapters(&self) -> &BTreeMap<String, AdapterVersion> {
        &self.adapters
    }

    pub fn model(&self) -> &ModelInfo {
        &self.model
    }

    /// Whether the thread still runs.
    pub fn alive(&self) -> bool {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends what runs with [`EngineError::Cancelled`] and waits for the thread.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // a full queue wakes the thread as well
        let _ = self.jobs.try_send(Job::Wake);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(actor = %self.vitals.name, "the device thread ended in a panic");
        }
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.stop();
    }
}

type Loaded = (Engine, BTreeMap<String, AdapterHandle>);

fn load(options: &DeviceThreadOptions) -> Result<Loaded, EngineError> {
    let device = options.device.open()?;
    let mut engine = Engine::load(&options.files, Arc::clone(&options.text), &device, options.engine.clone())?;
    let mut adapters = BTreeMap::new();
    for (name, folder) in &options.adapters {
        adapters.insert(name.clone(), engine.load_adapter(name, folder)?);
    }
    Ok((engine, adapters))
}

fn run(
    options: DeviceThreadOptions,
    jobs: &Receiver<Job>,
    stop: &AtomicBool,
    vitals: &Vitals,
    ready: oneshot::Sender<Result<Ready, EngineError>>,
    steps: &watch::Sender<StepReport>,
) {
    let (engine, adapters) = match load(&options) {
        Ok(loaded) => loaded,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let version =
        |adapter: &AdapterHandle| AdapterVersion { name: adapter.0.name().to_owned(), id: adapter.0.id().to_owned(), generation: 1 };
    let versions = adapters.iter().map(|(name, adapter)| (name.clone(), version(adapter))).collect();
    if ready.send(Ok(Ready { model: engine.info().clone(), adapters: versions })).is_err() {
        return;
    }
    let why = work(&options, (engine, adapters), jobs, stop, vitals, steps);
    // those that still wait are told as well
    for job in jobs.try_iter() {
        vitals.queue_depth.fetch_sub(u64::from(!matches!(job, Job::Wake)), Ordering::Relaxed);
        match job {
            Job::Generate { job, .. } => job.sink.finish(Err(why())),
            Job::Score { job, .. } => (job.reply)(Err(why())),
            Job::Wake => {}
        }
    }
    steps.send_replace(StepReport::default());
}

/// Why work ended, for each who waited.
type Ended = Box<dyn Fn() -> EngineError>;

/// Takes jobs and steps until told to stop, or until the device only fails.
fn work(
    options: &DeviceThreadOptions,
    (mut engine, mut adapters): Loaded,
    jobs: &Receiver<Job>,
    stop: &AtomicBool,
    vitals: &Vitals,
    steps: &watch::Sender<StepReport>,
) -> Ended {
    let failed = |reason: String| -> Ended {
        let device = vitals.name.clone();
        Box::new(move || EngineError::Device { device: device.clone(), reason: reason.clone() })
    };
    let give_up = |reason: String| {
        record_failure(vitals, reason.clone());
        failed(reason)
    };
    let (mut panics, mut reloads) = (0, 0);
    while take_jobs(&mut engine, jobs, &adapters, stop, vitals) {
        match catch_unwind(AssertUnwindSafe(|| engine.step())) {
            Ok(Ok(report)) => {
                (panics, reloads) = (0, 0);
                steps.send_replace(report);
            }
            Ok(Err(error)) => record_failure(vitals, format!("step failed: {error}")),
            Err(payload) => {
                let reason = panic_message(&*payload);
                record_failure(vitals, reason.clone());
                engine.abort_all(&failed(reason.clone()));
                panics += 1;
                if panics < PANICS_BEFORE_RELOADING {
                    continue;
                }
                if reloads == RELOADS_BEFORE_GIVING_UP {
                    return give_up(format!("given up after {reloads} loads of the weights; last: {reason}"));
                }
                (panics, reloads) = (0, reloads + 1);
                tracing::warn!(actor = %vitals.name, "loading the weights anew");
                match load(options) {
                    Ok(loaded) => (engine, adapters) = loaded,
                    Err(error) => return give_up(format!("the weights could not be loaded anew: {error}")),
                }
            }
        }
    }
    engine.abort_all(&|| EngineError::Cancelled);
    Box::new(|| EngineError::Cancelled)
}

fn record_failure(vitals: &Vitals, reason: String) {
    tracing::error!(actor = %vitals.name, %reason, "the device failed");
    vitals.lifecycle.send_modify(|lifecycle| lifecycle.last_failure = Some(Failure { at: Utc::now(), reason }));
}

/// Moves what waits into the engine; sleeps while there is nothing to do. False when the thread must end.
fn take_jobs(
    engine: &mut Engine,
    jobs: &Receiver<Job>,
    adapters: &BTreeMap<String, AdapterHandle>,
    stop: &AtomicBool,
    vitals: &Vitals,
) -> bool {
    loop {
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
        let resolve = |name: Option<String>| match name {
            None => Ok(None),
            Some(name) => adapters.get(&name).cloned().map(Some).ok_or(EngineError::UnknownAdapter(name)),
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
        vitals.queue_depth.fetch_sub(1, Ordering::Relaxed);
    }
}
