//! Options of training, gate, canary and drift detection.

use nyx_engine::train::{LoraShape, TrainOptions};
use serde::{Deserialize, Serialize};

/// `[training]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingOptions {
    /// Train a specialist automatically once there is enough new evidence, and after a fallback.
    pub auto: bool,
    /// Feedback entries of a specialist since its last run that automatic training waits for.
    pub min_evidence: usize,
    /// Passes over the examples.
    pub epochs: usize,
    pub batch: usize,
    pub rank: usize,
    pub learning_rate: f64,
    /// Tokens of plain text per step whose likelihood is kept at the base model's; 0: none.
    pub anchor_tokens: usize,
    /// Significance level of gate and canary: how often a candidate that is not better may pass.
    pub alpha: f64,
    /// Allowed increase of a candidate's perplexity on a neutral text over the base model's, as a
    /// fraction.
    pub perplexity_margin: f64,
    /// The canary's share of a specialist's requests; 0: the gate alone decides.
    pub canary_share: f64,
    /// Reward pairs after which an undecided canary is retired.
    pub canary_max_samples: u32,
    /// Mean number of rewards between two false alarms of drift detection.
    pub false_alarm_interval: f64,
    /// Fraction of the time that training may use while requests are processed.
    pub cpu_share: f64,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        Self {
            auto: true,
            min_evidence: 200,
            epochs: 2,
            batch: 8,
            rank: 16,
            learning_rate: 5e-4,
            anchor_tokens: 64,
            alpha: 0.05,
            perplexity_margin: 0.02,
            canary_share: 0.2,
            canary_max_samples: 400,
            false_alarm_interval: 2000.0,
            cpu_share: 0.2,
        }
    }
}

impl TrainingOptions {
    /// The engine's training options.
    pub fn train(&self, seed: u64) -> TrainOptions {
        let mut options = TrainOptions {
            epochs: self.epochs,
            batch: self.batch,
            seed,
            ..TrainOptions::default()
        };
        options.lora =
            LoraShape { rank: self.rank, alpha: 2.0 * self.rank as f64, ..LoraShape::default() };
        options.optimiser.learning_rate = self.learning_rate;
        options
    }

    /// Names the invalid key, its value and what is expected.
    pub fn wrong(&self) -> Option<(&'static str, String, &'static str)> {
        let share = |value: f64| value > 0.0 && value < 1.0;
        let checks: [(&'static str, String, bool, &'static str); 11] = [
            (
                "training.min_evidence",
                self.min_evidence.to_string(),
                self.min_evidence > 0,
                "at least 1",
            ),
            ("training.epochs", self.epochs.to_string(), self.epochs > 0, "at least 1"),
            ("training.batch", self.batch.to_string(), self.batch > 0, "at least 1"),
            ("training.rank", self.rank.to_string(), (1..=256).contains(&self.rank), "1 to 256"),
            (
                "training.learning_rate",
                self.learning_rate.to_string(),
                share(self.learning_rate),
                "above 0 and below 1",
            ),
            ("training.alpha", self.alpha.to_string(), share(self.alpha), "above 0 and below 1"),
            (
                "training.perplexity_margin",
                self.perplexity_margin.to_string(),
                self.perplexity_margin >= 0.0,
                "at least 0",
            ),
            (
                "training.canary_share",
                self.canary_share.to_string(),
                (0.0..1.0).contains(&self.canary_share),
                "0, or above 0 and below 1",
            ),
            (
                "training.canary_max_samples",
                self.canary_max_samples.to_string(),
                self.canary_max_samples > 0,
                "at least 1",
            ),
            (
                "training.false_alarm_interval",
                self.false_alarm_interval.to_string(),
                self.false_alarm_interval >= 50.0,
                "at least 50",
            ),
            (
                "training.cpu_share",
                self.cpu_share.to_string(),
                self.cpu_share > 0.0 && self.cpu_share <= 1.0,
                "above 0, at most 1",
            ),
        ];
        checks
            .into_iter()
            .find(|(_, _, right, _)| !right)
            .map(|(key, value, _, expected)| (key, value, expected))
    }
}
