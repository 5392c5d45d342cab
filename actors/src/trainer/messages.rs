//! Messages of the trainer.

use std::collections::BTreeMap;

use actix::Message;
use nyx_engine::train::Objective;
use serde::Serialize;

use crate::NyxError;

/// Begins a training run from the log; returns the run's id.
#[derive(Message)]
#[rtype(result = "Result<String, NyxError>")]
pub struct TrainNow {
    pub specialist: String,
    pub objective: Option<Objective>,
}

/// The trainer's status.
#[derive(Message)]
#[rtype(result = "Result<TrainerStatus, NyxError>")]
pub struct GetStatus;

/// The trainer's status.
#[derive(Debug, Clone, Serialize)]
pub struct TrainerStatus {
    /// The specialist that is being trained.
    pub training: Option<String>,
    pub specialists: BTreeMap<String, SpecialistStanding>,
}

/// The status of one specialist.
#[derive(Debug, Clone, Serialize)]
pub struct SpecialistStanding {
    /// Feedback entries since the last run of this process.
    pub fresh_evidence: usize,
    /// Number of reward pairs of the running canary.
    pub canary_pairs: Option<u32>,
    /// Progress of the drift test towards an alarm, in [0, 1].
    pub alarm: f64,
}
