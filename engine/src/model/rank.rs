//! A rank of a tensor-parallel group, and the state shared by the group's threads.

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

/// One rank of a tensor-parallel group, owned by the thread that runs its shard.
///
/// Dropping it before the weights are loaded aborts the group.
#[derive(Debug)]
pub struct Rank {
    /// Index of the rank; 0 is the leader.
    pub(super) index: usize,
    /// Number of ranks in the group.
    pub(super) world: usize,
    /// `None`: the group has one rank.
    pub(super) comm: Option<SharedComm>,
    pub(super) shared: Arc<Shared>,
    /// Whether the shard is loaded.
    settled: bool,
}

/// State shared by the threads of a group.
#[derive(Debug)]
pub(super) struct Shared {
    /// The current step.
    pub(super) step: RwLock<Step>,
    /// Number of steps that the leader has started.
    pub(super) begun: AtomicU64,
    /// Number of followers that have completed the current step.
    pub(super) done: AtomicUsize,
    /// Whether the group has ended or was aborted.
    pub(super) closed: AtomicBool,
    /// Each rank's device, once its shard is loaded; used to load adapters.
    pub(super) devices: Mutex<Vec<Option<Device>>>,
    /// Threads of the followers, to be unparked when a step starts.
    pub(super) followers: Mutex<Vec<Thread>>,
    /// Aborts pending reductions.
    pub(super) alarm: Alarm,
    /// Error of the first rank that failed.
    pub(super) failure: Mutex<Option<String>>,
    /// Created by the first shard on a GPU.
    #[cfg(feature = "nccl")]
    pub(super) nccl: Mutex<Option<Arc<NcclGroup>>>,
}

impl Rank {
    /// Creates a group of `world` ranks, at least one; the first is the leader.
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
        let rank = |index| Self {
            index,
            world,
            comm: comms.next().filter(|_| world > 1),
            shared: Arc::clone(&shared),
            settled: false,
        };
        (0..world).map(rank).collect()
    }

    /// The rank of a group of size one: the whole model on one device.
    pub fn alone() -> Self {
        let mut ranks = Self::group(1);
        // a group of one has one rank
        ranks.remove(0)
    }

    /// Whether this rank is the leader.
    pub fn is_leader(&self) -> bool {
        self.index == 0
    }

    /// Opens the shard's device.
    pub(super) fn open(&self, device: DeviceSpec) -> Result<Device> {
        if self.world == 1 { device.open() } else { device.open_in_group() }
    }

    /// The communicator for tensors: NCCL on GPUs if this build includes it, else host memory.
    pub(super) fn communicator(
        &self,
        comm: SharedComm,
        device: &Device,
    ) -> Result<Box<dyn Communicator>> {
        #[cfg(feature = "nccl")]
        if device.is_cuda() {
            return Ok(Box::new(self.nccl()?.join(self.index, device)?));
        }
        tracing::debug!(rank = self.index, device = ?device.location(), "all-reduce through host memory");
        Ok(Box::new(comm))
    }

    #[cfg(feature = "nccl")]
    fn nccl(&self) -> Result<Arc<NcclGroup>> {
        let mut nccl = self.shared.nccl.lock().unwrap_or_else(PoisonError::into_inner);
        // checked under the lock: a rank that fails later finds the NCCL group and aborts it
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

    /// Marks this rank as loaded on `device`.
    pub(super) fn settle(mut self, device: &Device) {
        self.shared.devices.lock().unwrap_or_else(PoisonError::into_inner)[self.index] =
            Some(device.clone());
        self.settled = true;
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        if !self.settled {
            // other ranks must not wait for a failed rank
            self.shared.close();
            #[cfg(feature = "nccl")]
            if let Some(group) = &*self.shared.nccl.lock().unwrap_or_else(PoisonError::into_inner) {
                group.call_off(format!(
                    "shard {} of {} could not be loaded",
                    self.index, self.world
                ));
            }
        }
    }
}

impl Shared {
    /// Aborts the group: wakes ranks that wait in an all-reduce or are parked.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.alarm.sound();
        self.wake();
    }

    /// Unparks the followers.
    pub(super) fn wake(&self) {
        self.followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .for_each(Thread::unpark);
    }

    /// Records the first error that is not a consequence of another rank's failure.
    pub(super) fn failed(&self, error: &EngineError) {
        if !matches!(error, EngineError::ShardLost) {
            self.failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert(error.to_string());
        }
    }

    /// Replaces [`EngineError::ShardLost`] by the error that the failed rank recorded, if any.
    pub(super) fn why(&self, error: EngineError) -> EngineError {
        match (error, &*self.failure.lock().unwrap_or_else(PoisonError::into_inner)) {
            (EngineError::ShardLost, Some(reason)) => {
                EngineError::Sharding { reason: reason.clone() }
            }
            (error, _) => error,
        }
    }
}
