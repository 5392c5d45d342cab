//! Training: starting runs and reading their records.

use nyx_engine::train::Objective;

use super::actor::Trainer;
use super::messages::{GetStatus, TrainNow, TrainerStatus};
use super::record::Model;
use super::service::TrainingService;
use crate::NyxError;
use crate::supervise::ActorRef;

/// Starts training runs and reads their records. Cheap to clone.
#[derive(Clone)]
pub struct Training {
    pub(crate) actor: ActorRef<Trainer>,
    /// Runs without the trainer actor.
    pub service: TrainingService,
}

impl Training {
    /// Training runs, newest first; of one specialist, or of all.
    ///
    /// # Errors
    /// The limit is out of range, or phoebe does not answer.
    pub async fn runs(&self, specialist: Option<&str>, limit: u64) -> Result<Vec<Model>, NyxError> {
        if !(1..=1_000).contains(&limit) {
            return Err(NyxError::invalid(
                "limit",
                format!("limit is {limit}, expected 1 to 1000"),
            ));
        }
        self.service.store.runs(specialist, limit).await
    }

    /// The trainer's status: the specialist in training, new evidence, drift tests.
    ///
    /// # Errors
    /// When the trainer is down.
    pub async fn status(&self) -> Result<TrainerStatus, NyxError> {
        self.actor.send(GetStatus).await
    }

    /// Begins a run from the log; returns its id.
    ///
    /// # Errors
    /// [`NyxError::NotFound`] for an unknown specialist; [`NyxError::Conflict`] while another run
    /// is in progress.
    pub async fn start(
        &self,
        specialist: &str,
        objective: Option<Objective>,
    ) -> Result<String, NyxError> {
        self.service.known_specialist(specialist)?;
        let message = TrainNow { specialist: specialist.to_owned(), objective };
        self.actor.send(message).await
    }
}
