//! Trait weights by a gradient bandit (Sutton and Barto 2018, "Reinforcement Learning", 2nd edition, §2.8).

use std::collections::BTreeMap;

use super::propensity::softmax;

/// A choice that is now so many times likelier than when it was drawn counts as this many (truncated importance sampling, Ionides 2008): one old
/// decision must not move weights by more.
const MOST_RATIO: f64 = 2.0;
/// Rewarded decisions after which steps have become `1/√2` as long.
const STEADY: f64 = 200.0;

/// How weights follow rewards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BanditSettings {
    /// Length of the first step, above 0: what a weight moves by at most for a reward that is 1 above the baseline.
    pub learning_rate: f64,
    /// Share in [0, 1) of weights and baselines that a rewarded decision lets go of; 0 forgets nothing.
    pub decay: f64,
    /// Weights stay within ± this.
    pub max_weight: f64,
    /// The τ of the choice's softmax.
    pub temperature: f64,
}

/// Rewards are compared with others of their source (people's ratings and outcomes are not on one scale) on questions of their kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaselineKey {
    pub source: String,
    /// The specialist that would have been chosen without trait weights.
    pub kind: String,
}

/// A running mean of rewards that begins at 0, as if one such reward had been seen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Baseline {
    /// Rewards, of which forgotten ones count less.
    pub count: f64,
    pub sum: f64,
}

impl Baseline {
    pub fn mean(&self) -> f64 {
        self.sum / (self.count + 1.0)
    }
}

/// A choice as it was made.
#[derive(Debug, Clone, Copy)]
pub struct Drawn<'a> {
    /// Each candidate's logit without its weight.
    pub unweighted: &'a [f64],
    pub chosen: usize,
    /// What it was drawn with, in (0, 1].
    pub propensity: f64,
}

/// The weights and what they are compared with. Weights stand in the order of the candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct Learner {
    pub settings: BanditSettings,
    pub weights: Vec<f64>,
    pub baselines: BTreeMap<BaselineKey, Baseline>,
}

impl Learner {
    pub fn new(settings: BanditSettings, candidates: usize) -> Self {
        Self { settings, weights: vec![0.0; candidates], baselines: BTreeMap::new() }
    }

    /// Moves the weights for a reward: `w_j += α ρ (r − b) (1[j = chosen] − s_j)`, with `s` the softmax of the logits with the weights as they are now, `ρ = s_chosen /
    /// propensity` (what it was drawn with then, truncated) and `b` the mean of the rewards before this one. In expectation this is the gradient of
    /// what the present weights earn, whatever the weights were at the draw. The step's length α falls with the root of the rewards that are
    /// remembered: with decay it stays above a length at which weights still follow change.
    pub fn reward(&mut self, key: &BaselineKey, drawn: &Drawn<'_>, reward: f64) {
        let keep = 1.0 - self.settings.decay;
        self.weights.iter_mut().for_each(|weight| *weight *= keep);
        for baseline in self.baselines.values_mut() {
            baseline.count *= keep;
            baseline.sum *= keep;
        }
        let before = self.baselines.get(key).map_or(0.0, Baseline::mean);
        self.step(drawn, reward - before);
        let baseline = self.baselines.entry(key.clone()).or_default();
        baseline.count += 1.0;
        baseline.sum += reward;
    }

    /// A reward that was counted is now another one: moves by the difference. No new decision, so nothing is forgotten.
    pub fn amend(&mut self, key: &BaselineKey, drawn: &Drawn<'_>, change: f64) {
        self.step(drawn, change);
        if let Some(baseline) = self.baselines.get_mut(key) {
            baseline.sum += change;
        }
    }

    fn step(&mut self, drawn: &Drawn<'_>, advantage: f64) {
        let logits: Vec<f64> = drawn.unweighted.iter().zip(&self.weights).map(|(logit, weight)| logit + weight).collect();
        let shares = softmax(&logits, self.settings.temperature);
        let Some(share) = shares.get(drawn.chosen) else { return };
        let ratio = (share / drawn.propensity).min(MOST_RATIO);
        let remembered: f64 = self.baselines.values().map(|baseline| baseline.count).sum();
        let length = self.settings.learning_rate / (1.0 + remembered / STEADY).sqrt();
        let moved = length * ratio * advantage;
        if !moved.is_finite() {
            return;
        }
        let bound = self.settings.max_weight;
        for (index, (weight, share)) in self.weights.iter_mut().zip(&shares).enumerate() {
            let own = if index == drawn.chosen { 1.0 } else { 0.0 };
            *weight = (*weight + moved * (own - share)).clamp(-bound, bound);
        }
    }
}
