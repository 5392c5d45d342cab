//! Choosing among specialists, and learning the choice from rewards.

mod learner;
mod off_policy;
mod propensity;
#[cfg(test)]
mod tests;

pub use learner::{BanditSettings, Baseline, BaselineKey, Drawn, Learner};
pub use off_policy::{Estimate, LoggedChoice, OffPolicy, estimate};
pub use propensity::{best, propensities, softmax};
