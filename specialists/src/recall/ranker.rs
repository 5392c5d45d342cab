//! The learned re-ranking: logistic regression over a turn's features gives the probability that it is evidence for the question.

use serde::{Deserialize, Serialize};

use super::features::{Row, names, ranks, rows};
use super::pool::Turn;
use crate::learn::{Example, LearnedPart, LinearModel};

/// Of the penalty on squared weights, a mean over the turns: with standardised features.
const L2: f64 = 1e-5;
/// Turns by [`Row`]'s fused rank that are all learned from; of the others one in `OTHERS`, counted as often.
const NEAREST: f64 = 60.0;
const OTHERS: usize = 6;
/// Significant digits of a weight in the file.
const DIGITS: i32 = 6;

/// What a search brought together for a question, and which of it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct RecallExample {
    pub question: String,
    pub turns: Vec<Turn>,
    /// Of each turn.
    pub evidence: Vec<bool>,
}

/// The parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecallRanker {
    features: Vec<String>,
    weights: Vec<f64>,
    bias: f64,
}

impl LearnedPart for RecallRanker {
    const KIND: &'static str = "recall";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        let known = names();
        if let Some((at, name)) = self.features.iter().enumerate().find(|(at, name)| known.get(*at) != Some(&name.as_str())) {
            let expected = known.get(at).copied().unwrap_or("no more");
            return Err(format!("features[{at}] is {name:?}, expected {expected:?}: learn it again with `nyx train recall`"));
        }
        for (key, count) in [("features", self.features.len()), ("weights", self.weights.len())] {
            if count != known.len() {
                return Err(format!("{key} has {count} entries, expected {}", known.len()));
            }
        }
        match self.weights.iter().chain([&self.bias]).find(|weight| !weight.is_finite()) {
            Some(weight) => Err(format!("weights has {weight}, expected finite numbers")),
            None => Ok(()),
        }
    }
}

impl RecallRanker {
    /// Learns from labelled searches; `None` without any evidence in them, or where all is evidence.
    pub fn fit(examples: &[RecallExample]) -> Option<Self> {
        let mut learned_from = Vec::new();
        for example in examples {
            let rows = rows(&example.question, &example.turns);
            let fused = ranks(&rows.iter().map(|row| value_of(row, "fused")).collect::<Vec<_>>());
            for (at, row) in rows.iter().enumerate() {
                let evidence = example.evidence.get(at).copied().unwrap_or(false);
                let near = evidence || fused[at] < NEAREST;
                if near || (fused[at] as usize).is_multiple_of(OTHERS) {
                    learned_from.push((
                        row.iter().map(|(_, value)| *value).collect::<Vec<f64>>(),
                        evidence,
                        if near { 1.0 } else { OTHERS as f64 },
                    ));
                }
            }
        }
        let found = learned_from.iter().filter(|(_, evidence, _)| *evidence).count();
        if found == 0 || found == learned_from.len() {
            return None;
        }
        let names = names();
        let scales: Vec<(f64, f64)> = (0..names.len()).map(|feature| mean_and_deviation(&learned_from, feature)).collect();
        let standardised = learned_from.iter().map(|(row, evidence, weight)| Example {
            features: (0_u32..)
                .zip(row.iter().zip(&scales))
                .map(|(feature, (value, (mean, scale)))| (feature, ((value - mean) / scale) as f32))
                .collect(),
            class: usize::from(*evidence),
            weight: *weight,
        });
        let model = LinearModel::fit(&standardised.collect::<Vec<_>>(), 2, names.len(), L2);
        let at = |features: &[(u32, f32)]| {
            let logits = model.logits(features);
            logits[1] - logits[0]
        };
        let base = at(&[]);
        let weights: Vec<f64> =
            (0_u32..).zip(&scales).map(|(feature, (_, scale))| rounded((at(&[(feature, 1.0)]) - base) / scale)).collect();
        let bias = base - weights.iter().zip(&scales).map(|(weight, (mean, _))| weight * mean).sum::<f64>();
        Some(Self { features: names.into_iter().map(str::to_owned).collect(), weights, bias: rounded(bias) })
    }

    /// The probability of each turn, in [0, 1], that it is evidence for the question.
    pub fn probabilities(&self, question: &str, turns: &[Turn]) -> Vec<f64> {
        if turns.is_empty() {
            return Vec::new();
        }
        rows(question, turns).iter().map(|row| 1.0 / (1.0 + (-self.logit(row)).exp())).collect()
    }

    fn logit(&self, row: &Row) -> f64 {
        self.bias + self.weights.iter().zip(row).map(|(weight, (_, value))| weight * value).sum::<f64>()
    }
}

fn value_of(row: &Row, name: &str) -> f64 {
    row.iter().find(|(other, _)| *other == name).map_or(0.0, |(_, value)| *value)
}

/// A feature that never changes gets a scale of 1, so that its weight stays 0.
fn mean_and_deviation(examples: &[(Vec<f64>, bool, f64)], feature: usize) -> (f64, f64) {
    let total: f64 = examples.iter().map(|(_, _, weight)| weight).sum();
    let mean = examples.iter().map(|(row, _, weight)| weight * row[feature]).sum::<f64>() / total;
    let variance = examples.iter().map(|(row, _, weight)| weight * (row[feature] - mean).powi(2)).sum::<f64>() / total;
    (mean, if variance > 1e-12 { variance.sqrt() } else { 1.0 })
}

/// To [`DIGITS`] significant digits, for a file that people read.
fn rounded(value: f64) -> f64 {
    format!("{value:.*e}", (DIGITS - 1) as usize).parse().unwrap_or(value)
}
