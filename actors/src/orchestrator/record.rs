//! Recording of decisions: before their answers are acknowledged, or in the background while the
//! database is unavailable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nyx_domain::{AnswerMode, CellStep, Decision, Status};
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use tracing::Instrument as _;

use super::state::OrchestratorState;
use crate::admission::MAX_RECORDING;
use crate::phoebe::messages::RecordDecision;
use crate::specialist::SpecialistAnswer;
use crate::{NyxError, RequestContext, ValidQuestion};

/// How long recording is retried after a request was given up: the decision must not be lost
/// because the database was unavailable.
pub(super) const RECORD_GRACE: Duration = Duration::from_secs(10);
/// Time limit for recording an answer that ended at, or just before, the deadline.
const CUT_GRACE: Duration = Duration::from_millis(400);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

impl OrchestratorState {
    /// Stores memories and records the decision, in a task of its own. If that has not ended by the
    /// deadline, this fails, so that nothing is acknowledged, and the task continues.
    pub(super) async fn recorded(
        self: &Arc<Self>,
        context: &RequestContext,
        question: &ValidQuestion,
        mut decision: Box<Decision>,
        reward: Option<(f64, String)>,
    ) -> Result<Box<Decision>, NyxError> {
        let until = context.deadline.max(Instant::now() + CUT_GRACE);
        let late = || NyxError::DeadlineExceeded { doing: "the decision was recorded" };
        let id = decision.id;
        let Ok(Ok(place)) =
            timeout_at(until.into(), Arc::clone(&self.setup.admission.recording).acquire_owned())
                .await
        else {
            tracing::error!(decision = %id, waiting = MAX_RECORDING, "a decision is lost: too many wait for the database already");
            return Err(late());
        };
        let (sender, answer) = oneshot::channel();
        let (parts, question, span) = (Arc::clone(self), question.clone(), context.span.clone());
        let context = context.clone();
        let recording = async move {
            let _place = place;
            let remembered = parts
                .remember(
                    &context,
                    &question,
                    &mut decision,
                    until.saturating_duration_since(Instant::now()) / 2,
                )
                .await;
            let recorded =
                parts.conclude(&context, &decision, reward, false, || sender.is_closed()).await;
            if recorded.is_err() {
                parts.unremember(remembered).await;
            }
            match sender.send(recorded.map(|()| decision)) {
                Ok(()) => {}
                Err(Ok(_)) => {
                    tracing::warn!(decision = %id, "recorded after the deadline: its answer was not acknowledged")
                }
                Err(Err(error)) => {
                    tracing::error!(decision = %id, %error, "a decision is lost: the database did not take it in time")
                }
            }
        };
        actix::spawn(recording.instrument(span));
        match timeout_at(until.into(), answer).await {
            Ok(Ok(recorded)) => recorded,
            Ok(Err(_)) => Err(NyxError::Internal("the decision's recording broke off".into())),
            Err(_) => Err(late()),
        }
    }

    /// Records the decision, then publishes it to the stream and the metrics. `completes`: it is on
    /// record already, as deferred. If no caller waits for it (`unanswered`), a failure is retried
    /// until the grace period is over.
    pub(super) async fn conclude(
        &self,
        context: &RequestContext,
        decision: &Decision,
        reward: Option<(f64, String)>,
        completes: bool,
        unanswered: impl Fn() -> bool,
    ) -> Result<(), NyxError> {
        let (id, name) = (Some(context.id), Some(decision.specialist.as_str()));
        if matches!(decision.status, Status::Answered | Status::Partial) {
            let answered = CellStep::Answered {
                answer: decision.answer().to_owned(),
                finish_reason: decision
                    .answers
                    .first()
                    .map(|answer| answer.finish_reason.clone())
                    .unwrap_or_default(),
                completion_tokens: decision.usage.completion_tokens,
                confidence: decision.confidence,
                total_ms: decision.timings.total_ms,
            };
            self.setup.cells.publish(id, name, answered);
        }
        let end = Instant::now() + RECORD_GRACE.max(context.remaining());
        loop {
            let record = RecordDecision {
                decision: Box::new(decision.clone()),
                reward: reward.clone(),
                completes,
            };
            match self.setup.phoebe.send_until(record, end).await {
                Ok(()) => break,
                // a decision that is on record after all is not changed
                Err(error) if unanswered() && Instant::now() + PAUSE < end => {
                    tracing::debug!(%error, "the decision is not on record yet: trying again");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.setup.cells.publish(id, name, CellStep::Recorded { status: decision.status.as_str() });
        if let Some((reward, rule)) = reward {
            self.setup.cells.publish(
                id,
                name,
                CellStep::Rewarded {
                    reward,
                    activation: decision.activation,
                    source: format!("automatic: {rule}"),
                },
            );
        }
        self.setup.metrics.decision(decision);
        Ok(())
    }
}

/// Puts an answer into the decision; returns the automatic reward with its rule, if there is one.
pub(super) fn fill(
    decision: &mut Decision,
    response: SpecialistAnswer,
) -> Result<Option<(f64, String)>, NyxError> {
    let reason =
        |reason: &str| response.answers.iter().any(|answer| answer.finish_reason == reason);
    decision.status = if response.mode == Some(AnswerMode::Defer) {
        Status::Deferred
    } else if reason("cancelled") {
        Status::Cancelled
    } else if reason("deadline") {
        Status::Partial
    } else {
        Status::Answered
    };
    decision.evidence = response.evidence;
    decision.answers = response.answers;
    decision.choice_probabilities = response.choice_probabilities;
    decision.probability = response.probability;
    decision.confidence = response.confidence;
    decision.adapter = response.adapter;
    decision.sampling = serde_json::to_value(&response.sampling)
        .map_err(|error| NyxError::Internal(error.to_string()))?;
    decision.usage = response.usage;
    decision.timings = response.timings;
    decision.trace.extend(response.trace);
    let judged = !matches!(decision.status, Status::Cancelled | Status::Deferred);
    let Some(automatic) = response.automatic_reward.filter(|_| judged) else { return Ok(None) };
    decision.activation = Some(automatic.activation);
    decision.reward = automatic.reward;
    Ok(Some((automatic.reward, automatic.rule)))
}
