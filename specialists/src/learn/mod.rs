//! Models fitted outside the LLM's weights: small linear models over features, and maps from scores
//! to probabilities.
//!
//! Deterministic: the same examples in the same order give the same model, bit for bit.

mod artifact;
mod calibration;
mod linear;
pub mod metrics;
mod minimise;

pub use artifact::{Artifact, ArtifactFile, TrainedOn, artifact_id};
pub use calibration::{Isotonic, Platt};
pub use linear::{Example, LinearModel};
