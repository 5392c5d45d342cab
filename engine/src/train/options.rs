//! Training examples and options.

use serde::{Deserialize, Serialize};

use super::adapter::LoraShape;
use super::frozen::TrainPrecision;
use super::objective::{LossSettings, TrainingTarget};
use super::optimiser::AdamW;

/// A training example: a prompt, its continuations, and the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Token ids of each continuation, at least one per continuation.
    pub continuations: Vec<Vec<u32>>,
    /// The training target of the continuations, which selects the loss.
    pub target: TrainingTarget,
}

/// Options of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Rank, scale and target modules of the adapter.
    pub lora: LoraShape,
    /// Data type of the matrix products.
    pub precision: TrainPrecision,
    /// Optimiser settings.
    pub optimiser: AdamW,
    /// Parameters of the losses.
    pub loss: LossSettings,
    /// Passes over the examples.
    pub epochs: usize,
    /// Number of examples per optimiser step.
    pub batch: usize,
    /// Approximate number of tokens per forward pass. A larger batch is split into micro-batches,
    /// whose gradients are accumulated.
    pub micro_tokens: usize,
    /// Activation checkpointing: store only the layers' inputs and recompute the rest in the
    /// backward pass. Takes about a third more time and a sixth of the activation memory.
    pub checkpoint: bool,
    /// Number of threads; 0 means all cores.
    pub threads: usize,
    /// Random seed of initialisation and shuffling.
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
    /// Returns the name and value of the first option that is out of range.
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
