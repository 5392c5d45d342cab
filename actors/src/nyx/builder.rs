//! Starting: models, record, memory, devices, and every actor in its order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::{Arbiter, ArbiterHandle};
use nyx_engine::embed::Embedder;
use nyx_engine::{Device, DeviceSpec, EngineError, ModelFiles, ModelInfo, Text};
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::safety::SafetyPolicy;
use uuid::Uuid;

use super::devices::{DeviceSetup, Devices};
use super::handle::Nyx;
use super::system::System;
use crate::adapters::{
    AdapterAdmin, AdapterBase, AdapterLibrary, AdapterParts, Adapters, LoadedAdapters,
};
use crate::admission::Admission;
use crate::artifacts::ArtifactLoader;
use crate::cells::CellStream;
use crate::confidence::Calibration;
use crate::devices::GpuPool;
use crate::facts::Facts;
use crate::feedback::FeedbackLog;
use crate::memory::{
    EmbeddingService, Memories, MemoryKeeper, MemoryOptions, MemoryService, QdrantIndex, StoreKind,
};
use crate::metrics::Metrics;
use crate::observe::ActorMetrics;
use crate::options::{self, NyxOptions, RewardOptions, RoutingOptions};
use crate::orchestrator::{Decisions, Orchestrator, OrchestratorSetup, OrchestratorState};
use crate::phoebe::search::MemoryIndex;
use crate::phoebe::{Phoebe, PhoebeStore};
use crate::runtime::blocking;
use crate::specialist::{Specialist, SpecialistSetup, SpecialistState};
use crate::supervise::ActorRef;
use crate::trainer::{Trainer, Training, TrainingOptions, TrainingService};
use crate::tree::ActorTree;
use crate::validation::Limits;
use crate::{NyxError, StartError};

/// Starts a [`Nyx`].
#[derive(Debug, Clone)]
pub struct NyxBuilder {
    options: NyxOptions,
}

/// The base model's files and tokenizer.
struct Base {
    files: Arc<ModelFiles>,
    model: Arc<ModelInfo>,
    text: Arc<Text>,
}

/// What every part uses.
struct Shared {
    tree: ActorTree,
    cells: CellStream,
    metrics: Arc<Metrics>,
    specialists: Arc<[SpecialistPolicy]>,
    safety: Arc<SafetyPolicy>,
    admission: Admission,
}

/// The actors that keep data.
struct Storage {
    store: PhoebeStore,
    phoebe: ActorRef<Phoebe>,
    memories: Memories,
    facts: Facts,
}

impl NyxBuilder {
    /// A Nyx with these options.
    pub fn new(options: NyxOptions) -> Self {
        Self { options }
    }

    /// Loads models, connects phoebe, opens the memory and starts every actor. Must run inside an
    /// actix `System`.
    ///
    /// # Errors
    /// Names the part that did not start, and the reason.
    pub async fn start(self) -> Result<Nyx, StartError> {
        let options = self.options;
        options::check(&options)?;
        let replicas = options::replicas(&options.pool)?;
        let base = open_base(&options.base_model).await?;
        let sha256 = &base.model.sha256;
        let artifacts = ArtifactLoader::new(&options.data_dir, sha256);
        let calibration =
            Calibration::load(&artifacts, &options.data_dir, sha256, options.confidence)?;
        let arbiter = Arbiter::new();
        let shared = Shared::new(&options, arbiter.handle());
        let storage = start_storage(&options, &shared).await?;
        let loaded = LoadedAdapters::default();
        let devices = start_devices(&options, &shared, &base, &loaded, replicas).await?;
        let workers = devices.workers.clone();
        let pool = ActorMetrics::new("gpu-pool", "gpu_pool", None);
        let pool = shared.tree.start(pool, move |metrics| GpuPool::new(workers.clone(), metrics));
        let adapters = adapters(&options, &shared, &storage, &base, loaded);
        let specialists =
            start_specialists(&shared, &storage, &base, &devices, &pool, &adapters, &calibration);
        load_adapters(&adapters, &shared.specialists).await?;
        shared.tree.registry.wait_until_running().await?;
        let orchestrator =
            start_orchestrator(&options, &shared, &storage, &base, &specialists, &pool).await?;
        shared.tree.registry.wait_until_running().await?;
        let watch =
            adapters.active.clone().watch(options.adapters.clone(), shared.admission.draining());
        shared.tree.arbiter.spawn(watch);
        let limits = limits(&base, &devices, &shared);
        let service = TrainingService {
            admission: shared.admission.clone(),
            limits: limits.clone(),
            store: storage.store.clone(),
            phoebe: storage.phoebe.clone(),
            files: base.files,
            text: base.text,
            data_dir: options.data_dir,
            specialists: Arc::clone(&shared.specialists),
            actors: specialists.clone(),
            pool: pool.clone(),
            workers: devices.workers.clone(),
            adapters: adapters.clone(),
            safety: Arc::clone(&shared.safety),
            cells: shared.cells.clone(),
        };
        let training = start_trainer(&shared.tree, service, options.training);
        let Storage { store, phoebe, memories, facts } = storage;
        let decisions = Decisions {
            orchestrator: orchestrator.clone(),
            phoebe: phoebe.clone(),
            limits,
            calibration,
        };
        let feedback =
            feedback_log(&options.rewards, &options.routing, &shared, &orchestrator, &phoebe);
        let memory = memories.keeper.clone();
        let system =
            System { orchestrator, pool, devices, specialists, memory, phoebe, store, arbiter };
        Ok(Nyx {
            admission: shared.admission,
            decisions,
            memories,
            feedback,
            adapters,
            training,
            facts,
            cells: shared.cells,
            registry: shared.tree.registry,
            metrics: shared.metrics,
            specialists: shared.specialists,
            model: base.model,
            artifacts: artifacts.registry,
            system: Arc::new(system),
        })
    }
}

