//! The trainer: trains adapters from evidence, tries them, watches what is live, and takes back what fails.

mod actor;
mod cases;
mod drift;
mod example;
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
pub use handle::Training;
pub use messages::{GetStatus, SpecialistStanding, TrainNow, TrainerStatus};
pub use options::TrainingOptions;
pub use record::{Model as TrainingRun, RunStatus};
pub use run::{GateReport, Run, RunReport};
pub use service::TrainingService;
