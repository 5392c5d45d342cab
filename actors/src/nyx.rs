//! The whole of Nyx behind one handle: started once, used by every door.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Arbiter, ArbiterHandle};
use nyx_engine::embed::Embedder;
use nyx_engine::{DeviceSpec, EngineError, EngineOptions, ModelFiles, ModelInfo, Text};
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::bandit::BanditSettings;
use nyx_specialists::confidence::ConfidenceReport;
use nyx_specialists::forecast::{Forecaster, SHIPPED_FORECASTER};
use nyx_specialists::master::SHIPPED_HEAD;
use nyx_specialists::safety::SafetyPolicy;
use nyx_specialists::time::SHIPPED_TIMING;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::adapters::{AdapterBase, AdapterLease, AdapterLibrary, AdapterParts, Adapters, LoadedAdapters, Voice};
use crate::cells::{CellStep, CellStream};
use crate::confidence::{Calibration, Reliability, reliabilities};
use crate::facts::Facts;
use crate::gpu::{Device, DeviceThreadOptions, GpuPool, GpuShard, GpuWorker, Score, Shard};
use crate::learned::{LearnedLoader, LearnedRegistry};
use crate::memory::messages::{
    Candidate, Embed, Embeddings, Forget, Forgotten, Heal, MemoryHit, NewMemory, Recall, RecallCandidates, Remember, RememberMany,
};
use crate::memory::{EdgeStore, EmbeddingService, MemoryFilter, MemoryKeeper, MemoryParts, MemoryStore, QdrantStore, Ranking, StoreKind};
use crate::metrics::Metrics;
use crate::observe::{ActorState, Registry, Vitals};
use crate::options::{self, NyxOptions, RequestOptions, RewardOptions};
use crate::orchestrator;
use crate::orchestrator::messages::{Ask, Route, Routing, TraitWeights, TraitWeightsMoved, UpdateTraitWeight};
use crate::orchestrator::{Orchestrator, OrchestratorParts, OrchestratorSetup};
use crate::phoebe::messages::{
    GetDecision, Judge, ListDecisions, ListJudged, ListPromises, ListTraitWeightChanges, ListVerdicts, Memory, MemorySelector,
    NamedDecisions, Ping, StoreTraitWeight, TraitWeightChange,
};
use crate::phoebe::{Phoebe, PhoebeStore};
use crate::question::{Question, StreamEvent};
use crate::specialist::{Present, Presented, Screened, Speak, Specialist, SpecialistParts, Spoken, Timer};
use crate::supervise::{RestartPolicy, Supervised};
use crate::trainer::Trainer;
use crate::verdict::{self, DecisionName, FeedbackTold, Judged, NewVerdict, OutcomeTold, Promise, Verdict};
use crate::{Decision, NyxError, RequestContext};