impl Shared {
    fn new(options: &NyxOptions, arbiter: ArbiterHandle) -> Self {
        let tree = ActorTree::new(arbiter);
        Self {
            cells: CellStream::default(),
            metrics: Arc::new(Metrics::new(tree.registry.clone())),
            specialists: options.specialists.clone().into(),
            safety: Arc::new(options.safety.clone()),
            admission: Admission::new(options.requests.clone()),
            tree,
        }
    }
}

async fn start_devices(
    options: &NyxOptions,
    shared: &Shared,
    base: &Base,
    loaded: &LoadedAdapters,
    replicas: Vec<Vec<DeviceSpec>>,
) -> Result<Devices, StartError> {
    let setup = DeviceSetup {
        tree: &shared.tree,
        metrics: &shared.metrics,
        files: &base.files,
        text: &base.text,
        loaded,
        pool: &options.pool,
        retry_after_s: options.requests.retry_after_s,
    };
    Devices::start(replicas, &setup).await
}

async fn start_orchestrator(
    options: &NyxOptions,
    shared: &Shared,
    storage: &Storage,
    base: &Base,
    specialists: &BTreeMap<String, ActorRef<Specialist>>,
    pool: &ActorRef<GpuPool>,
) -> Result<ActorRef<Orchestrator>, NyxError> {
    let setup = OrchestratorSetup {
        instance: Uuid::now_v7().to_string(),
        text: Arc::clone(&base.text),
        model: Arc::clone(&base.model),
        specialists: Arc::clone(&shared.specialists),
        actors: specialists.clone(),
        pool: pool.clone(),
        phoebe: storage.phoebe.clone(),
        memory: storage.memories.keeper.clone(),
        cells: shared.cells.clone(),
        metrics: Arc::clone(&shared.metrics),
        options: options.routing.clone(),
        safety: Arc::clone(&shared.safety),
        admission: shared.admission.clone(),
    };
    let state = Arc::new(OrchestratorState::new(setup).await?);
    let metrics = ActorMetrics::new("orchestrator", "orchestrator", None);
    Ok(shared.tree.start(metrics, move |metrics| Orchestrator::new(Arc::clone(&state), metrics)))
}

fn feedback_log(
    rewards: &RewardOptions,
    routing: &RoutingOptions,
    shared: &Shared,
    orchestrator: &ActorRef<Orchestrator>,
    phoebe: &ActorRef<Phoebe>,
) -> FeedbackLog {
    FeedbackLog {
        orchestrator: orchestrator.clone(),
        phoebe: phoebe.clone(),
        cells: shared.cells.clone(),
        specialists: Arc::clone(&shared.specialists),
        rewards: *rewards,
        learning: routing.learning(),
    }
}

/// What a question must fit.
fn limits(base: &Base, devices: &Devices, shared: &Shared) -> Limits {
    Limits {
        context_length: devices.window,
        longest_token: base.text.longest_token(),
        specialists: shared.specialists.iter().map(|policy| policy.name.clone()).collect(),
    }
}

fn start_trainer(tree: &ActorTree, service: TrainingService, options: TrainingOptions) -> Training {
    let metrics = ActorMetrics::new("trainer", "trainer", None);
    let for_actor = service.clone();
    let actor = tree
        .start(metrics, move |metrics| Trainer::new(for_actor.clone(), options.clone(), metrics));
    Training { actor, service }
}

async fn open_base(path: &Path) -> Result<Base, StartError> {
    let path = path.to_owned();
    let opened = blocking(move || -> Result<_, EngineError> {
        let files = ModelFiles::open(&path)?;
        let text = Text::load(&files)?;
        let model = Arc::new(files.info().clone());
        Ok(Base { files: Arc::new(files), model, text: Arc::new(text) })
    });
    opened.await?.map_err(StartError::Model)
}

