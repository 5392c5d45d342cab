//! The log of outcomes and feedback.

use std::collections::BTreeMap;
use std::sync::Arc;

use nyx_domain::{
    CellStep, Decision, DecisionName, Feedback, FeedbackInput, FeedbackResult, OpenForecast,
    OutcomeInput, TraitWeightChange,
};
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::bandit::BanditSettings;
use uuid::Uuid;

use super::scoring::{self, NewFeedback};
use crate::cells::CellStream;
use crate::orchestrator::Orchestrator;
use crate::orchestrator::messages::{TraitWeights, TraitWeightsMoved, UpdateTraitWeight};
use crate::phoebe::Phoebe;
use crate::phoebe::messages::{
    ListFeedback, ListOpenForecasts, ListTraitWeightChanges, NamedDecisions, RecordFeedback,
    StoreTraitWeight,
};
use crate::supervise::ActorRef;
use crate::{NyxError, RewardOptions};

/// Records outcomes and feedback, and reads and sets trait weights. Cheap to clone.
#[derive(Clone)]
pub struct FeedbackLog {
    pub(crate) orchestrator: ActorRef<Orchestrator>,
    pub(crate) phoebe: ActorRef<Phoebe>,
    pub(crate) cells: CellStream,
    pub(crate) specialists: Arc<[SpecialistPolicy]>,
    pub(crate) rewards: RewardOptions,
    /// How trait weights follow rewards, if they do.
    pub(crate) learning: Option<BanditSettings>,
}

impl FeedbackLog {
    fn policy(&self, name: &str) -> Option<&SpecialistPolicy> {
        self.specialists.iter().find(|policy| policy.name == name)
    }

    /// The decisions with a name: one with an id, perhaps several with an external key.
    async fn named(&self, name: DecisionName) -> Result<Vec<Decision>, NyxError> {
        self.phoebe.send(NamedDecisions(name)).await
    }

    /// Resolves forecasts: scores them and records the outcome and its reward, on all decisions
    /// with the name.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; a decision that is no forecast; an outcome that it cannot have;
    /// [`NyxError::Conflict`] for a key that was used for another entry.
    pub async fn resolve(
        &self,
        name: DecisionName,
        input: OutcomeInput,
        key: Option<String>,
    ) -> Result<Vec<FeedbackResult>, NyxError> {
        let decisions = self.named(name).await?;
        let feedback = |decision: &Decision| {
            scoring::outcome(
                decision,
                self.policy(&decision.specialist),
                &self.rewards,
                &input,
                key.clone(),
            )
        };
        self.record_feedback(decisions.iter().map(feedback).collect::<Result<_, _>>()?).await
    }

    /// Records a user's feedback on all decisions with the name.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn rate(
        &self,
        name: DecisionName,
        input: FeedbackInput,
        key: Option<String>,
    ) -> Result<Vec<FeedbackResult>, NyxError> {
        let decisions = self.named(name).await?;
        let feedback = |decision: &Decision| {
            scoring::feedback(
                decision,
                self.policy(&decision.specialist),
                &self.rewards,
                input.clone(),
                key.clone(),
            )
        };
        self.record_feedback(decisions.iter().map(feedback).collect::<Result<_, _>>()?).await
    }

    async fn record_feedback(
        &self,
        entries: Vec<NewFeedback>,
    ) -> Result<Vec<FeedbackResult>, NyxError> {
        let judged = self.phoebe.send(RecordFeedback { entries, learning: self.learning }).await?;
        for FeedbackResult { feedback, specialist, activation, .. } in
            judged.iter().filter(|judged| judged.new)
        {
            let source = feedback.kind.as_str().to_owned();
            let rewarded =
                CellStep::Rewarded { reward: feedback.reward, activation: *activation, source };
            self.cells.publish(Some(feedback.decision), Some(specialist), rewarded);
        }
        let moved: Vec<TraitWeightChange> =
            judged.iter().flat_map(|judged| judged.weights.clone()).collect();
        if !moved.is_empty()
            && let Err(error) = self.orchestrator.send(TraitWeightsMoved(moved)).await
        {
            // they are on record, and read again after `routing.trait_weight_age_ms`
            tracing::warn!(%error, "the orchestrator was not notified of changed trait weights");
        }
        Ok(judged)
    }

    /// All feedback entries on a decision, in the order in which they were recorded.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn list(&self, decision: Uuid) -> Result<Vec<Feedback>, NyxError> {
        self.phoebe.send(ListFeedback(decision)).await
    }

    /// Forecasts with their outcomes, newest first.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn open_forecasts(
        &self,
        query: ListOpenForecasts,
    ) -> Result<Vec<OpenForecast>, NyxError> {
        self.phoebe.send(query).await
    }

    /// Every specialist's weight, 0 where none was set.
    ///
    /// # Errors
    /// When the orchestrator is down.
    pub async fn trait_weights(&self) -> Result<BTreeMap<String, f64>, NyxError> {
        self.orchestrator.send(TraitWeights).await
    }

    /// The history of a specialist's weight, newest first.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn trait_weight_changes(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<Vec<TraitWeightChange>, NyxError> {
        self.phoebe.send(ListTraitWeightChanges { name: name.to_owned(), limit }).await
    }

    /// Sets a weight by hand: for `POST /admin/traits/{name}`.
    ///
    /// # Errors
    /// Unknown specialist, or a weight out of bounds.
    pub async fn set_trait_weight(
        &self,
        name: &str,
        to: f64,
        reason: String,
    ) -> Result<TraitWeightChange, NyxError> {
        let change =
            StoreTraitWeight { name: name.to_owned(), to, reason, reward: None, decision: None };
        self.orchestrator.send(UpdateTraitWeight(change)).await
    }
}
