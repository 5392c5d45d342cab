//! Trait weights learned by a gradient bandit (Sutton and Barto 2018, "Reinforcement Learning", 2nd
//! edition, §2.8).

use std::collections::BTreeMap;

use super::propensity::softmax;

/// Upper bound on the importance ratio, current probability over propensity (truncated importance
/// sampling, Ionides 2008), so that one old decision cannot move the weights by more.
const MOST_RATIO: f64 = 2.0;
/// Number of rewarded decisions after which the step size has fallen to `1/√2`.
const STEADY: f64 = 200.0;

/// Hyperparameters of the bandit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BanditSettings {
    /// Initial step size, above 0: the most that a weight moves for a reward that is 1 above the
    /// baseline.
    pub learning_rate: f64,
    /// Fraction in [0, 1) by which each rewarded decision decays weights and baselines; 0 disables
    /// decay.
    pub decay: f64,
    /// Weights are clamped to ± this.
    pub max_weight: f64,
    /// The temperature τ of the softmax over candidates.
    pub temperature: f64,
}

/// Rewards are compared with others of the same source (user ratings and outcomes have different
/// scales) on questions of the same kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaselineKey {
    /// The source of the rewards.
    pub source: String,
    /// The specialist that would be chosen without trait weights.
    pub kind: String,
}

/// A running mean of rewards that starts at 0, as if one reward of 0 had been observed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Baseline {
    /// Number of rewards, decayed.
    pub count: f64,
    /// Sum of the rewards.
    pub sum: f64,
}

impl Baseline {
    /// Mean of the rewards; 0 without any.
    pub fn mean(&self) -> f64 {
        self.sum / (self.count + 1.0)
    }
}

/// A choice as it was drawn.
#[derive(Debug, Clone, Copy)]
pub struct Drawn<'a> {
    /// Each candidate's logit without its trait weight.
    pub unweighted: &'a [f64],
    /// Index of the chosen candidate.
    pub chosen: usize,
    /// The probability with which it was drawn, in (0, 1].
    pub propensity: f64,
}

/// The trait weights and their baselines. Weights are in the order of the candidates.
#[derive(Debug, Clone, PartialEq)]
pub struct Learner {
    /// The settings.
    pub settings: BanditSettings,
    /// One weight per candidate.
    pub weights: Vec<f64>,
    /// Mean rewards by source and category.
    pub baselines: BTreeMap<BaselineKey, Baseline>,
}

impl Learner {
    /// A learner with weights 0.
    pub fn new(settings: BanditSettings, candidates: usize) -> Self {
        Self { settings, weights: vec![0.0; candidates], baselines: BTreeMap::new() }
    }

    /// Updates the weights for a reward: `w_j += α ρ (r − b) (1[j = chosen] − s_j)`, with `s` the
    /// softmax of the logits with the current weights, `ρ = s_chosen / propensity` (truncated; the
    /// propensity is the one at the draw) and `b` the mean of the earlier rewards. In expectation
    /// this is the gradient of the current policy's reward, whatever the weights were at the draw.
    /// The step size α falls with the square root of the decayed reward count: with decay it stays
    /// above a level at which the weights still follow changes.
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

    /// Replaces a counted reward: updates by the difference. No new decision, so no decay.
    pub fn amend(&mut self, key: &BaselineKey, drawn: &Drawn<'_>, change: f64) {
        self.step(drawn, change);
        if let Some(baseline) = self.baselines.get_mut(key) {
            baseline.sum += change;
        }
    }

    fn step(&mut self, drawn: &Drawn<'_>, advantage: f64) {
        let logits: Vec<f64> = drawn
            .unweighted
            .iter()
            .zip(&self.weights)
            .map(|(logit, weight)| logit + weight)
            .collect();
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
