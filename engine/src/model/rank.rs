//! A rank of a tensor-parallel group, and what the group's threads share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::Thread;

use candle_core::Device;

use super::step::Step;
#[cfg(feature = "nccl")]
use crate::comm::nccl::NcclGroup;
use crate::comm::{Alarm, Communicator, SharedComm};
use crate::device::DeviceSpec;
use crate::{EngineError, Result};

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
    pub(super) step: RwLock<Step>,
    /// Steps begun.
    pub(super) begun: AtomicU64,
    /// Followers that are done with it.
    pub(super) done: AtomicUsize,
    pub(super) closed: AtomicBool,
    /// Where each shard is: adapters are put there.
    pub(super) devices: Mutex<Vec<Option<Device>>>,
    pub(super) followers: Mutex<Vec<Thread>>,
    pub(super) alarm: Alarm,
    /// Why a follower ended.
    pub(super) failure: Mutex<Option<String>>,
    /// Made by the first shard on a GPU.
    #[cfg(feature = "nccl")]
    pub(super) nccl: Mutex<Option<Arc<NcclGroup>>>,
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

impl Shared {
    /// Sends everybody home: those that meet, and those that sleep.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.alarm.sound();
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Thread::unpark);
    }

    pub(super) fn failed(&self, error: &EngineError) {
        if !matches!(error, EngineError::ShardLost) {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.to_string());
        }
    }

    /// Who waited for a shard does not know why it went: the shard itself does.
    pub(super) fn why(&self, error: EngineError) -> EngineError {
        match (error, &*self.failure.lock().unwrap_or_else(PoisonError::into_inner)) {
            (EngineError::ShardLost, Some(reason)) => EngineError::Sharding { reason: reason.clone() },
            (error, _) => error,
        }
    }
}
