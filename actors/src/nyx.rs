//! The whole of Nyx behind one handle: started once, used by every door.

mod feedback;
mod start;
#[cfg(test)]
mod tests;
mod training;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::Arbiter;
use nyx_engine::{ModelFiles, ModelInfo, Text};
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::bandit::BanditSettings;
use nyx_specialists::confidence::ConfidenceReport;
use nyx_specialists::safety::SafetyPolicy;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::adapters::Adapters;
use crate::cells::CellStream;
use crate::confidence::{Calibration, Reliability, reliabilities};
use crate::devices::{Device, GpuPool, GpuShard, GpuWorker};
use crate::facts::Facts;
use crate::learned::LearnedRegistry;
use crate::memory::MemoryKeeper;
use crate::memory::messages::{Embed, Embeddings, Forget, Forgotten, MemoryHit, NewMemory, Recall, Remember, RememberMany};
use crate::metrics::Metrics;
use crate::observe::{ActorState, Registry};
use crate::options::{RequestOptions, RewardOptions};
use crate::orchestrator::Orchestrator;
use crate::orchestrator::messages::{Ask, Route, Routing};
use crate::phoebe::messages::{GetDecision, ListDecisions, ListJudged, Ping};
use crate::phoebe::{Phoebe, PhoebeStore};
use crate::runtime::blocking;
use crate::specialist::Specialist;
use crate::supervise::ActorRef;
use crate::trainer::Trainer;
use crate::{NyxError, RequestContext, orchestrator};
use nyx_domain::{Decision, Memory, MemoryFilter, MemorySelector, Question, StreamEvent};

/// A place among the requests in flight, given back when dropped.
#[derive(Debug)]
pub struct Permit(#[allow(dead_code, reason = "held, never read")] OwnedSemaphorePermit);

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
    orchestrator: ActorRef<Orchestrator>,
    pool: ActorRef<GpuPool>,
    workers: Vec<ActorRef<GpuWorker>>,
    shards: Vec<ActorRef<GpuShard>>,
    devices: Vec<Arc<Device>>,
    actors: BTreeMap<String, ActorRef<Specialist>>,
    memory: ActorRef<MemoryKeeper>,
    phoebe: ActorRef<Phoebe>,
    store: PhoebeStore,
    admission: Arc<Semaphore>,
    /// Places for answers that come later.
    later: Arc<Semaphore>,
    /// Places for decisions on their way to the record.
    recording: Arc<Semaphore>,
    requests: RequestOptions,
    rewards: RewardOptions,
    /// How trait weights follow rewards, if they do.
    learning: Option<BanditSettings>,
    files: Arc<ModelFiles>,
    text: Arc<Text>,
    data_dir: PathBuf,
    safety: Arc<SafetyPolicy>,
    trainer: OnceLock<ActorRef<Trainer>>,
    /// Cancelled once no new work is taken.
    draining: CancellationToken,
    /// Cancels every request in flight.
    abort: CancellationToken,
    /// The thread on which the actors live.
    arbiter: Arbiter,
}

