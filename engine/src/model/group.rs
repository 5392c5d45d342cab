//! The shards of one copy of the model, each on a thread of its own: the first one leads, the others do each step with it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::Thread;

use candle_core::Device;

use super::step::Step;
use super::{Body, Llama, ModelConfig};
use crate::backoff::Backoff;
#[cfg(feature = "nccl")]
use crate::comm::nccl::NcclGroup;
use crate::comm::{Alarm, Communicator, SharedComm};
use crate::device::DeviceSpec;
use crate::weights::{ModelFiles, Quantisation};
use crate::{EngineError, Result};

/// How often the leader looks whether the others have their weights.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(2);

/// One shard's place in a group, to be taken by its thread.
///
/// Dropped without one, it tells the others not to wait.
#[derive(Debug)]
pub struct Rank {
    pub(super) rank: usize,
    pub(super) world: usize,
    /// `None`: the group is this shard alone.
    pub(super) comm: Option<SharedComm>,
    pub(super) shared: Arc<Shared>,
    settled: bool,
}

/// What the threads of a group share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The step under way.
    step: RwLock<Step>,
    /// Steps begun.
    begun: AtomicU64,
    /// Followers that are done with it.
    done: AtomicUsize,
    closed: AtomicBool,
    /// Where each shard is: adapters are put there.
    devices: Mutex<Vec<Option<Device>>>,
    followers: Mutex<Vec<Thread>>,
    alarm: Alarm,
    /// Why a follower ended.
    failure: Mutex<Option<String>>,
    /// Made by the first shard on a GPU.
    #[cfg(feature = "nccl")]
    nccl: Mutex<Option<Arc<NcclGroup>>>,
}

impl Rank {
    /// The seats of `world` shards, at least one; the first is the leader's.
    pub fn group(world: usize) -> Vec<Self> {
        let world = world.max(1);
        let comms = SharedComm::group(world);
        let shared = Arc::new(Shared {
            alarm: comms[0].alarm(),
            step: RwLock::default(),
            begun: AtomicU64::new(0),
            done: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            devices: Mutex::new(vec![None; world]),
            followers: Mutex::default(),
            failure: Mutex::default(),
            #[cfg(feature = "nccl")]
            nccl: Mutex::default(),
        });
        let mut comms = comms.into_iter();
        let seat = |rank| Self { rank, world, comm: comms.next().filter(|_| world > 1), shared: Arc::clone(&shared), settled: false };
        (0..world).map(seat).collect()
    }

    /// The only one of a group of one.
    pub fn alone() -> Self {
        let mut seats = Self::group(1);
        // a group of one has one seat
        seats.remove(0)
    }

    pub fn is_leader(&self) -> bool {
        self.rank == 0
    }

    /// Opens the shard's device.
    pub(super) fn open(&self, device: DeviceSpec) -> Result<Device> {
        if self.world == 1 { device.open() } else { device.open_in_group() }
    }

    /// What tensors' sums are taken with: NCCL between GPUs, where this build has it, else the host's memory.
    pub(super) fn communicator(&self, comm: SharedComm, device: &Device) -> Result<Box<dyn Communicator>> {
        #[cfg(feature = "nccl")]
        if device.is_cuda() {
            return Ok(Box::new(self.nccl()?.join(self.rank, device)?));
        }
        tracing::debug!(rank = self.rank, device = ?device.location(), "sums are taken by way of the host's memory");
        Ok(Box::new(comm))
    }

    #[cfg(feature = "nccl")]
    fn nccl(&self) -> Result<Arc<NcclGroup>> {
        let mut nccl = self.shared.nccl.lock().unwrap_or_else(PoisonError::into_inner);
        // under the lock: a seat that is given up from now on finds the group and calls it off
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(EngineError::ShardLost);
        }
        if let Some(group) = &*nccl {
            return Ok(Arc::clone(group));
        }
        let group = Arc::new(NcclGroup::new(self.world)?);
        *nccl = Some(Arc::clone(&group));
        Ok(group)
    }

    /// Says that this shard has its weights.
    pub(super) fn settle(mut self, device: &Device) {
        self.shared.devices.lock().unwrap_or_else(PoisonError::into_inner)[self.rank] = Some(device.clone());
        self.settled = true;
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        if !self.settled {
            // nobody waits for a shard that will not come
            self.shared.close();
            #[cfg(feature = "nccl")]
            if let Some(group) = &*self.shared.nccl.lock().unwrap_or_else(PoisonError::into_inner) {
                group.call_off(format!("shard {} of {} could not be loaded", self.rank, self.world));
            }
        }
    }
}

/// The leader's hold on its followers; dropping it sends them home.
#[derive(Debug)]
pub(super) struct Leader {
    shared: Arc<Shared>,
    world: usize,
}

