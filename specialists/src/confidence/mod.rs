//! Confidence: how likely an answer is right, from the signals of one pass, learned per specialist from answers whose truth is known.

mod calibrators;
mod fit;
mod signals;
#[cfg(test)]
mod tests;

pub use calibrators::Confidences;
pub use fit::{ConfidenceReport, ConfidenceRow, Quality, fit};
pub use signals::Signals;