/// A place among the requests in flight, given back when dropped.
#[derive(Debug)]
pub struct Permit(#[allow(dead_code, reason = "held, never read")] OwnedSemaphorePermit);

/// Why Nyx did not start: what happened and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the base model cannot be used: {0}")]
    Model(#[source] EngineError),
    #[error("the device cannot be started: {0}")]
    Device(#[source] EngineError),
    #[error("the embedder cannot be used: {0}")]
    Embedder(#[source] EngineError),
    #[error("{0}")]
    Actor(#[from] NyxError),
    #[error("{key} is {value}, expected {expected}")]
    Setting { key: &'static str, value: String, expected: &'static str },
    #[error("{file} cannot be used: {reason}")]
    Learned { file: String, reason: String },
}

/// Whether requests can be answered, and if not, why.
#[derive(Debug, Clone, Serialize)]
pub struct Readiness {
    pub ready: bool,
    /// Each part with `ok` or what is wrong.
    pub parts: BTreeMap<String, String>,
}

/// The running system. Cheap to clone.
#[derive(Clone)]
pub struct Nyx {
    pub cells: CellStream,
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    pub specialists: Arc<[SpecialistPolicy]>,
    pub model: Arc<ModelInfo>,
    /// The learned parts in use.
    pub learned: LearnedRegistry,
    /// The registered tables.
    pub facts: Facts,
    /// What answers are worth.
    pub calibration: Calibration,
    pub(crate) adapters: Adapters,
    pub(crate) base_model: Arc<Path>,
    embedding_dimension: usize,
    inner: Arc<Inner>,
}

struct Inner {
    orchestrator: Supervised<Orchestrator>,
    pool: Supervised<GpuPool>,
    workers: Vec<Supervised<GpuWorker>>,
    shards: Vec<Supervised<GpuShard>>,
    devices: Vec<Arc<Device>>,
    actors: BTreeMap<String, Supervised<Specialist>>,
    memory: Supervised<MemoryKeeper>,
    phoebe: Supervised<Phoebe>,
    store: PhoebeStore,
    admission: Arc<Semaphore>,
    /// Places for answers that come later.
    later: Arc<Semaphore>,
    requests: RequestOptions,
    rewards: RewardOptions,
    /// How trait weights follow rewards, if they do.
    learning: Option<BanditSettings>,
    files: Arc<ModelFiles>,
    text: Arc<Text>,
    data_dir: PathBuf,
    safety: Arc<SafetyPolicy>,
    trainer: OnceLock<Supervised<Trainer>>,
    /// Cancelled once no new work is taken.
    draining: CancellationToken,
    /// Cancels every request in flight.
    abort: CancellationToken,
    /// The thread on which the actors live.
    arbiter: Arbiter,
}

/// Mailboxes hold this much; the permits at the door keep them from filling.
const MAILBOX: usize = 1024;
/// The restarts of devices take weights along: few.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts actors on one arbiter and enters them in the registry.
struct Troupe {
    arbiter: ArbiterHandle,
    registry: Registry,
}

impl Troupe {
    fn start<A: actix::Actor<Context = actix::Context<A>>>(
        &self,
        vitals: Arc<Vitals>,
        make: impl Fn(Arc<Vitals>) -> A + Send + 'static,
    ) -> Supervised<A> {
        self.registry.add(Arc::clone(&vitals));
        let for_instances = Arc::clone(&vitals);
        Supervised::start(&self.arbiter, vitals, RestartPolicy::default(), MAILBOX, move || make(Arc::clone(&for_instances)))
    }
}

/// Runs what blocks off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NyxError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| NyxError::Internal(error.to_string()))
}

impl Nyx {
    /// Loads models, connects phoebe, opens the memory and starts every actor. Must run inside an actix `System`.
    ///
    /// # Errors
    /// Says which part did not start, and why.
    pub async fn start(options: NyxOptions) -> Result<Self, StartError> {
        options::check(&options)?;
        let groups = options::groups(&options.pool)?;
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
        let forecaster = learned.load::<Forecaster>(Some(SHIPPED_FORECASTER))?.map(Arc::new);
        let (folder, queue) = (options.embedder.clone(), options.memory.queue);
        let embedding = blocking(move || EmbeddingService::start(Embedder::load(&folder, &candle_device())?, queue));
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
        let judge = learned.load(Some(nyx_specialists::facts::SHIPPED_JUDGE))?;
        let facts = Facts::new(store.clone(), &options.phoebe, &options.data_dir, options.facts.clone(), judge);
        let mut lasting = true;
        let index: Arc<dyn MemoryStore> = match options.memory.store {
            StoreKind::Edge => {
                let (folder, dimension) = (options.memory.folder_in(&options.data_dir), embedding.dimension());
                match blocking(move || EdgeStore::open(&folder, dimension)).await? {
                    Err(NyxError::VectorStoreBusy { .. }) if options.beside_another => {
                        lasting = false;
                        Arc::new(blocking(move || EdgeStore::temporary(dimension)).await??)
                    }
                    opened => Arc::new(opened?),
                }
            }
            StoreKind::Qdrant => Arc::new(QdrantStore::open(&options.memory, embedding.dimension()).await?),
        };

        let embedding_dimension = embedding.dimension();
        let arbiter = Arbiter::new();
        let troupe = Troupe { arbiter: arbiter.handle(), registry: Registry::default() };
        let registry = troupe.registry.clone();
        let (cells, metrics) = (CellStream::default(), Arc::new(Metrics::new(registry.clone())));
        let phoebe = {
            let store = store.clone();
            troupe.start(Vitals::new("phoebe", "phoebe", None), move |vitals| Phoebe::new(store.clone(), vitals))
        };
        let mut window = model.context_length;
        let loaded = LoadedAdapters::default();
        let named: Vec<(String, PathBuf)> =
            options.specialists.iter().filter_map(|policy| Some((policy.name.clone(), PathBuf::from(policy.adapter.as_ref()?)))).collect();
        let (mut workers, mut shards, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        window = options.pool.context_length.map_or(window, |limit| limit.min(window));
        for (index, devices) in groups.into_iter().enumerate() {
            let worker = |rank: usize, device: &DeviceSpec| {
                let name = if rank == 0 { format!("gpu-worker-{index}") } else { format!("gpu-worker-{index}.{rank}") };
                Vitals::new(name, "gpu_worker", Some(device.to_string()))
            };
            let mut members = devices.iter().enumerate().map(|(rank, device)| Shard { device: *device, vitals: worker(rank, device) });
            let Some(Shard { device, vitals }) = members.next() else { continue };
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
            let thread = Arc::new(Device::start(thread, Arc::clone(&vitals)).await.map_err(StartError::Device)?);
            if thread.window() < window {
                tracing::warn!(asked = window, holds = thread.window(), "pool.kv_cache_mb holds less than the context window");
                window = thread.window();
            }
            count_steps(&troupe.arbiter, &metrics, &vitals.name, &thread);
            let device = Arc::clone(&thread);
            workers.push(troupe.start(vitals, move |vitals| GpuWorker::new(Arc::clone(&device), vitals)));
            for shard in further {
                let group = Arc::clone(&thread);
                shards.push(troupe.start(shard.vitals, move |vitals| GpuShard::new(Arc::clone(&group), vitals)));
            }
            threads.push(thread);
        }
        let pool = {
            let workers = workers.clone();
            troupe.start(Vitals::new("gpu-pool", "gpu_pool", None), move |vitals| GpuPool::new(workers.clone(), vitals))
        };
        let memory = {
            let ranker = learned.load(Some(nyx_specialists::recall::SHIPPED))?.map(Arc::new);
            let mut parts = MemoryParts::new(embedding, index, phoebe.clone(), lasting, options.memory.retention_days);
            parts.ranking = Ranking { options: options.memory.recall.clone(), ranker };
            troupe.start(Vitals::new("memory-keeper", "memory_keeper", None), move |vitals| MemoryKeeper::new(parts.clone(), vitals))
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
        let timing = learned.load(Some(SHIPPED_TIMING))?;
        for policy in specialists.iter().cloned().map(Some).chain([None]) {
            let name = policy.as_ref().map_or("base", |policy| policy.name.as_str()).to_owned();
            let vitals = Vitals::new(&name, "specialist", None);
            let times = policy.as_ref().is_some_and(|policy| policy.timing.is_some());
            let timer = timing.as_ref().filter(|_| times).map(|timing| Arc::new(Timer::new(timing)));
            let parts = Arc::new(SpecialistParts {
                policy,
                text: Arc::clone(&text),
                context_length: window,
                adapters: adapters.clone(),
                voice: Voice::default(),
                pool: pool.clone(),
                memory: memory.clone(),
                phoebe: phoebe.clone(),
                facts: facts.clone(),
                cells: cells.clone(),
                timer,
                calibration: calibration.clone(),
                forecaster: forecaster.clone(),
            });
            actors.insert(name, troupe.start(vitals, move |vitals| Specialist::new(Arc::clone(&parts), vitals)));
        }
        adapters.configure(&named).await?;
        adapters.sync().await?;
        wait_until_running(&registry).await?;
        let later = Arc::new(Semaphore::new(orchestrator::later::PLACES));
        let learning = options.master.learning();
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
            head: if options.master.head { learned.load(Some(SHIPPED_HEAD))? } else { None },
            options: options.master,
            safety: Arc::clone(&safety),
            later: Arc::clone(&later),
        };
        let parts = Arc::new(OrchestratorParts::new(setup).await?);
        let orchestrator =
            troupe.start(Vitals::new("orchestrator", "orchestrator", None), move |vitals| Orchestrator::new(Arc::clone(&parts), vitals));
        wait_until_running(&registry).await?;
        if !lasting {
            let memories = memory.send(Heal).await?;
            tracing::info!(memories, "another Nyx has the index open: indexed for this process alone");
        }
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
        troupe.arbiter.spawn(adapters.clone().watch(options.adapters, draining));
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
        let (for_trainer, learning) = (nyx.clone(), options.learning);
        let trainer = troupe
            .start(Vitals::new("trainer", "trainer", None), move |vitals| Trainer::new(for_trainer.clone(), learning.clone(), vitals));
        // set once, here
        let _ = nyx.inner.trainer.set(trainer);
        Ok(nyx)
    }

    pub(crate) fn store(&self) -> &PhoebeStore {
        &self.inner.store
    }

    pub(crate) fn files(&self) -> Arc<ModelFiles> {
        Arc::clone(&self.inner.files)
    }

    pub(crate) fn text(&self) -> &Text {
        &self.inner.text
    }

    pub(crate) fn trainer(&self) -> Result<&Supervised<Trainer>, NyxError> {
        self.inner.trainer.get().ok_or(NyxError::ShuttingDown)
    }

    /// Where an adapter of this specialist is written before it is kept.
    pub(crate) fn training_folder(&self, specialist: &str) -> PathBuf {
        self.inner.data_dir.join("training").join(specialist)
    }

    /// Whether any device has work.
    pub(crate) fn busy(&self) -> impl Fn() -> bool + Send + 'static {
        let workers = self.inner.workers.clone();
        move || workers.iter().any(|worker| worker.vitals().held.load(std::sync::atomic::Ordering::Relaxed) > 0)
    }

    /// Whether a specialist's outcomes are forecasts.
    pub(crate) fn forecasts(&self, specialist: &str) -> bool {
        self.policy(specialist).is_some_and(SpecialistPolicy::is_scored_by_outcomes)
    }

    /// What the log has that someone said something of.
    pub(crate) async fn judged(&self) -> Result<Vec<(Decision, Verdict)>, NyxError> {
        self.inner.phoebe.send(ListJudged).await
    }

    /// Has a specialist speak, for measuring: nothing is routed, recorded, rewarded or shown on the stream but its steps.
    pub(crate) async fn rehearse(&self, specialist: &str, question: Question, deadline_ms: u64) -> Result<Spoken, NyxError> {
        let unknown = || NyxError::NotFound { what: "specialist", id: specialist.to_owned() };
        let actor = self.inner.actors.get(specialist).ok_or_else(unknown)?;
        let asked = orchestrator::last_question(&question);
        let screened = Arc::new(Screened::of(&self.inner.safety, &asked, question.choices.is_none()));
        let context = self.context(Some(deadline_ms.min(self.inner.requests.max_deadline_ms)))?;
        actor.send(Speak { context, question: Arc::new(question), screened, events: None }).await
    }

    /// The log-likelihood of continuations after a prompt, through an adapter or the base.
    pub(crate) async fn score_tokens(
        &self,
        prompt: Vec<u32>,
        continuations: Vec<Vec<u32>>,
        adapter: Option<AdapterLease>,
        deadline_ms: u64,
    ) -> Result<Vec<nyx_engine::ContinuationScore>, NyxError> {
        let context = self.context(Some(deadline_ms.min(self.inner.requests.max_deadline_ms)))?;
        self.inner.pool.send(Score { context, prompt, cacheable_prefix: 0, continuations, adapter, group: None }).await
    }

    /// Takes a place for a request; to be held until its last byte is sent.
    ///
    /// # Errors
    /// [`NyxError::Overloaded`] when all are taken, [`NyxError::ShuttingDown`].
    pub fn admit(&self) -> Result<Permit, NyxError> {
        if self.inner.draining.is_cancelled() {
            return Err(NyxError::ShuttingDown);
        }
        let RequestOptions { max_in_flight: capacity, retry_after_s, .. } = self.inner.requests;
        let place = Arc::clone(&self.inner.admission).try_acquire_owned();
        place.map(Permit).map_err(|_| NyxError::Overloaded { capacity, retry_after_s })
    }

    /// A context with the caller's deadline, or the default one.
    ///
    /// # Errors
    /// [`NyxError::InvalidRequest`] when it is 0 or above the largest allowed.
    pub fn context(&self, deadline_ms: Option<u64>) -> Result<RequestContext, NyxError> {
        let most = self.inner.requests.max_deadline_ms;
        let budget = deadline_ms.unwrap_or(self.inner.requests.default_deadline_ms);
        if !(1..=most).contains(&budget) {
            return Err(NyxError::invalid("deadline_ms", format!("deadline_ms is {budget}, expected 1 to {most}")));
        }
        Ok(RequestContext { cancel: self.inner.abort.child_token(), ..RequestContext::new(Duration::from_millis(budget)) })
    }

    /// Answers a question: resolves when the decision is on record. With `events`, text streams there meanwhile; dropping the receiver,
    /// or this future, cancels the work. Size the channel generously: an event that does not fit cancels too.
    ///
    /// # Errors
    /// Whatever kept the question from being answered; once someone had been chosen to answer, it is on record too (unless the orchestrator
    /// itself was restarted over it).
    pub async fn ask(
        &self,
        context: RequestContext,
        question: Question,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<Decision, NyxError> {
        let cancelled_with_this_future = context.cancel.clone().drop_guard();
        let decision = self.inner.orchestrator.send(Ask { context, question, events }).await;
        // after a failure nobody waits for what may still run
        if decision.is_ok() {
            cancelled_with_this_future.disarm();
        }
        decision.map(|decision| *decision)
    }

    /// Weighs the specialists for a question, and has nobody speak.
    ///
    /// # Errors
    /// When the deadline passes or the master cannot score.
    pub async fn route(&self, context: RequestContext, question: String, now: chrono::DateTime<chrono::Utc>) -> Result<Routing, NyxError> {
        self.inner.orchestrator.send(Route { context, question, now }).await
    }

    /// What a specialist reads of a question, in tokens, as it would be served, with its choices (or `answers`) after it; nobody speaks, and
    /// nothing is on record.
    ///
    /// # Errors
    /// [`NyxError::NotFound`] for a specialist that there is not; and when the question cannot be read.
    pub async fn presented(
        &self,
        context: RequestContext,
        specialist: &str,
        question: Question,
        answers: Vec<String>,
    ) -> Result<Vec<Presented>, NyxError> {
        let unknown = || NyxError::NotFound { what: "specialist", id: specialist.to_owned() };
        let actor = self.inner.actors.get(specialist).ok_or_else(unknown)?;
        actor.send(Present { context, question: Arc::new(question), answers }).await
    }

    /// How good the confidences on record are, of decisions whose truth has become known: of all, and of each specialist's.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn reliabilities(&self) -> Result<(Reliability, BTreeMap<String, Reliability>), NyxError> {
        Ok(reliabilities(&self.inner.phoebe.send(ListJudged).await?))
    }

    /// Learns the confidences anew from those decisions; answers the new calibrators' id and what cross-validation says of them.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] where there are too few.
    pub async fn refit_confidence(&self) -> Result<(String, ConfidenceReport), NyxError> {
        let judged = self.inner.phoebe.send(ListJudged).await?;
        let calibration = self.calibration.clone();
        blocking(move || calibration.refit(&judged)).await?
    }

    /// Keeps a memory.
    ///
    /// # Errors
    /// The text is empty or too long, or phoebe cannot store it.
    pub async fn remember(&self, context: RequestContext, memory: NewMemory) -> Result<Memory, NyxError> {
        self.inner.memory.send(Remember { context, memory }).await
    }

    /// Keeps memories, 1 to 1000, in their order, all of them or none.
    ///
    /// # Errors
    /// As [`remember`](Self::remember).
    pub async fn remember_many(&self, context: RequestContext, memories: Vec<NewMemory>) -> Result<Vec<Memory>, NyxError> {
        self.inner.memory.send(RememberMany { context, memories }).await
    }

    /// Forgets memories; they are found no more when this answers.
    ///
    /// # Errors
    /// [`NyxError::NotFound`] for one that is not there; phoebe does not answer.
    pub async fn forget(&self, context: RequestContext, selector: MemorySelector) -> Result<Forgotten, NyxError> {
        self.inner.memory.send(Forget { context, selector }).await
    }

    /// The `k` memories nearest in meaning, best first.
    ///
    /// # Errors
    /// The query is empty, `k` is out of range, or the store cannot be searched.
    pub async fn recall(&self, context: RequestContext, query: String, k: usize, filter: MemoryFilter) -> Result<Vec<MemoryHit>, NyxError> {
        self.inner.memory.send(Recall { context, query, k, filter, min_score: -1.0 }).await
    }

    /// Everything that a recall would rank: what the re-ranking is learned from.
    ///
    /// # Errors
    /// As [`recall`](Self::recall).
    pub async fn recall_candidates(
        &self,
        context: RequestContext,
        query: String,
        filter: MemoryFilter,
    ) -> Result<Vec<Candidate>, NyxError> {
        self.inner.memory.send(RecallCandidates { context, query, filter }).await
    }

    /// Numbers in an embedding.
    pub fn embedding_dimension(&self) -> usize {
        self.embedding_dimension
    }

    /// One unit vector a text.
    ///
    /// # Errors
    /// When the embedder is overloaded or fails.
    pub async fn embed(&self, context: RequestContext, texts: Vec<String>) -> Result<Embeddings, NyxError> {
        self.inner.memory.send(Embed { context, texts }).await
    }

    /// One decision by its id.
    ///
    /// # Errors
    /// [`NyxError::NotFound`].
    pub async fn decision(&self, id: Uuid) -> Result<Decision, NyxError> {
        Ok(orchestrator::later::told(self.inner.phoebe.send(GetDecision(id)).await?))
    }

    /// Decisions, newest first.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn decisions(&self, query: ListDecisions) -> Result<Vec<Decision>, NyxError> {
        let decisions = self.inner.phoebe.send(query).await?;
        Ok(decisions.into_iter().map(orchestrator::later::told).collect())
    }

    /// The decisions of a name: one of an id, perhaps several of a caller's own name.
    async fn named(&self, name: DecisionName) -> Result<Vec<Decision>, NyxError> {
        self.inner.phoebe.send(NamedDecisions(name)).await
    }

    /// Resolves what was forecast: scores it and puts the outcome and its reward on record. All decisions of the name are resolved.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; a decision that is no forecast; an outcome that it cannot have; [`NyxError::Conflict`] for a key under which something else
    /// was told.
    pub async fn resolve(&self, name: DecisionName, told: OutcomeTold, key: Option<String>) -> Result<Vec<Judged>, NyxError> {
        let decisions = self.named(name).await?;
        let verdict =
            |decision: &Decision| verdict::outcome(decision, self.policy(&decision.specialist), &self.inner.rewards, &told, key.clone());
        self.judge(decisions.iter().map(verdict).collect::<Result<_, _>>()?).await
    }

    /// Puts people's feedback on record, on all decisions of the name.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn feedback(&self, name: DecisionName, told: FeedbackTold, key: Option<String>) -> Result<Vec<Judged>, NyxError> {
        let decisions = self.named(name).await?;
        let verdict = |decision: &Decision| {
            verdict::feedback(decision, self.policy(&decision.specialist), &self.inner.rewards, told.clone(), key.clone())
        };
        self.judge(decisions.iter().map(verdict).collect::<Result<_, _>>()?).await
    }

    async fn judge(&self, verdicts: Vec<NewVerdict>) -> Result<Vec<Judged>, NyxError> {
        let judged = self.inner.phoebe.send(Judge { verdicts, learning: self.inner.learning }).await?;
        for Judged { verdict, specialist, activation, .. } in judged.iter().filter(|judged| judged.new) {
            let source = verdict.kind.as_str().to_owned();
            let rewarded = CellStep::Rewarded { reward: verdict.reward, activation: *activation, source };
            self.cells.publish(Some(verdict.decision), Some(specialist), rewarded);
        }
        let moved: Vec<TraitWeightChange> = judged.iter().flat_map(|judged| judged.weights.clone()).collect();
        if !moved.is_empty()
            && let Err(error) = self.inner.orchestrator.send(TraitWeightsMoved(moved)).await
        {
            // they are on record, and read again when they have aged
            tracing::warn!(%error, "the orchestrator was not told of moved trait weights");
        }
        Ok(judged)
    }

    fn policy(&self, name: &str) -> Option<&SpecialistPolicy> {
        self.specialists.iter().find(|policy| policy.name == name)
    }

    /// Every verdict on a decision, in the order in which they were told.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn verdicts(&self, decision: Uuid) -> Result<Vec<Verdict>, NyxError> {
        self.inner.phoebe.send(ListVerdicts(decision)).await
    }

    /// Forecasts and what became of them, newest first.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn promises(&self, query: ListPromises) -> Result<Vec<Promise>, NyxError> {
        self.inner.phoebe.send(query).await
    }

    /// Every specialist's weight, 0 where none was set.
    ///
    /// # Errors
    /// When the orchestrator is down.
    pub async fn trait_weights(&self) -> Result<BTreeMap<String, f64>, NyxError> {
        self.inner.orchestrator.send(TraitWeights).await
    }

    /// How a specialist's weight came to be what it is, newest first.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn trait_weight_changes(&self, name: &str, limit: u64) -> Result<Vec<TraitWeightChange>, NyxError> {
        self.inner.phoebe.send(ListTraitWeightChanges { name: name.to_owned(), limit }).await
    }

    /// Sets a weight by hand: for `POST /admin/traits/{name}`.
    ///
    /// # Errors
    /// Unknown specialist, or a weight out of bounds.
    pub async fn set_trait_weight(&self, name: &str, to: f64, reason: String) -> Result<TraitWeightChange, NyxError> {
        let change = StoreTraitWeight { name: name.to_owned(), to, reason, reward: None, decision: None };
        self.inner.orchestrator.send(UpdateTraitWeight(change)).await
    }

    /// Ends an actor's instance and starts a new one; for a quarantined one too.
    ///
    /// # Errors
    /// [`NyxError::NotFound`].
    pub fn restart_actor(&self, name: &str) -> Result<(), NyxError> {
        let vitals = self.registry.get(name).ok_or_else(|| NyxError::NotFound { what: "actor", id: name.to_owned() })?;
        vitals.restart.notify_one();
        Ok(())
    }

    /// Whether requests can be answered now.
    pub async fn readiness(&self) -> Readiness {
        let mut parts = BTreeMap::new();
        for report in self.registry.reports() {
            let ok = report.state == ActorState::Running;
            parts.insert(report.name, if ok { "ok".to_owned() } else { report.state.as_str().to_owned() });
        }
        for (worker, device) in self.inner.workers.iter().zip(&self.inner.devices) {
            if !device.alive() {
                parts.insert(worker.vitals().name.clone(), "its device thread has ended: restart the actor".into());
            }
        }
        let database = match tokio::time::timeout(READY_TIMEOUT, self.inner.phoebe.send(Ping)).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database did not answer in 2 s".to_owned(),
        };
        parts.insert("database".into(), database);
        if self.inner.draining.is_cancelled() {
            parts.insert("door".into(), "shutting down".into());
        }
        Readiness { ready: parts.values().all(|state| state == "ok"), parts }
    }

    /// Cancelled when Nyx begins to shut down: for what lives longer than a request.
    pub fn draining(&self) -> CancellationToken {
        self.inner.draining.child_token()
    }

    /// From now on no request is admitted and readiness says so.
    pub fn drain(&self) {
        self.inner.draining.cancel();
    }

    /// Refuses new work, waits up to `grace` for what runs, cancels the rest, stops workers, then memory, then phoebe.
    pub async fn shutdown(&self, grace: Duration) {
        self.drain();
        let all = u32::try_from(self.inner.requests.max_in_flight).unwrap_or(u32::MAX);
        let idle = || async {
            let _requests = self.inner.admission.acquire_many(all).await;
            let _later = self.inner.later.acquire_many(orchestrator::later::PLACES as u32).await;
        };
        if tokio::time::timeout(grace, idle()).await.is_err() {
            tracing::warn!("requests are still running at the end of the grace: cancelling them");
            self.inner.abort.cancel();
            // cancelled sequences end at the next step, and are recorded
            if tokio::time::timeout(grace, idle()).await.is_err() {
                tracing::error!("cancelled requests did not end");
            }
        }
        self.inner.orchestrator.stop();
        self.inner.actors.values().for_each(Supervised::stop);
        self.inner.pool.stop();
        self.inner.workers.iter().for_each(Supervised::stop);
        self.inner.shards.iter().for_each(Supervised::stop);
        for device in self.inner.devices.clone() {
            if let Err(error) = blocking(move || device.stop()).await {
                tracing::error!(%error, "a device thread did not stop");
            }
        }
        self.inner.memory.stop();
        self.inner.phoebe.stop();
        self.facts.close().await;
        self.inner.store.close().await;
        self.inner.arbiter.stop();
    }
}

/// The embedder runs on the CPU, beside the devices.
pub(crate) fn candle_device() -> nyx_engine::Device {
    nyx_engine::Device::Cpu
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
        let Some(vitals) = registry.get(&name) else { continue };
        let mut lifecycle = vitals.lifecycle.subscribe();
        let running = lifecycle.wait_for(|lifecycle| lifecycle.state == ActorState::Running);
        if tokio::time::timeout(Duration::from_secs(10), running).await.is_err() {
            return Err(NyxError::ActorDown { actor: name, state: vitals.state().as_str(), reason: "it did not start in 10 s".into() });
        }
    }
    Ok(())
}
