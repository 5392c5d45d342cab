//! Statistics that decide whether a new adapter becomes active: the gate, the canary test, and the
//! drift monitor. Pure and deterministic.

mod betting;
mod bootstrap;
mod drift;
pub(crate) mod random;
mod split;
#[cfg(test)]
mod tests;

pub use betting::{BettingSequence, CanaryTrial, CanaryVerdict};
pub use bootstrap::{Compared, Pair, compare, level};
pub use drift::{PageHinkley, threshold};
pub use split::{HeldBack, held_back, template};
