//! Time: what a question says of it, what follows from that, time stamps as features, memories that fade, and whether to answer now, short or later.
//!
//! Nothing here reads a clock: the present comes in with every call.

mod expression;
mod features;
mod plan;
mod ranking;
mod reckoning;
#[cfg(test)]
mod tests;
mod vocabulary;

/// The shipped timing: `learned/timing.json`.
pub const SHIPPED_TIMING: &str = include_str!("../../learned/timing.json");

pub use expression::{Interval, TimeReading, read_time};
pub use features::{PERIODIC, TIME_FEATURES, age_in_words, log_age, log_deadline, periodic, recurring_similarity, time_features};
pub use plan::{Course, Measured, Outlook, Pace, Plan, Prospect, Quality, plan};
pub use ranking::{Candidate, Timing, TimingExample, faded};
pub use reckoning::{Reckoning, Relation, reckon};
