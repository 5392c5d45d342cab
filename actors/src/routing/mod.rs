//! Off-policy evaluation of routing policies on the log of drawn decisions.

mod drawn;
mod log;
mod policy;

pub use drawn::DrawnDecision;
pub use log::{ChoosingLog, PolicyReport};
pub use policy::{PolicySpec, RoutingPolicy};
