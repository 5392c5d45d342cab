//! The actor system: orchestrator, specialists, device pool and workers, memory, phoebe, trainer,
//! and the typed messages between them. [`NyxBuilder`] starts it; [`Nyx`] is its handle.

#![cfg_attr(test, allow(clippy::too_many_lines))]

pub mod adapters;
mod admission;
pub mod artifacts;
pub mod cells;
pub mod confidence;
pub mod context;
pub mod devices;
mod draw;
pub mod error;
pub mod facts;
pub mod feedback;
pub mod memory;
pub mod metrics;
mod nyx;
pub mod observe;
mod options;
pub mod orchestrator;
pub mod phoebe;
mod restart;
pub mod routing;
mod runtime;
pub mod secret;
pub mod specialist;
pub mod supervise;
#[cfg(test)]
mod testing;
pub mod trainer;
mod tree;
mod validation;

pub use admission::{Admission, Permit};
pub use context::RequestContext;
pub use error::{NyxError, StartError};
pub use nyx::{Nyx, NyxBuilder, Readiness};
pub use options::{
    NyxOptions, PoolOptions, RequestOptions, RewardOptions, RoutingOptions,
    replicas as device_replicas,
};
pub use validation::{Limits, ValidQuestion};
