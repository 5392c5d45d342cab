//! The master's head: who should answer, learned from questions whose specialist is known.

mod features;
mod fit;
mod log;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::learn::{LearnedPart, LinearModel};
use features::hashed;
pub(crate) use features::fnv1a;

pub use fit::{HeadReport, RoutingExample, fit, utterances};
pub use log::{LogReport, LoggedRouting, Serving, fit_log};

/// The shipped head.
pub const SHIPPED_HEAD: &str = include_str!("../../learned/master.json");
/// Features of the question's place in time, which is no longer read: 0.
const TIME_FEATURES: usize = 15;
/// A text whose embedding tells whether two embedders are the same.
pub const PROBE: &str = "Who should answer this question?";
/// Cosine of the probe's vectors above which they are.
const SAME_EMBEDDER: f32 = 0.99;

/// A question as the head reads it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub question: &'a str,
    /// Its unit vector.
    pub embedding: &'a [f32],
    /// The caller's present.
    pub now: DateTime<Utc>,
    /// Milliseconds that the answer may take.
    pub deadline_ms: u64,
}

/// A small model from a question to the specialists it knows: multinomial logistic regression over the question's embedding, its words and pairs
/// of words (hashed), and the base model's scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MasterHead {
    /// The specialists it knows, in the order of the model's classes.
    names: Vec<String>,
    /// Length of an embedding.
    dimension: usize,
    /// Buckets that words and pairs are hashed into.
    buckets: usize,
    /// The model's logits over this are calibrated.
    temperature: f64,
    /// What each score is multiplied with before it joins its specialist's logit.
    score_gain: f64,
    /// The `master.temperature` at which propensities are the head's calibrated probabilities.
    unit: f64,
    /// The embedding of [`PROBE`].
    probe: Vec<f32>,
    /// Features: the embedding, the buckets, then time.
    model: LinearModel,
}

impl LearnedPart for MasterHead {
    const KIND: &'static str = "master";
    const VERSION: u32 = 2;

    fn check(&self) -> Result<(), String> {
        let (names, classes, features) = (self.names.len(), self.model.classes(), self.model.features());
        if !self.model.is_sound() || classes != names || names < 2 {
            return Err(format!(
                "model has {classes} rows of {features} weights, expected finite ones, a row for each of the {names} names"
            ));
        }
        if self.buckets == 0 || features != self.dimension.saturating_add(self.buckets).saturating_add(TIME_FEATURES) {
            return Err(format!(
                "buckets is {}, expected the {features} weights of a row less {TIME_FEATURES} and dimension, {}",
                self.buckets, self.dimension
            ));
        }
        if self.probe.len() != self.dimension || !self.probe.iter().all(|entry| entry.is_finite()) {
            return Err(format!("probe has {} numbers, expected {} finite ones", self.probe.len(), self.dimension));
        }
        for (key, value) in [("temperature", self.temperature), ("unit", self.unit)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(format!("{key} is {value}, expected a number above 0"));
            }
        }
        if !self.score_gain.is_finite() {
            return Err(format!("score_gain is {}, expected a number", self.score_gain));
        }
        Ok(())
    }
}

impl MasterHead {
    /// The specialists it knows.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether an embedder whose vector of [`PROBE`] is this one is the one it was learned with.
    pub fn knows_embedder(&self, probe: &[f32]) -> bool {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (a, b) = (&self.probe[..], probe);
        a.len() == b.len() && dot(a, b) > SAME_EMBEDDER * (dot(a, a) * dot(b, b)).sqrt()
    }

    fn features(dimension: usize, buckets: usize, asked: &Asked<'_>) -> Vec<(u32, f32)> {
        // a head's dimension and buckets are far below 2^32
        let dense = asked.embedding.iter().take(dimension).enumerate().map(|(index, value)| (index as u32, *value));
        let words = hashed(asked.question, buckets).into_iter().map(|(bucket, value)| (dimension as u32 + bucket, value));
        dense.chain(words).collect()
    }

    /// One logit a name, in the order of `names`, on the scale of the scores.
    ///
    /// Among the specialists it knows, the head decides: their logits are its calibrated log-probabilities. All of them together keep against one
    /// that it does not know the share that the scores alone give them; that one's logit is its score.
    pub fn logits(&self, names: &[String], scores: &[f64], asked: &Asked<'_>) -> Vec<f64> {
        let raw = self.model.logits(&Self::features(self.dimension, self.buckets, asked));
        let score = |index: usize| scores.get(index).copied().unwrap_or(0.0);
        let known: Vec<Option<f64>> = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let class = self.names.iter().position(|known| known == name)?;
                Some((raw.get(class)? + self.score_gain * score(index)) / self.temperature)
            })
            .collect();
        let heads: Vec<f64> = known.iter().flatten().copied().collect();
        let theirs: Vec<f64> = (0..names.len()).filter(|index| known[*index].is_some()).map(|index| score(index) / self.unit).collect();
        let share = log_sum_exp(&theirs) - log_sum_exp(&heads);
        known.iter().enumerate().map(|(index, head)| head.map_or(score(index), |head| self.unit * (head + share))).collect()
    }
}

/// ln of the sum of the exponentials; minus infinity of none.
fn log_sum_exp(values: &[f64]) -> f64 {
    let best = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if best == f64::NEG_INFINITY { best } else { best + values.iter().map(|value| (value - best).exp()).sum::<f64>().ln() }
}

#[cfg(test)]
mod tests;
