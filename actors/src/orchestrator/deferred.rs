//! Answers that come later: the decision is on record at once, and completed when its answer has been made.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use nyx_domain::{AnswerMode, Decision, Question, RequestInputs, Status};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::record::RECORD_GRACE;
use super::{OrchestratorParts, fill};
use crate::specialist::{Screened, SpecialistAnswer};
use crate::{NyxError, RequestContext};

/// Answers that may be made later at a time.
pub(crate) const PLACES: usize = 16;
/// How long one may take.
const BUDGET: Duration = Duration::from_secs(300);
/// Time for the record beyond it.
const GRACE: Duration = Duration::from_secs(60);

/// What a deferred answer waits with.
pub(super) struct Deferred {
    pub(super) place: OwnedSemaphorePermit,
    pub(super) question: Question,
}

/// Whether the specialist would rather answer later.
pub(super) fn is_deferred(response: &SpecialistAnswer) -> bool {
    response.mode == Some(AnswerMode::Defer)
}

impl OrchestratorParts {
    /// A place to answer later in, where the caller allows it and there is one; without it, `question` no longer allows it.
    pub(super) fn place_later(&self, question: &mut Question, streams: bool) -> Option<Deferred> {
        let wanted = question.inputs.allow_defer && !streams && question.choices.is_none();
        let place = wanted.then(|| Arc::clone(&self.later).try_acquire_owned().ok()).flatten();
        question.inputs.allow_defer = place.is_some();
        let now = RequestInputs { allow_defer: false, ..question.inputs.clone() };
        place.map(|place| Deferred { place, question: Question { inputs: now, ..question.clone() } })
    }

    /// Makes the answer in the background and completes the record.
    pub(super) fn answer_later(
        self: &Arc<Self>,
        mut decision: Box<Decision>,
        later: Deferred,
        screened: Arc<Screened>,
        context: &RequestContext,
    ) {
        let parts = Arc::clone(self);
        let context = RequestContext { deadline: Instant::now() + BUDGET, ..context.clone() };
        let span = context.span.clone();
        let making = async move {
            let Deferred { place, question } = later;
            let question = Arc::new(question);
            let name = decision.specialist.clone();
            decision.trace.deferral = decision.trace.timing.take();
            let decide_ms = decision.timings.decide_ms;
            let outcome = match parts.speak(&context, &question, &screened, &name, None).await {
                Ok(response) => fill(&mut decision, response),
                Err(error) => Err(error),
            };
            let reward = outcome.unwrap_or_else(|error| {
                decision.status = if matches!(error, NyxError::Cancelled) { Status::Cancelled } else { Status::Failed };
                decision.error = Some(error.to_string());
                parts.failed(&context, Some(&name), error);
                None
            });
            decision.timings.decide_ms = decide_ms;
            decision.timings.total_ms = context.asked.elapsed().as_secs_f64() * 1e3;
            let remembered = parts.remember(&context, &question, &mut decision, RECORD_GRACE).await;
            if let Err(error) = parts.conclude(&context, &decision, reward, true, || true).await {
                parts.unremember(remembered).await;
                parts.failed(&context, Some(&name), error);
            }
            drop(place);
        };
        actix::spawn(making.instrument(span));
    }
}

/// As it is told: a deferred decision whose process ended before its answer was made has failed.
pub(crate) fn settled(mut decision: Decision) -> Decision {
    let longest = chrono::Duration::from_std(BUDGET + GRACE).unwrap_or_default();
    if decision.status == Status::Deferred && Utc::now() - decision.asked_at > longest {
        decision.status = Status::Failed;
        decision.error = Some("the process ended before the answer was made".into());
    }
    decision
}
