//! Training examples and options.

use serde::{Deserialize, Serialize};

use super::adapter::LoraShape;
use super::frozen::TrainPrecision;
use super::objective::{LossSettings, TrainingTarget};
use super::optimiser::AdamW;

/// A prompt, what may follow it, and what is to be made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The prompt in tokens.
    pub prompt: Vec<u32>,
    /// Each at least one token.
    pub continuations: Vec<Vec<u32>>,
    /// The objective for the continuations.
    pub aim: TrainingTarget,
}

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// The adapter's shape.
    pub lora: LoraShape,
    /// Precision of the products.
    pub precision: TrainPrecision,
    /// The optimiser.
    pub optimiser: AdamW,
    /// Parameters of the losses.
    pub loss: LossSettings,
    /// Passes over the examples.
    pub epochs: usize,
    /// Examples of a step.
    pub batch: usize,
    /// Tokens that go through the model together; a batch of more goes in several parts, whose
    /// gradients are added.
    pub micro_tokens: usize,
    /// Keep the layers' inputs alone and compute the rest again: about a third more time, a sixth
    /// of the memory for activations.
    pub checkpoint: bool,
    /// Threads; all cores when 0.
    pub threads: usize,
    /// Seed of initialisation and shuffling.
    pub seed: u64,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            lora: LoraShape::default(),
            precision: TrainPrecision::Auto,
            optimiser: AdamW::default(),
            loss: LossSettings::default(),
            epochs: 2,
            batch: 8,
            micro_tokens: 1536,
            checkpoint: false,
            threads: 0,
            seed: 1,
        }
    }
}

impl TrainOptions {
    pub(super) fn check(&self) -> Result<(), String> {
        self.optimiser.check()?;
        let positive =
            [("epochs", self.epochs), ("batch", self.batch), ("micro_tokens", self.micro_tokens)];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is 0, expected at least 1"));
        }
        let LossSettings { beta, desirable, undesirable, clip, kl, anchor } = self.loss;
        let settings = [
            ("beta", beta, 1e-6),
            ("desirable", desirable, 0.0),
            ("undesirable", undesirable, 0.0),
            ("clip", clip, 0.0),
            ("kl", kl, 0.0),
            ("anchor", anchor, 0.0),
        ];
        match settings.iter().find(|(_, value, least)| !(value.is_finite() && value >= least)) {
            Some((name, value, least)) => {
                Err(format!("{name} is {value}, expected at least {least}"))
            }
            None => Ok(()),
        }
    }
}
