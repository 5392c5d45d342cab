//! The trait weights for routing: those on record, at most `routing.trait_weight_age_ms` old.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nyx_domain::{CellStep, TraitWeightChange};

use super::state::OrchestratorState;
use crate::NyxError;
use crate::phoebe::messages::StoreTraitWeight;
use crate::phoebe::{self};
use crate::supervise::SEND_LIMIT;

/// Time that a request may wait for newer weights, and the fraction of its remaining time.
const PATIENCE: Duration = Duration::from_millis(500);
const SHARE: u32 = 4;

impl OrchestratorState {
    /// Every specialist's weight, for a request with this deadline. If phoebe does not answer in a
    /// fraction of that time, the weights that were read before.
    pub(super) async fn fresh_weights(&self, deadline: Instant) -> BTreeMap<String, f64> {
        let (known, age) = self.weights.known();
        if age <= Duration::from_millis(self.setup.options.trait_weight_age_ms) {
            return known;
        }
        let now = Instant::now();
        let patience = PATIENCE.min(deadline.saturating_duration_since(now) / SHARE);
        if let Err(error) = self.weights.refresh(&self.setup.phoebe, now + patience).await {
            tracing::warn!(%error, "trait weights could not be read again: those of {} ms ago decide", age.as_millis());
        }
        self.weights.known().0
    }

    /// Applies and publishes changes of weights.
    pub(super) async fn trait_weights_moved(
        &self,
        changes: &[TraitWeightChange],
    ) -> Result<(), NyxError> {
        self.weights.refresh(&self.setup.phoebe, Instant::now() + SEND_LIMIT).await?;
        for change in changes {
            self.tell_weight(change);
        }
        Ok(())
    }

    pub(super) async fn update_trait_weight(
        &self,
        change: StoreTraitWeight,
    ) -> Result<TraitWeightChange, NyxError> {
        if !self.setup.specialists.iter().any(|specialist| specialist.name == change.name) {
            return Err(NyxError::UnknownSpecialist { name: change.name, known: self.known() });
        }
        phoebe::storable("reason", &change.reason)?;
        let bound = self.setup.options.max_trait_weight;
        if !(-bound..=bound).contains(&change.to) {
            return Err(NyxError::invalid(
                "weight",
                format!("weight is {}, expected a number from -{bound} to {bound}", change.to),
            ));
        }
        let change = self.setup.phoebe.send(change).await?;
        self.weights.refresh(&self.setup.phoebe, Instant::now() + SEND_LIMIT).await?;
        self.tell_weight(&change);
        Ok(change)
    }

    fn tell_weight(&self, change: &TraitWeightChange) {
        let updated = CellStep::WeightsUpdated {
            from: change.from,
            to: change.to,
            reason: change.reason.clone(),
        };
        self.setup.cells.publish(change.decision, Some(&change.name), updated);
    }
}