impl Leader {
    pub(super) fn new(shared: Arc<Shared>, world: usize) -> Self {
        Self { shared, world }
    }

    pub(super) fn is_whole(&self) -> bool {
        !self.shared.closed.load(Ordering::Acquire)
    }

    /// Where each shard is, once all have their weights.
    ///
    /// # Errors
    /// Why one did not come, or has gone.
    pub(super) fn devices(&self) -> Result<Vec<Device>> {
        loop {
            if self.shared.closed.load(Ordering::Acquire) {
                return Err(self.shared.why(EngineError::ShardLost));
            }
            let devices = self.shared.devices.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(all) = devices.iter().cloned().collect::<Option<_>>() {
                return Ok(all);
            }
            drop(devices);
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Runs a step on all shards, `own` being the leader's part.
    pub(super) fn run(&self, step: &mut Step, own: impl FnOnce(&Step) -> Result<()>) -> Result<()> {
        if self.world == 1 {
            return own(step);
        }
        let shared = &*self.shared;
        if shared.closed.load(Ordering::Acquire) {
            return Err(EngineError::ShardLost);
        }
        std::mem::swap(&mut *shared.step.write().unwrap_or_else(PoisonError::into_inner), step);
        shared.done.store(0, Ordering::Relaxed);
        shared.begun.fetch_add(1, Ordering::Release);
        shared.wake();
        let broken = PoisonGuard(shared);
        let outcome = own(&shared.step.read().unwrap_or_else(PoisonError::into_inner));
        let outcome = outcome.and_then(|()| self.wait());
        if outcome.is_ok() {
            std::mem::forget(broken);
        } else {
            drop(broken);
        }
        std::mem::swap(&mut *shared.step.write().unwrap_or_else(PoisonError::into_inner), step);
        outcome.map_err(|error| shared.why(error))
    }

    fn wait(&self) -> Result<()> {
        let mut backoff = Backoff::default();
        while self.shared.done.load(Ordering::Acquire) + 1 < self.world {
            if self.shared.closed.load(Ordering::Acquire) {
                return Err(EngineError::ShardLost);
            }
            backoff.spin_or_yield();
        }
        Ok(())
    }
}

/// Sends everybody home when a shard fails, also by a panic: others may be waiting for it.
struct PoisonGuard<'a>(&'a Shared);

impl Drop for PoisonGuard<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A shard that does what its leader does.
pub struct Follower {
    body: Body,
    config: ModelConfig,
    shared: Arc<Shared>,
}

impl Shared {
    /// Sends everybody home: those that meet, and those that sleep.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.alarm.sound();
        self.wake();
    }

    fn wake(&self) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Thread::unpark);
    }

    fn failed(&self, error: &EngineError) {
        if !matches!(error, EngineError::ShardLost) {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
        }
    }

    /// Who waited for a shard does not know why it went: the shard itself does.
    fn why(&self, error: EngineError) -> EngineError {
        match (error, &*self.failure.lock().unwrap_or_else(PoisonError::into_inner)) {
            (EngineError::ShardLost, Some(reason)) => EngineError::Sharding { reason: reason.clone() },
            (error, _) => error,
        }
    }
}

impl Follower {
    pub(super) fn new(body: Body, config: ModelConfig, shared: Arc<Shared>) -> Self {
        Self { body, config, shared }
    }

    /// Loads the shard of `seat` on `device`, on the thread that will [`serve`](Self::serve).
    ///
    /// # Errors
    /// As [`Llama::load`].
    pub fn load(files: &ModelFiles, quantisation: Quantisation, device: DeviceSpec, seat: Rank) -> Result<Self> {
        let shared = Arc::clone(&seat.shared);
        let body = Llama::body(files, quantisation, device, seat).inspect_err(|error| shared.failed(error))?;
        Ok(Self::new(body, files.config().clone(), shared))
    }

    /// Does every step of the leader, until that is gone or this shard fails.
    ///
    /// # Errors
    /// Why the shard failed.
    pub fn serve(mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        shared.followers.lock().unwrap_or_else(PoisonError::into_inner).push(std::thread::current());
        // a group that lacks a shard can do nothing
        let _gone = PoisonGuard(&shared);
        let (mut seen, mut backoff) = (0, Backoff::default());
        let mut logits = Vec::new();
        while !shared.closed.load(Ordering::Acquire) {
            let begun = shared.begun.load(Ordering::Acquire);
            if begun == seen {
                backoff.spin_or_park();
                continue;
            }
            (seen, backoff) = (begun, Backoff::default());
            let step = shared.step.read().unwrap_or_else(PoisonError::into_inner);
            let outcome = self.body.forward(&self.config, &step, &mut logits);
            drop(step);
            if let Err(error) = outcome {
                shared.failed(&error);
                return Err(error);
            }
            shared.done.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }
}
