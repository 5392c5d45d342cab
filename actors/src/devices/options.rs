//! What a device thread starts with.

use std::sync::Arc;

use nyx_engine::{DeviceSpec, EngineOptions, ModelFiles, Text};

use crate::adapters::LoadedAdapters;
use crate::observe::ActorMetrics;

/// A device beside the leading one, and its actor's metrics.
#[derive(Clone)]
pub struct Shard {
    pub device: DeviceSpec,
    pub metrics: Arc<ActorMetrics>,
}

/// Options of a device thread.
#[derive(Clone)]
pub struct DeviceThreadOptions {
    /// The leading device of the replica.
    pub device: DeviceSpec,
    /// The replica's further devices.
    pub shards: Vec<Shard>,
    pub files: Arc<ModelFiles>,
    pub text: Arc<Text>,
    pub engine: EngineOptions,
    /// What must be beside the weights, now and whenever they are loaded anew.
    pub adapters: LoadedAdapters,
    /// Jobs that may wait, beside those that run.
    pub queue: usize,
    pub retry_after_s: u64,
}
