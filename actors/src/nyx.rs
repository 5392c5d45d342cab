//! The whole of Nyx behind one handle: started once, used by every door. OWNER: main (interface fixed).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nyx_engine::{ModelInfo, Quantisation};
use nyx_specialists::SpecialistPolicy;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use uuid::Uuid;

use crate::cells::CellStream;
use crate::memory::MemoryOptions;
use crate::memory::messages::{Embeddings, MemoryHit};
use crate::metrics::Metrics;
use crate::observe::Registry;
use crate::phoebe::PhoebeOptions;
use crate::phoebe::messages::{ListDecisions, Memory, TraitWeightChange};
use crate::question::{Question, StreamEvent};
use crate::{Decision, NyxError, RequestContext};

/// `[pool]`: devices and how they batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolOptions {
    /// Devices in one inner list are shards of one copy, the lists are replicas.
    pub groups: Vec<Vec<String>>,
    pub quantisation: Quantisation,
    /// Sequences in one step at most.
    pub max_batch: usize,
    /// Prompt tokens in one step at most.
    pub prefill_chunk: usize,
    pub prefix_cache_mb: usize,
    /// Upper bound on the context window; the model's own when absent.
    pub context_length: Option<usize>,
    /// Jobs that may wait for one device.
    pub queue: usize,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            groups: vec![vec!["cpu".into()]],
            quantisation: Quantisation::None,
            max_batch: 16,
            prefill_chunk: 256,
            prefix_cache_mb: 256,
            context_length: None,
            queue: 64,
        }
    }
}

/// `[master]`: how the master chooses.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MasterOptions {
    /// The softmax's temperature τ, above 0.
    pub temperature: f64,
    /// The share ε of choices drawn evenly, in [0.0, 1].
    pub epsilon: f64,
    /// Trait weights stay within ± this.
    pub max_trait_weight: f64,
}

impl Default for MasterOptions {
    fn default() -> Self {
        Self { temperature: 0.5, epsilon: 0.02, max_trait_weight: 5.0 }
    }
}

/// `[requests]`: admission and deadlines.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestOptions {
    /// Requests in flight at most; one more gets 429.
    pub max_in_flight: usize,
    pub retry_after_s: u64,
    pub default_deadline_ms: u64,
    pub max_deadline_ms: u64,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self { max_in_flight: 64, retry_after_s: 1, default_deadline_ms: 60_000, max_deadline_ms: 600_000 }
    }
}

/// Everything Nyx starts from. Paths are absolute or relative to the working directory.
#[derive(Debug, Clone)]
pub struct NyxOptions {
    /// A `.gguf` file or a Hugging Face folder.
    pub base_model: PathBuf,
    /// The folder of all-MiniLM-L6-v2.
    pub embedder: PathBuf,
    pub data_dir: PathBuf,
    pub pool: PoolOptions,
    pub master: MasterOptions,
    pub requests: RequestOptions,
    pub phoebe: PhoebeOptions,
    pub memory: MemoryOptions,
    /// In the order in which the master is told of them.
    pub specialists: Vec<SpecialistPolicy>,
}

/// A place among the requests in flight, given back when dropped.
#[derive(Debug)]
pub struct Permit(#[allow(dead_code)] OwnedSemaphorePermit);

/// Why Nyx did not start: what happened and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the base model cannot be used: {0}")]
    Model(#[source] nyx_engine::EngineError),
    #[error("the embedder cannot be used: {0}")]
    Embedder(#[source] nyx_engine::EngineError),
    #[error("{0}")]
    Actor(#[from] NyxError),
    #[error("{key} is {value}, expected {expected}")]
    Setting { key: &'static str, value: String, expected: &'static str },
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
}

impl Nyx {
    /// Loads models, connects phoebe, opens the memory and starts every actor. Must run inside an actix `System`.
    pub async fn start(_options: NyxOptions) -> Result<Self, StartError> {
        todo!()
    }

    /// Takes a place for a request; to be held until its last byte is sent.
    ///
    /// # Errors
    /// [`NyxError::Overloaded`] when all are taken, [`NyxError::ShuttingDown`].
    pub fn admit(&self) -> Result<Permit, NyxError> {
        todo!()
    }

    /// A context with the caller's deadline, or the default one.
    ///
    /// # Errors
    /// [`NyxError::InvalidRequest`] when it is 0 or above the largest allowed.
    pub fn context(&self, _deadline_ms: Option<u64>) -> Result<RequestContext, NyxError> {
        todo!()
    }

    /// Answers a question: resolves when the decision is on record. With `events`, text streams there meanwhile; dropping the receiver,
    /// or this future, cancels the work. Size the channel generously: an event that does not fit cancels too.
    pub async fn ask(
        &self,
        _context: RequestContext,
        _question: Question,
        _events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<Decision, NyxError> {
        todo!()
    }

    pub async fn remember(
        &self,
        _context: RequestContext,
        _text: String,
        _speaker: Option<String>,
        _when: Option<chrono::DateTime<chrono::Utc>>,
        _conversation: Option<String>,
    ) -> Result<Memory, NyxError> {
        todo!()
    }

    pub async fn recall(
        &self,
        _context: RequestContext,
        _query: String,
        _k: usize,
        _conversation: Option<String>,
    ) -> Result<Vec<MemoryHit>, NyxError> {
        todo!()
    }

    pub async fn embed(&self, _context: RequestContext, _texts: Vec<String>) -> Result<Embeddings, NyxError> {
        todo!()
    }

    pub async fn decision(&self, _id: Uuid) -> Result<Decision, NyxError> {
        todo!()
    }

    pub async fn decisions(&self, _query: ListDecisions) -> Result<Vec<Decision>, NyxError> {
        todo!()
    }

    /// Every specialist's weight, 0 where none was set.
    pub async fn trait_weights(&self) -> Result<BTreeMap<String, f64>, NyxError> {
        todo!()
    }

    /// Sets a weight by hand: for `POST /admin/traits/{name}`.
    pub async fn set_trait_weight(&self, _name: &str, _to: f64, _reason: String) -> Result<TraitWeightChange, NyxError> {
        todo!()
    }

    /// Ends an actor's instance and starts a new one; for a quarantined one too.
    pub fn restart_actor(&self, _name: &str) -> Result<(), NyxError> {
        todo!()
    }

    pub async fn readiness(&self) -> Readiness {
        todo!()
    }

    /// Refuses new work, waits up to `grace` for what runs, cancels the rest, stops workers, then memory, then phoebe.
    pub async fn shutdown(&self, _grace: Duration) {
        todo!()
    }
}
