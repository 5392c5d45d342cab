//! Starting the device threads and their actors.

use std::sync::Arc;

use actix::ArbiterHandle;
use nyx_engine::{DeviceSpec, EngineOptions, ModelFiles, Text};

use crate::StartError;
use crate::adapters::LoadedAdapters;
use crate::devices::{Device, DeviceThreadOptions, GpuShard, GpuWorker, Shard};
use crate::metrics::Metrics;
use crate::observe::ActorMetrics;
use crate::options::PoolOptions;
use crate::supervise::ActorRef;
use crate::tree::ActorTree;

/// The device threads, with an actor for each replica's first device and each further one.
pub(super) struct Devices {
    /// One per replica, in the order of `pool.replicas`.
    pub(super) workers: Vec<ActorRef<GpuWorker>>,
    pub(super) shards: Vec<ActorRef<GpuShard>>,
    /// One per replica.
    pub(super) threads: Vec<Arc<Device>>,
    /// The smallest context window of a replica, in tokens.
    pub(super) window: usize,
}

/// What all replicas have in common.
pub(super) struct DeviceSetup<'a> {
    pub(super) tree: &'a ActorTree,
    pub(super) metrics: &'a Arc<Metrics>,
    pub(super) files: &'a Arc<ModelFiles>,
    pub(super) text: &'a Arc<Text>,
    pub(super) loaded: &'a LoadedAdapters,
    pub(super) pool: &'a PoolOptions,
    pub(super) retry_after_s: u64,
}

impl Devices {
    /// Loads a copy of the model on each replica.
    pub(super) async fn start(
        replicas: Vec<Vec<DeviceSpec>>,
        setup: &DeviceSetup<'_>,
    ) -> Result<Self, StartError> {
        let model_window = setup.files.info().context_length;
        let window =
            setup.pool.context_length.map_or(model_window, |limit| limit.min(model_window));
        let mut devices =
            Self { workers: Vec::new(), shards: Vec::new(), threads: Vec::new(), window };
        for specs in replicas {
            devices.start_replica(&specs, setup).await?;
        }
        Ok(devices)
    }

    async fn start_replica(
        &mut self,
        specs: &[DeviceSpec],
        setup: &DeviceSetup<'_>,
    ) -> Result<(), StartError> {
        let worker = |device: &DeviceSpec| {
            ActorMetrics::new(worker_name(device), "gpu_worker", Some(device.to_string()))
        };
        let mut members =
            specs.iter().map(|device| Shard { device: *device, metrics: worker(device) });
        let Some(Shard { device, metrics: actor }) = members.next() else { return Ok(()) };
        let shards: Vec<Shard> = members.collect();
        let options = DeviceThreadOptions {
            device,
            shards: shards.clone(),
            files: Arc::clone(setup.files),
            text: Arc::clone(setup.text),
            engine: engine_options(setup.pool),
            adapters: setup.loaded.clone(),
            queue: setup.pool.queue,
            retry_after_s: setup.retry_after_s,
        };
        let thread =
            Arc::new(Device::start(options, Arc::clone(&actor)).await.map_err(StartError::Device)?);
        if thread.window() < self.window {
            tracing::warn!(
                asked = self.window,
                holds = thread.window(),
                "pool.kv_cache_mb holds less than the context window"
            );
            self.window = thread.window();
        }
        count_steps(&setup.tree.arbiter, setup.metrics, &actor.name, &thread);
        let device = Arc::clone(&thread);
        self.workers.push(
            setup.tree.start(actor, move |metrics| GpuWorker::new(Arc::clone(&device), metrics)),
        );
        for shard in shards {
            let device = Arc::clone(&thread);
            self.shards.push(
                setup.tree.start(shard.metrics, move |metrics| {
                    GpuShard::new(Arc::clone(&device), metrics)
                }),
            );
        }
        self.threads.push(thread);
        Ok(())
    }
}

/// `worker-cpu`, `worker-cpu-1`, `worker-cuda-0`: no two replicas share a device.
fn worker_name(device: &DeviceSpec) -> String {
    format!("worker-{}", device.to_string().replace(':', "-"))
}

fn engine_options(pool: &PoolOptions) -> EngineOptions {
    EngineOptions {
        quantisation: pool.quantisation,
        adapter_precision: pool.adapter_precision,
        max_batch: pool.max_batch,
        prefill_chunk: pool.prefill_chunk,
        prefix_cache_bytes: pool.prefix_cache_mb << 20,
        kv_cache_bytes: pool.kv_cache_mb << 20,
        speculate: pool.speculate,
        context_length: pool.context_length,
    }
}

/// Publishes a device's steps as metrics.
fn count_steps(arbiter: &ArbiterHandle, metrics: &Arc<Metrics>, name: &str, thread: &Device) {
    let (metrics, name, mut steps) = (Arc::clone(metrics), name.to_owned(), thread.steps());
    arbiter.spawn(async move {
        while steps.changed().await.is_ok() {
            let report = *steps.borrow_and_update();
            metrics.step(&name, &report);
        }
    });
}
