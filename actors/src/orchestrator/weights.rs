//! The trait weights by which the master chooses: phoebe's, not older than `routing.trait_weight_age_ms`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nyx_specialists::SpecialistPolicy;

use super::OrchestratorParts;
use crate::NyxError;
use crate::phoebe::messages::{LoadTraitWeights, StoreTraitWeight};
use crate::phoebe::{self, Phoebe};
use crate::supervise::{ActorRef, SEND_LIMIT};
use nyx_domain::{CellStep, TraitWeightChange};

/// How long a request may wait for weights that are fresher than those of the last reading, and which share of its time.
const PATIENCE: Duration = Duration::from_millis(500);
const SHARE: u32 = 4;

/// Weights, and when they were read.
pub(super) struct KnownWeights {
    /// The specialists' names.
    names: Vec<String>,
    read: Mutex<(BTreeMap<String, f64>, Instant)>,
}

impl KnownWeights {
    pub(super) async fn load(phoebe: &ActorRef<Phoebe>, specialists: &[SpecialistPolicy]) -> Result<Self, NyxError> {
        let names: Vec<String> = specialists.iter().map(|specialist| specialist.name.clone()).collect();
        let read = phoebe.send(LoadTraitWeights(names.clone())).await?;
        Ok(Self { names, read: Mutex::new((read, Instant::now())) })
    }

    /// Every specialist's, 0 where none was set; and their age.
    fn known(&self) -> (BTreeMap<String, f64>, Duration) {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let named = self.names.iter().map(|name| (name.clone(), read.0.get(name).copied().unwrap_or(0.0)));
        (named.collect(), read.1.elapsed())
    }

    async fn refresh(&self, phoebe: &ActorRef<Phoebe>, deadline: Instant) -> Result<(), NyxError> {
        let asked = Instant::now();
        let read = phoebe.send_until(LoadTraitWeights(self.names.clone()), deadline).await?;
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        // of two readings, the one that began later saw more
        if asked >= known.1 {
            *known = (read, asked);
        }
        Ok(())
    }
}

impl OrchestratorParts {
    /// Every specialist's weight, for a request with this deadline. Where phoebe does not answer in a part of the time, those that were read before.
    pub(super) async fn fresh_weights(&self, deadline: Instant) -> BTreeMap<String, f64> {
        let (known, age) = self.weights.known();
        if age <= Duration::from_millis(self.options.trait_weight_age_ms) {
            return known;
        }
        let now = Instant::now();
        let patience = PATIENCE.min(deadline.saturating_duration_since(now) / SHARE);
        if let Err(error) = self.weights.refresh(&self.phoebe, now + patience).await {
            tracing::warn!(%error, "trait weights could not be read again: those of {} ms ago decide", age.as_millis());
        }
        self.weights.known().0
    }

    /// Takes over and tells what entries did to weights.
    pub(super) async fn trait_weights_moved(&self, changes: &[TraitWeightChange]) -> Result<(), NyxError> {
        self.weights.refresh(&self.phoebe, Instant::now() + SEND_LIMIT).await?;
        for change in changes {
            self.tell_weight(change);
        }
        Ok(())
    }

    pub(super) async fn update_trait_weight(&self, change: StoreTraitWeight) -> Result<TraitWeightChange, NyxError> {
        if !self.specialists.iter().any(|specialist| specialist.name == change.name) {
            return Err(NyxError::UnknownSpecialist { name: change.name, known: self.known() });
        }
        phoebe::storable("reason", &change.reason)?;
        let bound = self.options.max_trait_weight;
        if !(-bound..=bound).contains(&change.to) {
            return Err(NyxError::invalid("weight", format!("weight is {}, expected a number from -{bound} to {bound}", change.to)));
        }
        let change = self.phoebe.send(change).await?;
        self.weights.refresh(&self.phoebe, Instant::now() + SEND_LIMIT).await?;
        self.tell_weight(&change);
        Ok(change)
    }

    fn tell_weight(&self, change: &TraitWeightChange) {
        let updated = CellStep::WeightsUpdated { from: change.from, to: change.to, reason: change.reason.clone() };
        self.cells.publish(change.decision, Some(&change.name), updated);
    }
}