/// How long the database may take to answer that it is there.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a database may take to close its connections: one that hangs must not hold up the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl Nyx {
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

    /// How long a request may take that has no deadline of its own.
    pub fn default_deadline(&self) -> Duration {
        Duration::from_millis(self.inner.requests.default_deadline_ms)
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
        // the orchestrator keeps the deadline; this is for one that does not answer at all
        let answer_by = context.deadline + 2 * orchestrator::STEP_GRACE;
        let decision = self.inner.orchestrator.send_until(Ask { context, question, events }, answer_by).await;
        // after a failure nobody waits for what may still run
        if decision.is_ok() {
            cancelled_with_this_future.disarm();
        }
        decision.map(|decision| *decision)
    }

    /// Weighs the specialists for a question, and has nobody speak.
    ///
    /// # Errors
    /// When the deadline passes, or neither the question can be embedded nor the master score it.
    pub async fn route(&self, context: RequestContext, question: String) -> Result<Routing, NyxError> {
        let answer_by = context.answer_by();
        self.inner.orchestrator.send_until(Route { context, question }, answer_by).await
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
        let answer_by = context.answer_by();
        self.inner.memory.send_until(Remember { context, memory }, answer_by).await
    }

    /// Keeps memories, 1 to 1000, in their order, all of them or none.
    ///
    /// # Errors
    /// As [`remember`](Self::remember).
    pub async fn remember_many(&self, context: RequestContext, memories: Vec<NewMemory>) -> Result<Vec<Memory>, NyxError> {
        let answer_by = context.answer_by();
        self.inner.memory.send_until(RememberMany { context, memories }, answer_by).await
    }

    /// Forgets memories; they are found no more when this answers.
    ///
    /// # Errors
    /// [`NyxError::NotFound`] for one that is not there; phoebe does not answer.
    pub async fn forget(&self, context: RequestContext, selector: MemorySelector) -> Result<Forgotten, NyxError> {
        let answer_by = context.answer_by();
        self.inner.memory.send_until(Forget { context, selector }, answer_by).await
    }

    /// The `k` memories nearest in meaning, best first.
    ///
    /// # Errors
    /// The query is empty, `k` is out of range, or the store cannot be searched.
    pub async fn recall(&self, context: RequestContext, query: String, k: usize, filter: MemoryFilter) -> Result<Vec<MemoryHit>, NyxError> {
        let answer_by = context.answer_by();
        self.inner.memory.send_until(Recall { context, query, k, filter, min_score: -1.0 }, answer_by).await
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
        let answer_by = context.answer_by();
        self.inner.memory.send_until(Embed { context, texts }, answer_by).await
    }

    /// One decision by its id.
    ///
    /// # Errors
    /// [`NyxError::NotFound`].
    pub async fn decision(&self, id: Uuid) -> Result<Decision, NyxError> {
        Ok(orchestrator::deferred::settled(self.inner.phoebe.send(GetDecision(id)).await?))
    }

    /// Decisions, newest first.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn decisions(&self, query: ListDecisions) -> Result<Vec<Decision>, NyxError> {
        let decisions = self.inner.phoebe.send(query).await?;
        Ok(decisions.into_iter().map(orchestrator::deferred::settled).collect())
    }

    fn policy(&self, name: &str) -> Option<&SpecialistPolicy> {
        self.specialists.iter().find(|policy| policy.name == name)
    }

    /// Ends an actor's instance and starts a new one; for a quarantined one too.
    ///
    /// # Errors
    /// [`NyxError::NotFound`].
    pub fn restart_actor(&self, name: &str) -> Result<(), NyxError> {
        let metrics = self.registry.get(name).ok_or_else(|| NyxError::NotFound { what: "actor", id: name.to_owned() })?;
        metrics.restart.notify_one();
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
                parts.insert(worker.metrics().name.clone(), "its device thread has ended: restart the actor".into());
            }
        }
        let database = match tokio::time::timeout(READY_TIMEOUT, self.inner.phoebe.send(Ping)).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database did not answer in 2 s".to_owned(),
        };
        parts.insert("database".into(), database);
        if self.inner.draining.is_cancelled() {
            parts.insert("endpoint".into(), "shutting down".into());
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
            let _later = self.inner.later.acquire_many(orchestrator::deferred::PLACES as u32).await;
            // answers that were given up may still be on their way to the record
            let _recording = self.inner.recording.acquire_many(orchestrator::record::PLACES as u32).await;
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
        self.inner.actors.values().for_each(ActorRef::stop);
        self.inner.pool.stop();
        self.inner.workers.iter().for_each(ActorRef::stop);
        self.inner.shards.iter().for_each(ActorRef::stop);
        for device in self.inner.devices.clone() {
            if let Err(error) = blocking(move || device.stop()).await {
                tracing::error!(%error, "a device thread did not stop");
            }
        }
        self.inner.memory.stop();
        self.inner.phoebe.stop();
        let closing = async {
            self.facts.close().await;
            self.inner.store.close().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::warn!("a database did not close its connections in {} s: left as they are", CLOSE_TIMEOUT.as_secs());
        }
        self.inner.arbiter.stop();
    }
}
