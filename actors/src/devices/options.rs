//! Options of a device thread.

use std::sync::Arc;

use nyx_engine::{DeviceSpec, EngineOptions, ModelFiles, Text};

use crate::adapters::LoadedAdapters;
use crate::observe::ActorMetrics;

/// A further device of a replica, and its actor's metrics.
#[derive(Clone)]
pub struct Shard {
    pub device: DeviceSpec,
    pub metrics: Arc<ActorMetrics>,
}

/// Options of a device thread.
#[derive(Clone)]
pub struct DeviceThreadOptions {
    /// The replica's first device.
    pub device: DeviceSpec,
    /// The replica's further devices.
    pub shards: Vec<Shard>,
    pub files: Arc<ModelFiles>,
    pub text: Arc<Text>,
    pub engine: EngineOptions,
    /// The adapters to load beside the weights, now and after a reload.
    pub adapters: LoadedAdapters,
    /// Jobs that may wait, in addition to running ones.
    pub queue: usize,
    pub retry_after_s: u64,
}
