//! Sampling parameters and their validation.

use serde::{Deserialize, Serialize};

use crate::{EngineError, Result};

/// Sampling parameters. The defaults are greedy decoding without penalties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// 0 is greedy; up to 2.
    pub temperature: f32,
    /// Top-k; 0 keeps all tokens.
    pub top_k: usize,
    /// Nucleus sampling, in (0, 1]; 1 keeps all tokens.
    pub top_p: f32,
    /// Keeps tokens with at least this fraction of the top token's probability, in [0, 1); 0 keeps
    /// all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occur in the prompt or
    /// answer; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens already generated, in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted once per occurrence among the generated tokens, in [-2, 2].
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens, in [-100, 100].
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the sampler.
    pub seed: u64,
    /// `Some(n)`: report the log-probability of each token and of the `n` best (at most 20).
    pub logprobs: Option<usize>,
    /// Maximum number of tokens to generate.
    pub max_tokens: usize,
    /// Ends the answer before any of these strings (at most 16).
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

/// Maximum number of stop strings of a request.
const MAX_STOPS: usize = 16;
/// Maximum number of alternatives reported per token.
const MAX_LOGPROBS: usize = 20;

impl SamplingParams {
    /// # Errors
    /// [`EngineError::BadSampling`] names the first field out of range; `vocabulary` bounds
    /// `logit_bias`.
    pub fn validate(&self, vocabulary: usize) -> Result<()> {
        let check = |field, value: f32, right: bool, expected| {
            if right {
                Ok(())
            } else {
                Err(EngineError::BadSampling { field, value: value.to_string(), expected })
            }
        };
        // NaN is in no range
        check(
            "temperature",
            self.temperature,
            (0.0..=2.0).contains(&self.temperature),
            "a number from 0 to 2",
        )?;
        check(
            "top_p",
            self.top_p,
            self.top_p > 0.0 && self.top_p <= 1.0,
            "a number above 0, up to 1",
        )?;
        check("min_p", self.min_p, (0.0..1.0).contains(&self.min_p), "a number from 0 to below 1")?;
        let repetition = self.repetition_penalty;
        check(
            "repetition_penalty",
            repetition,
            repetition > 0.0 && repetition <= 10.0,
            "a number above 0, up to 10",
        )?;
        for (field, value) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            check(field, value, (-2.0..=2.0).contains(&value), "a number from -2 to 2")?;
        }
        for &(token, bias) in &self.logit_bias {
            if token as usize >= vocabulary {
                return Err(EngineError::TokenOutOfRange { token, vocabulary });
            }
            check(
                "logit_bias",
                bias,
                (-100.0..=100.0).contains(&bias),
                "numbers from -100 to 100",
            )?;
        }
        let wrong = |field, value: String, expected| {
            Err(EngineError::BadSampling { field, value, expected })
        };
        if let Some(count) = self.logprobs.filter(|&count| count > MAX_LOGPROBS) {
            return wrong("top_logprobs", count.to_string(), "a number from 0 to 20");
        }
        if self.max_tokens == 0 {
            return wrong("max_tokens", "0".into(), "at least 1");
        }
        if self.stop.len() > MAX_STOPS {
            return wrong("stop", format!("a list of {}", self.stop.len()), "at most 16 strings");
        }
        if self.stop.iter().any(String::is_empty) {
            return wrong("stop", "an empty string".into(), "strings of at least one character");
        }
        Ok(())
    }
}
