//! Models fitted outside the LLM's weights: small linear models over features, and maps from scores
//! to probabilities.
//!
//! Deterministic: the same examples in the same order give the same model, bit for bit.

mod calibration;
mod linear;
pub mod metrics;
mod minimise;
mod part;

pub use calibration::{Isotonic, Platt};
pub use linear::{Example, LinearModel};
pub use part::{LearnedFile, LearnedPart, TrainedOn, learned_id};
