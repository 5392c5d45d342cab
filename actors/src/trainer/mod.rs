//! The trainer: trains adapters from the log, evaluates them at a gate and as canaries, detects
//! drift, and rolls back.

mod actor;
mod cases;
mod drift;
mod example;
mod gate;
mod handle;
mod log;
mod messages;
mod options;
mod process;
mod record;
mod run;
mod service;

pub use actor::Trainer;
pub use drift::{DriftAction, DriftMonitor, RewardSample};
pub use example::{Label, TrainingExample};
pub use gate::GateReport;
pub use handle::Training;
pub use messages::{GetStatus, SpecialistStanding, TrainNow, TrainerStatus};
pub use options::TrainingOptions;
pub use record::{Model as TrainingRun, RunStatus};
pub use run::{Run, RunReport};
pub use service::TrainingService;
