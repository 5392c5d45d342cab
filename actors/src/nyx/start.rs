//! Starting: models, record, memory, devices, and every actor in its order.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Arbiter, ArbiterHandle};
use nyx_engine::embed::Embedder;
use nyx_engine::{DeviceSpec, EngineError, EngineOptions, ModelFiles, Text};
use nyx_specialists::SpecialistPolicy;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Inner, Nyx};
use crate::adapters::{ActiveAdapter, AdapterBase, AdapterLibrary, AdapterParts, Adapters, LoadedAdapters};
use crate::cells::CellStream;
use crate::confidence::Calibration;
use crate::devices::{Device, DeviceThreadOptions, GpuPool, GpuShard, GpuWorker, Shard};
use crate::facts::Facts;
use crate::learned::LearnedLoader;
use crate::memory::{EmbeddingService, MemoryKeeper, MemoryService, QdrantIndex, StoreKind};
use crate::metrics::Metrics;
use crate::observe::{ActorMetrics, ActorState, Registry};
use crate::options::{self, NyxOptions};
use crate::orchestrator::{Orchestrator, OrchestratorParts, OrchestratorSetup};
use crate::phoebe::search::MemoryIndex;
use crate::phoebe::{Phoebe, PhoebeStore};
use crate::runtime::blocking;
use crate::specialist::{Specialist, SpecialistParts, Timer};
use crate::supervise::{ActorRef, RestartPolicy};
use crate::trainer::Trainer;
use crate::{NyxError, StartError, orchestrator};

/// Messages that may wait for an actor; one more is refused.
pub(super) const MAILBOX: usize = 1024;

/// Starts actors on one arbiter and enters them in the registry.
struct ActorTree {
    arbiter: ArbiterHandle,
    registry: Registry,
}

impl ActorTree {
    fn start<A: actix::Actor<Context = actix::Context<A>>>(
        &self,
        metrics: Arc<ActorMetrics>,
        make: impl Fn(Arc<ActorMetrics>) -> A + Send + 'static,
    ) -> ActorRef<A> {
        self.registry.add(Arc::clone(&metrics));
        let for_instances = Arc::clone(&metrics);
        ActorRef::start(&self.arbiter, metrics, RestartPolicy::default(), MAILBOX, move || make(Arc::clone(&for_instances)))
    }
}

