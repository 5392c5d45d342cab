//! Log-likelihoods of several continuations of one prompt, computed over one shared prefix.

use crate::Result;
use crate::lora::AdapterHandle;

/// Scores `continuations` after `prompt`.
pub struct ScoreJob {
    /// The prompt in tokens.
    pub prompt: Vec<u32>,
    /// How many leading prompt tokens to keep in the prefix cache (0: none).
    pub cacheable_prefix: usize,
    /// Each at least one token.
    pub continuations: Vec<Vec<u32>>,
    /// The adapter; `None` for the base model.
    pub adapter: Option<AdapterHandle>,
    /// Polled before each step: when it returns true, the scoring ends as
    /// [`EngineError::Cancelled`](crate::EngineError::Cancelled).
    pub cancelled: Box<dyn Fn() -> bool + Send>,
    /// Receives the scores, in the order of the continuations.
    pub reply: Box<dyn FnOnce(Result<Vec<ContinuationScore>>) + Send>,
}

/// One continuation's log-likelihood.
#[derive(Debug, Clone, PartialEq)]
pub struct ContinuationScore {
    /// log p of each token, natural logarithm.
    pub logprobs: Vec<f32>,
}

impl ContinuationScore {
    /// Sum of the tokens' log-probabilities.
    pub fn total(&self) -> f64 {
        self.logprobs.iter().map(|&p| f64::from(p)).sum()
    }
    /// Mean log-probability per token.
    pub fn mean(&self) -> f64 {
        self.total() / self.logprobs.len().max(1) as f64
    }
}
