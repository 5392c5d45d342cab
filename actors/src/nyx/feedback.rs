//! What people and the future say, and the trait weights that follow.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Nyx;
use crate::NyxError;
use crate::feedback::{self, NewFeedback};
use crate::orchestrator::messages::{TraitWeights, TraitWeightsMoved, UpdateTraitWeight};
use crate::phoebe::messages::{ListFeedback, ListOpenForecasts, ListTraitWeightChanges, NamedDecisions, RecordFeedback, StoreTraitWeight};
use nyx_domain::{
    CellStep, Decision, DecisionName, Feedback, FeedbackInput, FeedbackResult, OpenForecast, OutcomeInput, TraitWeightChange,
};

impl Nyx {
    /// The decisions of a name: one of an id, perhaps several of a caller's own name.
    async fn named(&self, name: DecisionName) -> Result<Vec<Decision>, NyxError> {
        self.inner.phoebe.send(NamedDecisions(name)).await
    }

    /// Resolves what was forecast: scores it and puts the outcome and its reward on record. All decisions of the name are resolved.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; a decision that is no forecast; an outcome that it cannot have; [`NyxError::Conflict`] for a key under which something else
    /// was told.
    pub async fn resolve(&self, name: DecisionName, input: OutcomeInput, key: Option<String>) -> Result<Vec<FeedbackResult>, NyxError> {
        let decisions = self.named(name).await?;
        let feedback =
            |decision: &Decision| feedback::outcome(decision, self.policy(&decision.specialist), &self.inner.rewards, &input, key.clone());
        self.record_feedback(decisions.iter().map(feedback).collect::<Result<_, _>>()?).await
    }

    /// Puts people's feedback on record, on all decisions of the name.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn feedback(&self, name: DecisionName, input: FeedbackInput, key: Option<String>) -> Result<Vec<FeedbackResult>, NyxError> {
        let decisions = self.named(name).await?;
        let feedback = |decision: &Decision| {
            feedback::feedback(decision, self.policy(&decision.specialist), &self.inner.rewards, input.clone(), key.clone())
        };
        self.record_feedback(decisions.iter().map(feedback).collect::<Result<_, _>>()?).await
    }

    async fn record_feedback(&self, entries: Vec<NewFeedback>) -> Result<Vec<FeedbackResult>, NyxError> {
        let judged = self.inner.phoebe.send(RecordFeedback { entries, learning: self.inner.learning }).await?;
        for FeedbackResult { feedback, specialist, activation, .. } in judged.iter().filter(|judged| judged.new) {
            let source = feedback.kind.as_str().to_owned();
            let rewarded = CellStep::Rewarded { reward: feedback.reward, activation: *activation, source };
            self.cells.publish(Some(feedback.decision), Some(specialist), rewarded);
        }
        let moved: Vec<TraitWeightChange> = judged.iter().flat_map(|judged| judged.weights.clone()).collect();
        if !moved.is_empty()
            && let Err(error) = self.inner.orchestrator.send(TraitWeightsMoved(moved)).await
        {
            // they are on record, and read again when they have aged
            tracing::warn!(%error, "the orchestrator was not input of moved trait weights");
        }
        Ok(judged)
    }

    /// Every feedback on a decision, in the order in which they were input.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn feedback_of(&self, decision: Uuid) -> Result<Vec<Feedback>, NyxError> {
        self.inner.phoebe.send(ListFeedback(decision)).await
    }

    /// Forecasts and what became of them, newest first.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn open_forecasts(&self, query: ListOpenForecasts) -> Result<Vec<OpenForecast>, NyxError> {
        self.inner.phoebe.send(query).await
    }

    /// Every specialist's weight, 0 where none was set.
    ///
    /// # Errors
    /// When the orchestrator is down.
    pub async fn trait_weights(&self) -> Result<BTreeMap<String, f64>, NyxError> {
        self.inner.orchestrator.send(TraitWeights).await
    }

    /// How a specialist's weight came to be what it is, newest first.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn trait_weight_changes(&self, name: &str, limit: u64) -> Result<Vec<TraitWeightChange>, NyxError> {
        self.inner.phoebe.send(ListTraitWeightChanges { name: name.to_owned(), limit }).await
    }

    /// Sets a weight by hand: for `POST /admin/traits/{name}`.
    ///
    /// # Errors
    /// Unknown specialist, or a weight out of bounds.
    pub async fn set_trait_weight(&self, name: &str, to: f64, reason: String) -> Result<TraitWeightChange, NyxError> {
        let change = StoreTraitWeight { name: name.to_owned(), to, reason, reward: None, decision: None };
        self.inner.orchestrator.send(UpdateTraitWeight(change)).await
    }
}
