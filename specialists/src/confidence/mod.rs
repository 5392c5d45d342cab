//! Confidence: the probability that an answer is correct, from the signals of one pass, fitted per
//! specialist on answers of known correctness.

mod calibrators;
mod fit;
mod signals;
#[cfg(test)]
mod tests;

pub use calibrators::Confidences;
pub use fit::{ConfidenceReport, ConfidenceRow, Quality, fit};
