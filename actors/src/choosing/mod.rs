//! What choices earned: the log of drawn decisions, read for learning and for judging other policies.

mod drawn;
mod log;
mod policy;

pub use drawn::{CANARY, DrawnDecision};
pub use log::{ChoosingLog, HeadLesson, PolicyReport};
pub use policy::{Chooser, PolicySpec};
