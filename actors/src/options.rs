//! Options of Nyx and their validation.

use std::collections::BTreeSet;
use std::path::PathBuf;

use nyx_engine::{AdapterPrecision, DeviceSpec, Quantisation};
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::bandit::BanditSettings;
use nyx_specialists::safety::SafetyPolicy;
use serde::{Deserialize, Serialize};

use crate::StartError;
use crate::adapters::AdapterOptions;
use crate::confidence::ConfidenceOptions;
use crate::facts::FactOptions;
use crate::memory::MemoryOptions;
use crate::phoebe::PhoebeOptions;
use crate::trainer::TrainingOptions;

/// `[pool]`: devices and batching.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolOptions {
    /// Devices in one inner list are the shards of one copy of the model; the lists are replicas.
    pub replicas: Vec<Vec<String>>,
    pub quantisation: Quantisation,
    pub adapter_precision: AdapterPrecision,
    /// Maximum number of sequences in one step.
    pub max_batch: usize,
    /// Maximum number of prompt tokens in one step.
    pub prefill_chunk: usize,
    pub prefix_cache_mb: usize,
    /// Memory for the keys and values of a replica, the prefix cache included.
    pub kv_cache_mb: usize,
    /// Speculative decoding by prompt lookup, where it pays off; the output does not change.
    pub speculate: bool,
    /// Upper bound on the context window; the model's own when absent.
    pub context_length: Option<usize>,
    /// Maximum number of jobs that wait for one device.
    pub queue: usize,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            replicas: vec![vec!["cpu".into()]],
            quantisation: Quantisation::None,
            adapter_precision: AdapterPrecision::Int8,
            max_batch: 16,
            prefill_chunk: 256,
            prefix_cache_mb: 256,
            kv_cache_mb: 1024,
            speculate: true,
            context_length: None,
            queue: 64,
        }
    }
}

/// `[routing]`: the choice of a specialist.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingOptions {
    /// Weight of a cosine similarity of 1 relative to trait weights, above 0.
    pub similarity_scale: f64,
    /// The softmax's temperature τ, above 0.
    pub temperature: f64,
    /// Fraction ε of choices that are drawn uniformly, in [0, 1].
    pub epsilon: f64,
    /// Bound of the absolute value of trait weights.
    pub max_trait_weight: f64,
    /// Step size of a trait weight's first update; 0 disables updates.
    pub learning_rate: f64,
    /// Decay of weights and baselines per rewarded decision; 0 disables it.
    pub decay: f64,
    /// Milliseconds after which weights are read again, for updates by other processes.
    pub trait_weight_age_ms: u64,
}

impl Default for RoutingOptions {
    fn default() -> Self {
        Self {
            similarity_scale: 10.0,
            temperature: 0.25,
            epsilon: 0.02,
            max_trait_weight: 5.0,
            learning_rate: 0.3,
            decay: 0.005,
            trait_weight_age_ms: 1_000,
        }
    }
}

impl RoutingOptions {
    /// Settings of the weight update; `None` where it is disabled.
    pub(crate) fn learning(&self) -> Option<BanditSettings> {
        let Self { temperature, max_trait_weight: max_weight, learning_rate, decay, .. } = *self;
        (learning_rate > 0.0).then_some(BanditSettings {
            learning_rate,
            decay,
            max_weight,
            temperature,
        })
    }
}

/// `[rewards]`: weights of the terms of a reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardOptions {
    /// Weight of `-(confidence - correct)²`, in [0, 1].
    pub calibration: f64,
}

impl Default for RewardOptions {
    fn default() -> Self {
        Self { calibration: 1.0 }
    }
}

/// `[requests]`: admission and deadlines.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestOptions {
    /// Maximum number of requests in flight; a further one gets 429.
    pub max_in_flight: usize,
    pub retry_after_s: u64,
    pub default_deadline_ms: u64,
    pub max_deadline_ms: u64,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            max_in_flight: 64,
            retry_after_s: 1,
            default_deadline_ms: 60_000,
            max_deadline_ms: 600_000,
        }
    }
}

/// All options. Paths are absolute or relative to the working directory.
#[derive(Debug, Clone)]
pub struct NyxOptions {
    /// A `.gguf` file or a Hugging Face folder.
    pub base_model: PathBuf,
    /// The folder of all-MiniLM-L6-v2.
    pub embedder: PathBuf,
    pub data_dir: PathBuf,
    pub pool: PoolOptions,
    pub routing: RoutingOptions,
    pub requests: RequestOptions,
    pub rewards: RewardOptions,
    pub phoebe: PhoebeOptions,
    pub memory: MemoryOptions,
    pub adapters: AdapterOptions,
    pub training: TrainingOptions,
    pub facts: FactOptions,
    /// In the order of the routing prompt.
    pub specialists: Vec<SpecialistPolicy>,
    /// The safety policy for questions and answers.
    pub safety: SafetyPolicy,
    pub confidence: ConfidenceOptions,
}

