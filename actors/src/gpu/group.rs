//! The threads of one copy of the model: the leading device's own, and one for each further shard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use nyx_engine::{AdapterHandle, DeviceSpec, Engine, EngineError, Follower, Seat};

use super::thread::DeviceThreadOptions;
use crate::observe::Vitals;

/// A device beside the leading one, and its actor's vitals.
#[derive(Clone)]
pub struct Shard {
    pub device: DeviceSpec,
    pub vitals: Arc<Vitals>,
}

/// A copy of the model that is ready, with its adapters by name.
pub(super) struct Loaded {
    pub(super) engine: Engine,
    pub(super) adapters: BTreeMap<String, AdapterHandle>,
    /// Dropped after the engine, which sends them home.
    _followers: Followers,
}

/// The further shards' threads; dropping this waits for them.
struct Followers(Vec<JoinHandle<()>>);

impl Drop for Followers {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // one that panicked has said so
            let _ = thread.join();
        }
    }
}

impl Loaded {
    /// Loads every shard, the first on this thread.
    ///
    /// # Errors
    /// Why one could not be loaded.
    pub(super) fn new(options: &DeviceThreadOptions) -> Result<Self, EngineError> {
        let mut seats = Seat::group(1 + options.shards.len()).into_iter();
        let first = seats.next().unwrap_or_else(Seat::alone);
        let mut followers = Followers(Vec::new());
        for (seat, shard) in seats.zip(&options.shards) {
            followers.0.push(follow(options, shard.clone(), seat)?);
        }
        let text = Arc::clone(&options.text);
        let mut engine = Engine::load_group(&options.files, text, options.device, first, options.engine.clone())?;
        let mut adapters = BTreeMap::new();
        for (name, folder) in &options.adapters {
            adapters.insert(name.clone(), engine.load_adapter(name, folder)?);
        }
        Ok(Self { engine, adapters, _followers: followers })
    }
}

/// Starts the thread of a further shard.
fn follow(options: &DeviceThreadOptions, shard: Shard, seat: Seat) -> Result<JoinHandle<()>, EngineError> {
    let (files, quantisation) = (Arc::clone(&options.files), options.engine.quantisation);
    let device = shard.device.to_string();
    let body = move || {
        let _lost = Lost(&shard.vitals);
        let served = Follower::load(&files, quantisation, shard.device, seat).and_then(|follower| {
            shard.vitals.lost.store(false, Ordering::Relaxed);
            follower.serve()
        });
        if let Err(error) = served {
            super::thread::record_failure(&shard.vitals, error.to_string());
        }
    };
    let thread = std::thread::Builder::new().name(format!("nyx-{device}")).spawn(body);
    thread.map_err(|error| EngineError::Device { device, reason: error.to_string() })
}

/// Says that the shard is lost when its thread ends, also by a panic.
struct Lost<'a>(&'a Vitals);

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        self.0.lost.store(true, Ordering::Relaxed);
    }
}
