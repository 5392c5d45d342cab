//! What training and its gate need of the running system.

use std::path::PathBuf;
use std::sync::Arc;

use nyx_engine::{ModelFiles, Text};
use nyx_specialists::SpecialistPolicy;

use super::Nyx;
use crate::adapters::AdapterLease;
use crate::devices::Score;
use crate::phoebe::PhoebeStore;
use crate::phoebe::messages::ListJudged;
use crate::specialist::{AnswerRequest, Present, Presented, Screened, SpecialistAnswer};
use crate::supervise::ActorRef;
use crate::trainer::Trainer;
use crate::{NyxError, RequestContext, orchestrator};
use nyx_domain::{Decision, Feedback, Question};

impl Nyx {
    pub(crate) fn store(&self) -> &PhoebeStore {
        &self.inner.store
    }

    pub(crate) fn files(&self) -> Arc<ModelFiles> {
        Arc::clone(&self.inner.files)
    }

    pub(crate) fn text(&self) -> &Text {
        &self.inner.text
    }

    pub(crate) fn trainer(&self) -> Result<&ActorRef<Trainer>, NyxError> {
        self.inner.trainer.get().ok_or(NyxError::ShuttingDown)
    }

    /// Where an adapter of this specialist is written before it is kept.
    pub(crate) fn training_folder(&self, specialist: &str) -> PathBuf {
        self.inner.data_dir.join("training").join(specialist)
    }

    /// Whether any device has work.
    pub(crate) fn busy(&self) -> impl Fn() -> bool + Send + 'static {
        let workers = self.inner.workers.clone();
        move || workers.iter().any(|worker| worker.metrics().held.load(std::sync::atomic::Ordering::Relaxed) > 0)
    }

    /// Whether a specialist's outcomes are forecasts.
    pub(crate) fn forecasts(&self, specialist: &str) -> bool {
        self.policy(specialist).is_some_and(SpecialistPolicy::is_scored_by_outcomes)
    }

    /// What the log has that someone said something of.
    pub(crate) async fn judged(&self) -> Result<Vec<(Decision, Feedback)>, NyxError> {
        self.inner.phoebe.send(ListJudged).await
    }

    /// Has a specialist speak, for measuring: nothing is routed, recorded, rewarded or shown on the stream but its steps.
    pub(crate) async fn dry_run(&self, specialist: &str, question: Question, deadline_ms: u64) -> Result<SpecialistAnswer, NyxError> {
        let unknown = || NyxError::NotFound { what: "specialist", id: specialist.to_owned() };
        let actor = self.inner.actors.get(specialist).ok_or_else(unknown)?;
        let asked = question.last_user_message();
        let screened = Arc::new(Screened::of(&self.inner.safety, &asked, question.choices.is_none()));
        let context = self.context(Some(deadline_ms.min(self.inner.requests.max_deadline_ms)))?;
        let answer_by = context.deadline + orchestrator::STEP_GRACE;
        actor.send_until(AnswerRequest { context, question: Arc::new(question), screened, events: None }, answer_by).await
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
        let answer_by = context.answer_by();
        self.inner.pool.send_until(Score { context, prompt, cacheable_prefix: 0, continuations, adapter, replica: None }, answer_by).await
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
    ) -> Result<Presented, NyxError> {
        let unknown = || NyxError::NotFound { what: "specialist", id: specialist.to_owned() };
        let actor = self.inner.actors.get(specialist).ok_or_else(unknown)?;
        let answer_by = context.answer_by();
        actor.send_until(Present { context, question: Arc::new(question), answers }, answer_by).await
    }
}
