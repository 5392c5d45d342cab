//! The orchestrator's state and what it is made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nyx_domain::{CellStep, StreamEvent};
use nyx_engine::{ModelInfo, Text};
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::safety::SafetyPolicy;
use tokio::sync::{OnceCell, mpsc};

use super::examples::Examples;
use super::known_weights::KnownWeights;
use super::master::Master;
use crate::admission::Admission;
use crate::cells::CellStream;
use crate::devices::GpuPool;
use crate::memory::MemoryKeeper;
use crate::metrics::Metrics;
use crate::options::RoutingOptions;
use crate::phoebe::Phoebe;
use crate::specialist::{AnswerRequest, Screened, Specialist, SpecialistAnswer};
use crate::supervise::ActorRef;
use crate::validation::ValidQuestion;
use crate::{NyxError, RequestContext};

/// Time that a device may take after the deadline to end its current step.
pub(crate) const STEP_GRACE: Duration = Duration::from_secs(10);

/// What the orchestrator works with.
pub struct OrchestratorSetup {
    /// Id of this process.
    pub instance: String,
    pub text: Arc<Text>,
    pub model: Arc<ModelInfo>,
    pub specialists: Arc<[SpecialistPolicy]>,
    /// By name, `base` among them.
    pub actors: BTreeMap<String, ActorRef<Specialist>>,
    pub pool: ActorRef<GpuPool>,
    pub phoebe: ActorRef<Phoebe>,
    pub memory: ActorRef<MemoryKeeper>,
    pub cells: CellStream,
    pub metrics: Arc<Metrics>,
    pub options: RoutingOptions,
    pub safety: Arc<SafetyPolicy>,
    pub admission: Admission,
}

/// The orchestrator's state; outlives an instance of the actor that panics.
pub struct OrchestratorState {
    pub(super) setup: OrchestratorSetup,
    pub(super) master: Master,
    pub(super) examples: Examples,
    /// Each name's mean log-probability after the content-free question, measured once.
    pub(super) content_free: OnceCell<Vec<f64>>,
    pub(super) weights: KnownWeights,
}

impl OrchestratorState {
    /// Reads the trait weights from phoebe, and embeds the specialists' examples.
    ///
    /// # Errors
    /// When phoebe or the embedder does not answer, or the names cannot be encoded.
    pub async fn new(setup: OrchestratorSetup) -> Result<Self, NyxError> {
        let master = Master::new(&setup.text, &setup.specialists)?;
        let weights = KnownWeights::load(&setup.phoebe, &setup.specialists).await?;
        let examples = Examples::embed(&setup.memory, &setup.specialists).await?;
        Ok(Self { setup, master, examples, content_free: OnceCell::new(), weights })
    }

    /// The specialists' names.
    pub(super) fn known(&self) -> String {
        let names: Vec<&str> =
            self.setup.specialists.iter().map(|specialist| specialist.name.as_str()).collect();
        names.join(", ")
    }

    /// Has a specialist answer.
    pub(super) async fn answer(
        &self,
        context: &RequestContext,
        question: &ValidQuestion,
        screened: &Arc<Screened>,
        name: &str,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<SpecialistAnswer, NyxError> {
        let known = || NyxError::UnknownSpecialist { name: name.to_owned(), known: self.known() };
        let actor = self.setup.actors.get(name).ok_or_else(known)?;
        let (question, screened) = (question.clone(), Arc::clone(screened));
        let answer_by = context.deadline + STEP_GRACE;
        actor
            .send_until(
                AnswerRequest { context: context.clone(), question, screened, events },
                answer_by,
            )
            .await
    }

    /// Counts a failure, publishes it and returns it.
    pub(super) fn failed(
        &self,
        context: &RequestContext,
        specialist: Option<&str>,
        error: NyxError,
    ) -> NyxError {
        self.setup.metrics.failure(error.error_type());
        let failed = CellStep::Failed { error: error.error_type(), message: error.to_string() };
        self.setup.cells.publish(Some(context.id), specialist, failed);
        error
    }
}
