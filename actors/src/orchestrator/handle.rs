//! Decisions: asking, and reading the record.

use std::collections::BTreeMap;

use chrono::Utc;
use nyx_domain::{Decision, Question, Status, StreamEvent};
use nyx_specialists::confidence::ConfidenceReport;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::actor::Orchestrator;
use super::deferred::BUDGET;
use super::messages::{Ask, Route, Routing};
use super::state::STEP_GRACE;
use crate::confidence::{Calibration, Reliability, reliabilities};
use crate::phoebe::Phoebe;
use crate::phoebe::messages::{GetDecision, ListDecisions, ListJudged};
use crate::runtime::blocking;
use crate::supervise::ActorRef;
use crate::validation::Limits;
use crate::{NyxError, RequestContext};

/// Time for recording a deferred answer, beyond the time for generating it.
const GRACE: std::time::Duration = std::time::Duration::from_secs(60);

/// Asks questions and reads the decisions on record. Cheap to clone.
#[derive(Clone)]
pub struct Decisions {
    pub(crate) orchestrator: ActorRef<Orchestrator>,
    pub(crate) phoebe: ActorRef<Phoebe>,
    pub(crate) limits: Limits,
    /// The calibrators of confidences.
    pub calibration: Calibration,
}

impl Decisions {
    /// Answers a question: resolves when the decision is on record. With `events`, text streams
    /// there meanwhile; dropping the receiver, or this future, cancels the work. The channel should
    /// be large: an event that does not fit cancels too.
    ///
    /// # Errors
    /// What [`Limits::validate`] refuses, and whatever prevented the answer. Once a specialist had
    /// been chosen, the failure is on record too, unless the orchestrator itself was restarted.
    pub async fn ask(
        &self,
        context: RequestContext,
        question: Question,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<Decision, NyxError> {
        let question = self.limits.validate(question)?;
        let cancelled_with_this_future = context.cancel.clone().drop_guard();
        // the orchestrator keeps the deadline; this is for one that does not answer at all
        let answer_by = context.deadline + 2 * STEP_GRACE;
        let decision =
            self.orchestrator.send_until(Ask { context, question, events }, answer_by).await;
        // after a failure, work that may still run is cancelled
        if decision.is_ok() {
            cancelled_with_this_future.disarm();
        }
        decision.map(|decision| *decision)
    }

    /// Scores the specialists for a question without having one answer.
    ///
    /// # Errors
    /// When the deadline passes, or neither the question can be embedded nor the master score it.
    pub async fn route(
        &self,
        context: RequestContext,
        question: String,
    ) -> Result<Routing, NyxError> {
        let answer_by = context.answer_by();
        self.orchestrator.send_until(Route { context, question }, answer_by).await
    }

    /// One decision by its id.
    ///
    /// # Errors
    /// [`NyxError::NotFound`].
    pub async fn get(&self, id: Uuid) -> Result<Decision, NyxError> {
        Ok(settled(self.phoebe.send(GetDecision(id)).await?))
    }

    /// Decisions, newest first.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn list(&self, query: ListDecisions) -> Result<Vec<Decision>, NyxError> {
        Ok(self.phoebe.send(query).await?.into_iter().map(settled).collect())
    }

    /// The quality of the confidences on record, of decisions with a known outcome: of all, and of
    /// each specialist's.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn reliabilities(
        &self,
    ) -> Result<(Reliability, BTreeMap<String, Reliability>), NyxError> {
        Ok(reliabilities(&self.phoebe.send(ListJudged).await?))
    }

    /// Fits the calibrators to those decisions; returns the new calibrators' id and their
    /// cross-validation.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] where there are too few.
    pub async fn refit_confidence(&self) -> Result<(String, ConfidenceReport), NyxError> {
        let judged = self.phoebe.send(ListJudged).await?;
        let calibration = self.calibration.clone();
        blocking(move || calibration.refit(&judged)).await?
    }
}

/// As it is shown: a deferred decision whose process ended before its answer was there has failed.
fn settled(mut decision: Decision) -> Decision {
    let longest = chrono::Duration::from_std(BUDGET + GRACE).unwrap_or_default();
    if decision.status == Status::Deferred && Utc::now() - decision.asked_at > longest {
        decision.status = Status::Failed;
        decision.error = Some("the process ended before the answer was made".into());
    }
    decision
}
