//! A forecast as it is recorded.

use serde::{Deserialize, Serialize};

/// A forecast and its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// A prior from another source, such as a market, as supplied by the caller.
    pub prior: Option<f64>,
    /// The language model's likelihood of the first of two choices.
    pub choice: Option<f64>,
    /// The probabilities that the sampled answers state, one per answer that states one.
    pub stated: Vec<f64>,
    /// The probability that the event happens (with two choices: that the first comes true).
    pub probability: f64,
}
