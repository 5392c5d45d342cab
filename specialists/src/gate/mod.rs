//! Whether a new adapter may speak: statistics for the gate, the canary, and the watch over what is live. Pure: the same numbers, the same verdict.

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
