//! The threads of one copy of the model: the first device's own, and one per further shard.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use nyx_engine::{AdapterHandle, Engine, EngineError, Follower, Rank};

use super::options::{DeviceThreadOptions, Shard};
use crate::adapters::{Load, LoadedAdapters};
use crate::observe::ActorMetrics;

/// A loaded copy of the model, with its adapters by id.
pub(super) struct Loaded {
    pub(super) engine: Engine,
    pub(super) adapters: BTreeMap<String, AdapterHandle>,
    wanted: LoadedAdapters,
    /// Number of ended leases that were processed.
    swept: u64,
    /// Dropped after the engine, which ends their loops.
    _followers: Followers,
}

/// The further shards' threads; dropping this waits for them.
struct Followers(Vec<JoinHandle<()>>);

impl Drop for Followers {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // a panic was logged already
            let _ = thread.join();
        }
    }
}

impl Loaded {
    /// Loads every shard, the first on this thread.
    ///
    /// # Errors
    /// Why a shard could not be loaded.
    pub(super) fn new(options: &DeviceThreadOptions) -> Result<Self, EngineError> {
        let mut ranks = Rank::group(1 + options.shards.len()).into_iter();
        let first = ranks.next().unwrap_or_else(Rank::alone);
        let mut followers = Followers(Vec::new());
        for (rank, shard) in ranks.zip(&options.shards) {
            followers.0.push(follow(options, shard.clone(), rank)?);
        }
        let text = Arc::clone(&options.text);
        let engine = Engine::load_group(
            &options.files,
            text,
            options.device,
            first,
            options.engine.clone(),
        )?;
        let wanted = options.adapters.clone();
        let mut loaded =
            Self { engine, adapters: BTreeMap::new(), wanted, swept: 0, _followers: followers };
        for (id, folder) in loaded.wanted.wanted() {
            // without it the base model still answers, and requests for the adapter are refused by
            // its id
            if let Err(error) = loaded.load(&id, &folder) {
                tracing::error!(adapter = %id, %error, "an adapter could not be loaded again");
            }
        }
        Ok(loaded)
    }

    /// Loads an adapter.
    pub(super) fn obey(&mut self, Load { id, folder, done }: Load) {
        // if the caller has given up, the lease is gone, and the adapter is unloaded at once
        drop(done.send(self.load(&id, &folder)));
    }

    /// Unloads adapters without a lease.
    pub(super) fn sweep(&mut self) {
        let released = self.wanted.released();
        if released == self.swept {
            return;
        }
        self.swept = released;
        let Self { engine, adapters, wanted, .. } = self;
        adapters.retain(|id, _| {
            let stays = wanted.holds(id);
            if !stays {
                engine.forget_adapter(id);
            }
            stays
        });
    }

    /// Loads an adapter on every shard.
    fn load(&mut self, id: &str, folder: &Path) -> Result<(), EngineError> {
        if self.adapters.contains_key(id) {
            return Ok(());
        }
        let handle = self.engine.load_adapter(id, folder)?;
        if handle.0.id() != id {
            let reason = format!("its files have the id {}, expected {id}", handle.0.id());
            return Err(EngineError::BadAdapter { path: folder.to_owned(), reason });
        }
        self.adapters.insert(id.to_owned(), handle);
        Ok(())
    }
}

/// Starts the thread of a further shard.
fn follow(
    options: &DeviceThreadOptions,
    shard: Shard,
    rank: Rank,
) -> Result<JoinHandle<()>, EngineError> {
    let (files, quantisation) = (Arc::clone(&options.files), options.engine.quantisation);
    let device = shard.device.to_string();
    let body = move || {
        let _lost = Lost(&shard.metrics);
        let served =
            Follower::load(&files, quantisation, shard.device, rank).and_then(|follower| {
                shard.metrics.lost.store(false, Ordering::Relaxed);
                follower.serve()
            });
        if let Err(error) = served {
            shard.metrics.record_failure(error.to_string());
        }
    };
    let thread = std::thread::Builder::new().name(format!("nyx-{device}")).spawn(body);
    thread.map_err(|error| EngineError::Device { device, reason: error.to_string() })
}

/// Reports the shard as lost when its thread ends, also by a panic.
struct Lost<'a>(&'a ActorMetrics);

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        self.0.lost.store(true, Ordering::Relaxed);
    }
}