/// The devices of each replica.
///
/// # Errors
/// Names the invalid replica and what is expected.
pub fn replicas(options: &PoolOptions) -> Result<Vec<Vec<DeviceSpec>>, StartError> {
    let bad = |value: String, expected| {
        Err(StartError::Setting { key: "pool.replicas", value, expected })
    };
    if options.replicas.is_empty() {
        return bad("empty".into(), "at least one replica, such as [[\"cpu\"]]");
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let mut replicas: Vec<Vec<DeviceSpec>> = Vec::new();
    for replica in &options.replicas {
        let devices = replica
            .iter()
            .map(|name| name.parse())
            .collect::<Result<Vec<DeviceSpec>, _>>()
            .map_err(StartError::Model)?;
        let shown = || format!("{replica:?}");
        let on_gpus = devices.iter().filter(|device| matches!(device, DeviceSpec::Cuda(_))).count();
        if devices.is_empty() {
            return bad(shown(), "at least one device a replica");
        }
        if on_gpus != 0 && on_gpus != devices.len() {
            return bad(shown(), "devices of one kind in a replica: \"cpu:N\" or \"cuda:N\"");
        }
        if devices.len() > 1 && devices.contains(&DeviceSpec::Cpu) {
            return bad(shown(), "\"cpu\" alone, since it is all cores, or single cores \"cpu:N\"");
        }
        if devices
            .iter()
            .any(|device| matches!(device, DeviceSpec::CpuCore(core) if *core >= cores))
        {
            return bad(shown(), "cores that this machine has, counted from 0");
        }
        replicas.push(devices);
    }
    let mut seen = BTreeSet::new();
    match replicas.iter().flatten().find(|device| !seen.insert(device.to_string())) {
        Some(twice) => {
            bad(format!("{:?} (duplicate device {twice})", options.replicas), "each device once")
        }
        None => Ok(replicas),
    }
}

pub(crate) fn check(options: &NyxOptions) -> Result<(), StartError> {
    let bad = |key, value: String, expected| Err(StartError::Setting { key, value, expected });
    let (pool, routing, requests) = (&options.pool, &options.routing, &options.requests);
    for (key, value) in [
        ("routing.similarity_scale", routing.similarity_scale),
        ("routing.temperature", routing.temperature),
    ] {
        if !(value > 0.0 && value.is_finite()) {
            return bad(key, value.to_string(), "a number above 0");
        }
    }
    if !(0.0..=1.0).contains(&routing.epsilon) {
        return bad("routing.epsilon", routing.epsilon.to_string(), "a number from 0 to 1");
    }
    if !(routing.max_trait_weight > 0.0 && routing.max_trait_weight.is_finite()) {
        return bad(
            "routing.max_trait_weight",
            routing.max_trait_weight.to_string(),
            "a number above 0",
        );
    }
    for (key, value, most, expected) in [
        ("routing.learning_rate", routing.learning_rate, 10.0, "0 to 10"),
        ("routing.decay", routing.decay, 0.5, "0 to 0.5"),
        ("rewards.calibration", options.rewards.calibration, 1.0, "0 to 1"),
    ] {
        if !(0.0..=most).contains(&value) {
            return bad(key, value.to_string(), expected);
        }
    }
    for (key, value) in [
        ("pool.max_batch", pool.max_batch),
        ("pool.prefill_chunk", pool.prefill_chunk),
        ("pool.queue", pool.queue),
        ("pool.kv_cache_mb", pool.kv_cache_mb),
        ("requests.max_in_flight", requests.max_in_flight),
        ("memory.queue", options.memory.queue),
    ] {
        if value == 0 {
            return bad(key, "0".into(), "at least 1");
        }
    }
    if requests.default_deadline_ms == 0 || requests.default_deadline_ms > requests.max_deadline_ms
    {
        return bad(
            "requests.default_deadline_ms",
            requests.default_deadline_ms.to_string(),
            "from 1 to requests.max_deadline_ms",
        );
    }
    if options.specialists.is_empty() {
        return bad("specialists", "none".into(), "at least one specialist's file");
    }
    match options
        .specialists
        .iter()
        .filter_map(|policy| policy.replica)
        .find(|replica| *replica >= pool.replicas.len())
    {
        Some(replica) => bad(
            "a specialist's replica",
            replica.to_string(),
            "the number of a replica in pool.replicas, from 0",
        ),
        None => Ok(()),
    }
}
