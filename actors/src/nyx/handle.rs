//! The handle of the running system.

use std::sync::Arc;
use std::time::Duration;

use nyx_engine::ModelInfo;
use nyx_specialists::SpecialistPolicy;

use super::system::{Readiness, System};
use crate::adapters::AdapterAdmin;
use crate::admission::Admission;
use crate::artifacts::ArtifactRegistry;
use crate::cells::CellStream;
use crate::facts::Facts;
use crate::feedback::FeedbackLog;
use crate::memory::Memories;
use crate::metrics::Metrics;
use crate::observe::Registry;
use crate::orchestrator::Decisions;
use crate::trainer::Training;

/// The running system: a handle for each of its parts. Made by [`NyxBuilder`]; cheap to clone.
#[derive(Clone)]
pub struct Nyx {
    /// Admission and deadlines.
    pub admission: Admission,
    /// Asking, and the decisions on record.
    pub decisions: Decisions,
    /// Memories and embeddings.
    pub memories: Memories,
    /// Outcomes, feedback and trait weights.
    pub feedback: FeedbackLog,
    /// Adapters and their generations.
    pub adapters: AdapterAdmin,
    /// Training runs.
    pub training: Training,
    /// The registered tables.
    pub facts: Facts,
    /// The live stream of cell decisions.
    pub cells: CellStream,
    /// The actors and their states.
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    pub specialists: Arc<[SpecialistPolicy]>,
    /// The base model.
    pub model: Arc<ModelInfo>,
    /// The fitted artifacts in use.
    pub artifacts: ArtifactRegistry,
    pub(super) system: Arc<System>,
}

impl Nyx {
    /// Whether requests can be answered now.
    pub async fn readiness(&self) -> Readiness {
        self.system.readiness(&self.registry, &self.admission).await
    }

    /// Admits no further request, waits up to `grace` for those in flight, cancels the rest, then
    /// stops devices, memory and phoebe, in this order.
    pub async fn shutdown(&self, grace: Duration) {
        self.admission.close(grace).await;
        self.system.stop(&self.facts).await;
    }
}
