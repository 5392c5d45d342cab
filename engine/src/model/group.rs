//! The ranks of one model replica, each on its own thread: the leader starts a step, and the
//! followers run it on their shards.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use candle_core::Device;

use super::body::Body;
use super::config::ModelConfig;
use super::rank::{Rank, Shared};
use super::step::Step;
use crate::backoff::Backoff;
use crate::device::DeviceSpec;
use crate::weights::{ModelFiles, Quantisation};
use crate::{EngineError, Result};

/// Polling interval of the leader while ranks are loading.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(2);

/// The leader's handle to its followers; dropping it stops them.
#[derive(Debug)]
pub(super) struct Leader {
    shared: Arc<Shared>,
    world: usize,
}

impl Leader {
    pub(super) fn new(shared: Arc<Shared>, world: usize) -> Self {
        Self { shared, world }
    }

    /// Whether no rank of the group has failed or ended.
    pub(super) fn is_whole(&self) -> bool {
        !self.shared.closed.load(Ordering::Acquire)
    }

    /// Waits until all ranks are loaded and returns each rank's device.
    ///
    /// # Errors
    /// The error of the rank that failed.
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

    /// Runs a step on all ranks; `own` runs it on the leader's shard.
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

    /// Waits until all followers have completed the step.
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

/// Aborts the group when a rank fails or panics, because other ranks may be waiting for it.
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

/// A non-leading rank, which runs the leader's steps on its shard.
pub struct Follower {
    body: Body,
    config: ModelConfig,
    shared: Arc<Shared>,
}

impl Follower {
    pub(super) fn new(body: Body, config: ModelConfig, shared: Arc<Shared>) -> Self {
        Self { body, config, shared }
    }

    /// Loads the shard of `rank` on `device`. Call it on the thread that will run
    /// [`serve`](Self::serve).
    ///
    /// # Errors
    /// As [`Llama::load`](super::Llama::load).
    pub fn load(
        files: &ModelFiles,
        quantisation: Quantisation,
        device: DeviceSpec,
        rank: Rank,
    ) -> Result<Self> {
        let shared = Arc::clone(&rank.shared);
        let body = Body::load(files, quantisation, device, rank)
            .inspect_err(|error| shared.failed(error))?;
        Ok(Self::new(body, files.config().clone(), shared))
    }

    /// Runs every step of the leader until the group ends or this rank fails.
    ///
    /// # Errors
    /// The error with which this rank failed.
    pub fn serve(mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        shared
            .followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(std::thread::current());
        // a group cannot continue without one of its ranks
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
