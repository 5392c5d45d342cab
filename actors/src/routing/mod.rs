//! What choices earned: the log of drawn decisions, read for judging other policies.

mod drawn;
mod log;
mod policy;

pub use drawn::DrawnDecision;
pub use log::{ChoosingLog, PolicyReport};
pub use policy::{PolicySpec, RoutingPolicy};
