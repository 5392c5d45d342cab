//! Choosing the next token. OWNER: E2 (parameters fixed).

use serde::{Deserialize, Serialize};

/// How to choose tokens. The defaults are greedy decoding without penalties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// 0 is greedy; up to 2.
    pub temperature: f32,
    /// 0 keeps all.
    pub top_k: usize,
    /// Nucleus sampling, in (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens with at least this share of the best one's probability, in [0, 1); 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt and answer; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from tokens already generated, in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted a time per occurrence among generated tokens, in [-2, 2].
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens, in [-100, 100].
    pub logit_bias: Vec<(u32, f32)>,
    pub seed: u64,
    /// `Some(n)`: report the log-probability of each token and of the `n` best (at most 20).
    pub logprobs: Option<usize>,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Ends the answer before any of these strings (at most 4... see validate).
    pub stop: Vec<String>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
            max_tokens: 256,
            stop: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// # Errors
    /// [`EngineError::BadSampling`](crate::EngineError::BadSampling) names the first field out of range; `vocabulary` bounds `logit_bias`.
    pub fn validate(&self, _vocabulary: usize) -> crate::Result<()> {
        todo!()
    }
}
