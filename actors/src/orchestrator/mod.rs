//! The orchestrator: routes each request to a specialist, has it answered and records the decision.

mod actor;
mod ask;
mod choice;
mod deferred;
mod examples;
mod handle;
mod known_weights;
mod master;
pub mod messages;
mod record;
mod remember;
mod route;
mod safety;
mod state;
mod weights;

pub use actor::Orchestrator;
pub use choice::{Choice, choose};
pub use handle::Decisions;
pub(crate) use state::STEP_GRACE;
pub use state::{OrchestratorSetup, OrchestratorState};