async fn start_embedder(folder: PathBuf, queue: usize) -> Result<EmbeddingService, StartError> {
    let embedding =
        blocking(move || EmbeddingService::start(Embedder::load(&folder, &Device::Cpu)?, queue));
    embedding.await?.map_err(StartError::Embedder)
}

async fn create_data_dir(data_dir: &Path) -> Result<(), StartError> {
    let folder = data_dir.to_owned();
    let created = blocking(move || std::fs::create_dir_all(folder)).await?;
    created.map_err(|error| StartError::Setting {
        key: "data_dir",
        value: format!("{} ({error})", data_dir.display()),
        expected: "a folder to write in",
    })
}

async fn open_server(
    options: &MemoryOptions,
    dimension: usize,
) -> Result<Option<Arc<QdrantIndex>>, StartError> {
    Ok(match options.store {
        StoreKind::Phoebe => None,
        StoreKind::Qdrant => Some(Arc::new(QdrantIndex::open(options, dimension).await?)),
    })
}

/// Connects phoebe, opens the memory, and starts their actors.
async fn start_storage(options: &NyxOptions, shared: &Shared) -> Result<Storage, StartError> {
    let embedding = start_embedder(options.embedder.clone(), options.memory.queue).await?;
    create_data_dir(&options.data_dir).await?;
    let store = PhoebeStore::connect(&options.phoebe, &options.data_dir).await?;
    let facts =
        Facts::new(store.clone(), &options.phoebe, &options.data_dir, options.facts.clone());
    let embedding_dimension = embedding.dimension();
    let server = open_server(&options.memory, embedding_dimension).await?;
    let index = MemoryIndex::open(store.clone(), &embedding.id(), server.is_some()).await?;
    if let Some(server) = &server {
        server.compare(&index).await?;
    }
    let for_actor = store.clone();
    let phoebe = shared.tree.start(ActorMetrics::new("phoebe", "phoebe", None), move |metrics| {
        Phoebe::new(for_actor.clone(), metrics)
    });
    let (recall, retention_days) = (options.memory.recall.clone(), options.memory.retention_days);
    let service = MemoryService { embedding, index, server, retention_days, recall };
    let keeper = ActorMetrics::new("memory-keeper", "memory_keeper", None);
    let keeper =
        shared.tree.start(keeper, move |metrics| MemoryKeeper::new(service.clone(), metrics));
    Ok(Storage { store, phoebe, memories: Memories { keeper, embedding_dimension }, facts })
}

/// The adapters, none of which is loaded yet.
fn adapters(
    options: &NyxOptions,
    shared: &Shared,
    storage: &Storage,
    base: &Base,
    loaded: LoadedAdapters,
) -> AdapterAdmin {
    let sha256 = base.files.info().sha256.clone();
    let active = Adapters::new(AdapterParts {
        library: AdapterLibrary::new(storage.store.clone(), &options.adapters, &options.data_dir),
        loaded,
        base: AdapterBase { sha256: sha256.clone(), config: base.files.config().clone() },
        cells: shared.cells.clone(),
        registry: shared.tree.registry.clone(),
        specialists: shared.specialists.iter().map(|policy| policy.name.clone()).collect(),
    });
    AdapterAdmin { active, base_model: options.base_model.clone().into(), base_sha256: sha256 }
}

/// Loads the adapters that the record or the specialists' files name. The specialists' actors are
/// registered before, since they show their adapter.
async fn load_adapters(
    adapters: &AdapterAdmin,
    specialists: &[SpecialistPolicy],
) -> Result<(), NyxError> {
    let named = |policy: &SpecialistPolicy| {
        Some((policy.name.clone(), PathBuf::from(policy.adapter.as_ref()?)))
    };
    adapters.active.configure(&specialists.iter().filter_map(named).collect::<Vec<_>>()).await?;
    adapters.active.sync().await
}

/// Starts an actor for each specialist and one for the base model.
fn start_specialists(
    shared: &Shared,
    storage: &Storage,
    base: &Base,
    devices: &Devices,
    pool: &ActorRef<GpuPool>,
    adapters: &AdapterAdmin,
    calibration: &Calibration,
) -> BTreeMap<String, ActorRef<Specialist>> {
    let mut actors = BTreeMap::new();
    for policy in shared.specialists.iter().cloned().map(Some).chain([None]) {
        let name = policy.as_ref().map_or("base", |policy| policy.name.as_str()).to_owned();
        let metrics = ActorMetrics::new(&name, "specialist", None);
        let state = SpecialistState::new(SpecialistSetup {
            policy,
            text: Arc::clone(&base.text),
            context_length: devices.window,
            adapters: adapters.active.clone(),
            pool: pool.clone(),
            memory: storage.memories.keeper.clone(),
            facts: storage.facts.clone(),
            cells: shared.cells.clone(),
            calibration: calibration.clone(),
        });
        let state = Arc::new(state);
        actors.insert(
            name,
            shared.tree.start(metrics, move |metrics| Specialist::new(Arc::clone(&state), metrics)),
        );
    }
    actors
}
