//! Deferred answers: the decision is recorded at once, and completed when its answer is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nyx_domain::{Decision, Status};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::record::{RECORD_GRACE, fill};
use super::state::OrchestratorState;
use crate::specialist::Screened;
use crate::{NyxError, RequestContext, ValidQuestion};

/// Time limit of a deferred answer.
pub(super) const BUDGET: Duration = Duration::from_secs(300);

/// The permit and the question of a deferred answer.
pub(super) struct Deferral {
    permit: OwnedSemaphorePermit,
    question: ValidQuestion,
}

impl OrchestratorState {
    /// Reserves capacity for a deferred answer, where the caller allows one. Returns the question
    /// as it is answered now: it allows a deferral only if there is capacity.
    pub(super) fn reserve_deferral(
        &self,
        question: ValidQuestion,
        streams: bool,
    ) -> (ValidQuestion, Option<Deferral>) {
        let wanted = question.inputs.allow_defer && !streams && question.choices.is_none();
        let permit = wanted
            .then(|| Arc::clone(&self.setup.admission.deferred).try_acquire_owned().ok())
            .flatten();
        let now = question.with_allow_defer(permit.is_some());
        (now, permit.map(|permit| Deferral { permit, question: question.with_allow_defer(false) }))
    }

    /// Generates the answer in the background and completes the record.
    pub(super) fn answer_later(
        self: &Arc<Self>,
        mut decision: Box<Decision>,
        deferral: Deferral,
        screened: Arc<Screened>,
        context: &RequestContext,
    ) {
        let state = Arc::clone(self);
        let context = RequestContext { deadline: Instant::now() + BUDGET, ..context.clone() };
        let span = context.span.clone();
        let making = async move {
            let Deferral { permit, question } = deferral;
            let name = decision.specialist.clone();
            decision.trace.deferral = decision.trace.timing.take();
            let decide_ms = decision.timings.decide_ms;
            let outcome = match state.answer(&context, &question, &screened, &name, None).await {
                Ok(response) => fill(&mut decision, response),
                Err(error) => Err(error),
            };
            let reward = outcome.unwrap_or_else(|error| {
                decision.status = if matches!(error, NyxError::Cancelled) {
                    Status::Cancelled
                } else {
                    Status::Failed
                };
                decision.error = Some(error.to_string());
                state.failed(&context, Some(&name), error);
                None
            });
            decision.timings.decide_ms = decide_ms;
            decision.timings.total_ms = context.asked.elapsed().as_secs_f64() * 1e3;
            let remembered = state.remember(&context, &question, &mut decision, RECORD_GRACE).await;
            if let Err(error) = state.conclude(&context, &decision, reward, true, || true).await {
                state.unremember(remembered).await;
                state.failed(&context, Some(&name), error);
            }
            drop(permit);
        };
        actix::spawn(making.instrument(span));
    }
}
