//! The people of Nyx: orchestrator, specialists, GPU pool and workers, memory keeper, phoebe, and the typed messages between them.

pub mod cells;
pub mod context;
pub mod decision;
pub mod error;
pub mod memory;
pub mod phoebe;

pub use context::RequestContext;
pub use decision::Decision;
pub use error::NyxError;
