//! Signals of one answer from which its correctness is predicted.

use serde::{Deserialize, Serialize};

/// The signals of one answer; `None` where a signal does not apply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signals {
    /// Mean entropy, for a generated answer, over the distributions of its tokens, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_entropy: Option<f64>,
    /// The maximum, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_entropy: Option<f64>,
    /// Mean log-probability (nats) of the answer's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_logprob: Option<f64>,
    /// In the order of the choices, if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<f64>,
    /// Fraction of the answer supported by the evidence that it cites, in [0, 1]; `None` without a
    /// citation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub support: Option<f64>,
    /// Number of evidence items.
    pub evidence: usize,
    /// The best score of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_evidence: Option<f64>,
    /// The prior probability of a forecast, from another source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior: Option<f64>,
    /// The probability of a forecast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Whether the caller supplied a text to answer from.
    pub context: bool,
    /// Whether the answer ended with a stop rather than by a limit.
    pub complete: bool,
    /// The model's own probability that its answer is true (Kadavath et al. 2022, "Language Models
    /// (Mostly) Know What They Know").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_true: Option<f64>,
    /// The answer itself, whose words are features. Not serialised, since the decision stores it
    /// already.
    #[serde(skip)]
    pub answer: String,
}
