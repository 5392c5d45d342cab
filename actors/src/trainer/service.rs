//! What training and its gate use of the running system.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nyx_domain::{Decision, Feedback, Question};
use nyx_engine::{ContinuationScore, ModelFiles, Text};
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::safety::SafetyPolicy;
use nyx_specialists::strategy::ActivationSource;
use uuid::Uuid;

use crate::adapters::{AdapterAdmin, AdapterLease};
use crate::admission::Admission;
use crate::cells::CellStream;
use crate::devices::{GpuPool, GpuWorker, Score};
use crate::orchestrator::STEP_GRACE;
use crate::phoebe::messages::{GetDecision, ListJudged};
use crate::phoebe::{Phoebe, PhoebeStore};
use crate::specialist::{
    AnswerRequest, Present, Presented, Screened, Specialist, SpecialistAnswer,
};
use crate::supervise::ActorRef;
use crate::validation::Limits;
use crate::{NyxError, RequestContext};

/// Trains adapters and evaluates candidates. Cheap to clone.
#[derive(Clone)]
pub struct TrainingService {
    pub(crate) admission: Admission,
    pub(crate) limits: Limits,
    pub(crate) store: PhoebeStore,
    pub(crate) phoebe: ActorRef<Phoebe>,
    pub(crate) files: Arc<ModelFiles>,
    pub(crate) text: Arc<Text>,
    /// Holds the adapters before they are stored.
    pub(crate) data_dir: PathBuf,
    pub(crate) specialists: Arc<[SpecialistPolicy]>,
    /// By name, `base` among them.
    pub(crate) actors: BTreeMap<String, ActorRef<Specialist>>,
    pub(crate) pool: ActorRef<GpuPool>,
    pub(crate) workers: Vec<ActorRef<GpuWorker>>,
    pub(crate) adapters: AdapterAdmin,
    pub(crate) safety: Arc<SafetyPolicy>,
    pub(crate) cells: CellStream,
}

impl TrainingService {
    /// The folder where an adapter of this specialist is written before it is stored.
    pub(super) fn folder(&self, specialist: &str) -> PathBuf {
        self.data_dir.join("training").join(specialist)
    }

    /// Whether any device has work.
    pub(super) fn busy(&self) -> impl Fn() -> bool + Send + 'static {
        let workers = self.workers.clone();
        move || workers.iter().any(|worker| worker.metrics().held.load(Ordering::Relaxed) > 0)
    }

    /// # Errors
    /// [`NyxError::NotFound`].
    pub(super) fn known_specialist(&self, name: &str) -> Result<&SpecialistPolicy, NyxError> {
        let known = self.specialists.iter().find(|policy| policy.name == name);
        known.ok_or_else(|| NyxError::NotFound { what: "specialist", id: name.to_owned() })
    }

    /// Whether a specialist's outcomes are forecasts.
    pub(super) fn forecasts(&self, specialist: &str) -> bool {
        self.known_specialist(specialist)
            .is_ok_and(|policy| policy.strategy.activation() == ActivationSource::Outcome)
    }

    /// The decisions on record that have feedback.
    pub(super) async fn decisions_with_feedback(
        &self,
    ) -> Result<Vec<(Decision, Feedback)>, NyxError> {
        self.phoebe.send(ListJudged).await
    }

    pub(super) async fn decision(&self, id: Uuid) -> Result<Decision, NyxError> {
        self.phoebe.send(GetDecision(id)).await
    }

    fn actor(&self, specialist: &str) -> Result<&ActorRef<Specialist>, NyxError> {
        let unknown = || NyxError::NotFound { what: "specialist", id: specialist.to_owned() };
        self.actors.get(specialist).ok_or_else(unknown)
    }

    /// Has a specialist answer without routing, record or reward; only the steps appear on the
    /// stream.
    pub(super) async fn dry_run(
        &self,
        specialist: &str,
        question: Question,
        deadline_ms: u64,
    ) -> Result<SpecialistAnswer, NyxError> {
        let actor = self.actor(specialist)?;
        let question = self.limits.validate(question)?;
        let screened = Arc::new(Screened::of(
            &self.safety,
            &question.last_user_message(),
            question.choices.is_none(),
        ));
        let context = self.admission.internal_context(deadline_ms);
        let answer_by = context.deadline + STEP_GRACE;
        actor
            .send_until(AnswerRequest { context, question, screened, events: None }, answer_by)
            .await
    }

    /// The log-likelihood of continuations after a prompt, with an adapter or the base model.
    pub(super) async fn score_tokens(
        &self,
        prompt: Vec<u32>,
        continuations: Vec<Vec<u32>>,
        adapter: Option<AdapterLease>,
        deadline_ms: u64,
    ) -> Result<Vec<ContinuationScore>, NyxError> {
        let context = self.admission.internal_context(deadline_ms);
        let answer_by = context.answer_by();
        self.pool
            .send_until(
                Score {
                    context,
                    prompt,
                    cacheable_prefix: 0,
                    continuations,
                    adapter,
                    replica: None,
                },
                answer_by,
            )
            .await
    }

    /// A specialist's prompt for a question in tokens, as it would be served, with its choices (or
    /// `answers`) after it. Nothing is generated or recorded.
    ///
    /// # Errors
    /// [`NyxError::NotFound`] for an unknown specialist; the question is invalid.
    pub(super) async fn presented(
        &self,
        context: RequestContext,
        specialist: &str,
        question: Question,
        answers: Vec<String>,
    ) -> Result<Presented, NyxError> {
        let actor = self.actor(specialist)?;
        let question = self.limits.validate(question)?;
        let answer_by = context.answer_by();
        actor.send_until(Present { context, question, answers }, answer_by).await
    }
}