impl Nyx {
    /// Loads models, connects phoebe, opens the memory and starts every actor. Must run inside an actix `System`.
    ///
    /// # Errors
    /// Says which part did not start, and why.
    pub async fn start(options: NyxOptions) -> Result<Self, StartError> {
        options::check(&options)?;
        let replicas = options::replicas(&options.pool)?;
        let base = options.base_model.clone();
        let opened = blocking(move || -> Result<_, EngineError> {
            let files = ModelFiles::open(&base)?;
            let text = Text::load(&files)?;
            Ok((Arc::new(files), Arc::new(text)))
        });
        let (files, text) = opened.await?.map_err(StartError::Model)?;
        let model = Arc::new(files.info().clone());
        let learned = LearnedLoader::new(&options.data_dir, &model.sha256);
        let calibration = Calibration::load(&learned, &options.data_dir, &model.sha256, options.confidence)?;
        let (folder, queue) = (options.embedder.clone(), options.memory.queue);
        let embedding = blocking(move || EmbeddingService::start(Embedder::load(&folder, &nyx_engine::Device::Cpu)?, queue));
        let embedding = embedding.await?.map_err(StartError::Embedder)?;
        blocking({
            let data_dir = options.data_dir.clone();
            move || std::fs::create_dir_all(data_dir)
        })
        .await?
        .map_err(|error| StartError::Setting {
            key: "data_dir",
            value: format!("{} ({error})", options.data_dir.display()),
            expected: "a folder to write in",
        })?;
        let store = PhoebeStore::connect(&options.phoebe, &options.data_dir).await?;
        let facts = Facts::new(store.clone(), &options.phoebe, &options.data_dir, options.facts.clone());
        let server = match options.memory.store {
            StoreKind::Phoebe => None,
            StoreKind::Qdrant => Some(Arc::new(QdrantIndex::open(&options.memory, embedding.dimension()).await?)),
        };
        let index = MemoryIndex::open(store.clone(), &embedding.id(), server.is_some()).await?;
        if let Some(server) = &server {
            server.compare(&index).await?;
        }

        let embedding_dimension = embedding.dimension();
        let arbiter = Arbiter::new();
        let tree = ActorTree { arbiter: arbiter.handle(), registry: Registry::default() };
        let registry = tree.registry.clone();
        let (cells, metrics) = (CellStream::default(), Arc::new(Metrics::new(registry.clone())));
        let phoebe = {
            let store = store.clone();
            tree.start(ActorMetrics::new("phoebe", "phoebe", None), move |metrics| Phoebe::new(store.clone(), metrics))
        };
        let mut window = model.context_length;
        let loaded = LoadedAdapters::default();
        let named: Vec<(String, PathBuf)> =
            options.specialists.iter().filter_map(|policy| Some((policy.name.clone(), PathBuf::from(policy.adapter.as_ref()?)))).collect();
        let (mut workers, mut shards, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        window = options.pool.context_length.map_or(window, |limit| limit.min(window));
        for (index, devices) in replicas.into_iter().enumerate() {
            let worker = |rank: usize, device: &DeviceSpec| {
                let name = if rank == 0 { format!("gpu-worker-{index}") } else { format!("gpu-worker-{index}.{rank}") };
                ActorMetrics::new(name, "gpu_worker", Some(device.to_string()))
            };
            let mut members = devices.iter().enumerate().map(|(rank, device)| Shard { device: *device, metrics: worker(rank, device) });
            let Some(Shard { device, metrics: actor }) = members.next() else { continue };
            let further: Vec<Shard> = members.collect();
            let engine = EngineOptions {
                quantisation: options.pool.quantisation,
                adapter_precision: options.pool.adapter_precision,
                max_batch: options.pool.max_batch,
                prefill_chunk: options.pool.prefill_chunk,
                prefix_cache_bytes: options.pool.prefix_cache_mb << 20,
                kv_cache_bytes: options.pool.kv_cache_mb << 20,
                speculate: options.pool.speculate,
                context_length: options.pool.context_length,
            };
            let (files, text, adapters) = (Arc::clone(&files), Arc::clone(&text), loaded.clone());
            let (queue, retry_after_s) = (options.pool.queue, options.requests.retry_after_s);
            let thread = DeviceThreadOptions { device, shards: further.clone(), files, text, engine, adapters, queue, retry_after_s };
            let thread = Arc::new(Device::start(thread, Arc::clone(&actor)).await.map_err(StartError::Device)?);
            if thread.window() < window {
                tracing::warn!(asked = window, holds = thread.window(), "pool.kv_cache_mb holds less than the context window");
                window = thread.window();
            }
            count_steps(&tree.arbiter, &metrics, &actor.name, &thread);
            let device = Arc::clone(&thread);
            workers.push(tree.start(actor, move |metrics| GpuWorker::new(Arc::clone(&device), metrics)));
            for shard in further {
                let replica = Arc::clone(&thread);
                shards.push(tree.start(shard.metrics, move |metrics| GpuShard::new(Arc::clone(&replica), metrics)));
            }
            threads.push(thread);
        }
        let pool = {
            let workers = workers.clone();
            tree.start(ActorMetrics::new("gpu-pool", "gpu_pool", None), move |metrics| GpuPool::new(workers.clone(), metrics))
        };
        let memory = {
            let (recall, retention_days) = (options.memory.recall.clone(), options.memory.retention_days);
            let parts = MemoryService { embedding, index, server, retention_days, recall };
            tree.start(ActorMetrics::new("memory-keeper", "memory_keeper", None), move |metrics| MemoryKeeper::new(parts.clone(), metrics))
        };
        let specialists: Arc<[SpecialistPolicy]> = options.specialists.into();
        let adapters = Adapters::new(AdapterParts {
            library: AdapterLibrary::new(store.clone(), &options.adapters, &options.data_dir),
            loaded,
            base: AdapterBase { sha256: model.sha256.clone(), config: files.config().clone() },
            cells: cells.clone(),
            registry: registry.clone(),
            specialists: specialists.iter().map(|policy| policy.name.clone()).collect(),
        });
        let mut actors = BTreeMap::new();
        for policy in specialists.iter().cloned().map(Some).chain([None]) {
            let name = policy.as_ref().map_or("base", |policy| policy.name.as_str()).to_owned();
            let metrics = ActorMetrics::new(&name, "specialist", None);
            let times = policy.as_ref().is_some_and(|policy| policy.timing.is_some());
            let timer = times.then(Arc::<Timer>::default);
            let parts = Arc::new(SpecialistParts {
                policy,
                text: Arc::clone(&text),
                context_length: window,
                adapters: adapters.clone(),
                active_adapter: ActiveAdapter::default(),
                pool: pool.clone(),
                memory: memory.clone(),
                facts: facts.clone(),
                cells: cells.clone(),
                timer,
                calibration: calibration.clone(),
            });
            actors.insert(name, tree.start(metrics, move |metrics| Specialist::new(Arc::clone(&parts), metrics)));
        }
        adapters.configure(&named).await?;
        adapters.sync().await?;
        wait_until_running(&registry).await?;
        let later = Arc::new(Semaphore::new(orchestrator::deferred::PLACES));
        let recording = Arc::new(Semaphore::new(orchestrator::record::PLACES));
        let learning = options.routing.learning();
        let safety = Arc::new(options.safety);
        let setup = OrchestratorSetup {
            instance: Uuid::now_v7().to_string(),
            text: Arc::clone(&text),
            model: Arc::clone(&model),
            specialists: Arc::clone(&specialists),
            actors: actors.clone(),
            pool: pool.clone(),
            phoebe: phoebe.clone(),
            memory: memory.clone(),
            cells: cells.clone(),
            metrics: Arc::clone(&metrics),
            options: options.routing,
            safety: Arc::clone(&safety),
            later: Arc::clone(&later),
            recording: Arc::clone(&recording),
        };
        let parts = Arc::new(OrchestratorParts::new(setup).await?);
        let orchestrator = tree
            .start(ActorMetrics::new("orchestrator", "orchestrator", None), move |metrics| Orchestrator::new(Arc::clone(&parts), metrics));
        wait_until_running(&registry).await?;
        let inner = Inner {
            orchestrator,
            pool,
            workers,
            shards,
            devices: threads,
            actors,
            memory,
            phoebe,
            store,
            admission: Arc::new(Semaphore::new(options.requests.max_in_flight)),
            later,
            recording,
            requests: options.requests,
            rewards: options.rewards,
            learning,
            files,
            text,
            data_dir: options.data_dir,
            safety,
            trainer: OnceLock::new(),
            draining: CancellationToken::new(),
            abort: CancellationToken::new(),
            arbiter,
        };
        let draining = inner.draining.clone();
        tree.arbiter.spawn(adapters.clone().watch(options.adapters, draining));
        let nyx = Self {
            cells,
            registry,
            metrics,
            specialists,
            model,
            learned: learned.registry,
            facts,
            calibration,
            adapters,
            base_model: options.base_model.into(),
            embedding_dimension,
            inner: Arc::new(inner),
        };
        let (for_trainer, training) = (nyx.clone(), options.training);
        let trainer = tree.start(ActorMetrics::new("trainer", "trainer", None), move |metrics| {
            Trainer::new(for_trainer.clone(), training.clone(), metrics)
        });
        // set once, here
        let _ = nyx.inner.trainer.set(trainer);
        Ok(nyx)
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

/// Waits until every actor that was started has its first instance.
async fn wait_until_running(registry: &Registry) -> Result<(), NyxError> {
    for name in registry.reports().into_iter().map(|report| report.name) {
        let Some(metrics) = registry.get(&name) else { continue };
        let mut lifecycle = metrics.lifecycle.subscribe();
        let running = lifecycle.wait_for(|lifecycle| lifecycle.state == ActorState::Running);
        if tokio::time::timeout(Duration::from_secs(10), running).await.is_err() {
            return Err(NyxError::ActorDown { actor: name, state: metrics.state().as_str(), reason: "it did not start in 10 s".into() });
        }
    }
    Ok(())
}
