//! The trait weights as they were last read from phoebe.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nyx_specialists::SpecialistPolicy;

use crate::NyxError;
use crate::phoebe::Phoebe;
use crate::phoebe::messages::LoadTraitWeights;
use crate::supervise::ActorRef;

/// Weights with the time at which they were read.
pub(super) struct KnownWeights {
    /// The specialists' names.
    names: Vec<String>,
    read: Mutex<(BTreeMap<String, f64>, Instant)>,
}

impl KnownWeights {
    pub(super) async fn load(
        phoebe: &ActorRef<Phoebe>,
        specialists: &[SpecialistPolicy],
    ) -> Result<Self, NyxError> {
        let names: Vec<String> =
            specialists.iter().map(|specialist| specialist.name.clone()).collect();
        let read = phoebe.send(LoadTraitWeights(names.clone())).await?;
        Ok(Self { names, read: Mutex::new((read, Instant::now())) })
    }

    /// Every specialist's weight, 0 without one; and their age.
    pub(super) fn known(&self) -> (BTreeMap<String, f64>, Duration) {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let named =
            self.names.iter().map(|name| (name.clone(), read.0.get(name).copied().unwrap_or(0.0)));
        (named.collect(), read.1.elapsed())
    }

    pub(super) async fn refresh(
        &self,
        phoebe: &ActorRef<Phoebe>,
        deadline: Instant,
    ) -> Result<(), NyxError> {
        let asked = Instant::now();
        let read = phoebe.send_until(LoadTraitWeights(self.names.clone()), deadline).await?;
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        // of two concurrent reads, the later one is newer
        if asked >= known.1 {
            *known = (read, asked);
        }
        Ok(())
    }
}
