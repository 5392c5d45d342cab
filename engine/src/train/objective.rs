//! What training makes likelier. Each loss is a plain function of log-probabilities; its gradient
//! is given beside it.
//!
//! "Log-probability" of a continuation is the sum over its tokens, in nats; `reference` is the same
//! under the base without an adapter.

use serde::{Deserialize, Serialize};

/// What an example says of its continuations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingTarget {
    /// Supervised: the one continuation is an answer to be given. Loss: mean −log p over its
    /// tokens.
    Answer,
    /// Choice likelihood: what share of the continuations' likelihood each should have; shares sum
    /// up to 1. Loss: cross-entropy.
    Shares(Vec<f64>),
    /// Choice likelihood where only so much is known: the right one is among those marked. Loss:
    /// −log of their share of the likelihood (partial labels: Jin and Ghahramani 2002).
    Among(Vec<bool>),
    /// QRPO over all choices: the reward of each. Loss: see [`qrpo_choices`].
    Rewards(Vec<f64>),
    /// QRPO of the one continuation, whose reward has this quantile among rewards of reference
    /// answers. Loss: see [`qrpo`].
    Quantile(f64),
    /// KTO: whether the one continuation was liked. Loss: see [`kto`].
    Thumb(bool),
    /// DPO: the first continuation is preferred to the second. Loss: see [`dpo`].
    Pair,
    /// The one continuation is to stay as likely as it is to the reference. Loss: the mean over its
    /// tokens of (log π − log π_ref)².
    Anchor,
    /// GRPO: the continuations were drawn from the policy, with these rewards. Loss: see [`grpo`].
    Group(Vec<f64>),
}

/// The objectives by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Supervised fine-tuning: cross-entropy of the right answer.
    Sft,
    /// Cross-entropy over the shares of the choices' likelihoods.
    Choice,
    /// Quantile reward policy optimisation.
    Qrpo,
    /// Kahneman-Tversky optimisation.
    Kto,
    /// Direct preference optimisation.
    Dpo,
    /// Group relative policy optimisation.
    Grpo,
}

impl Objective {
    /// All objectives.
    pub const ALL: [Self; 6] =
        [Self::Sft, Self::Choice, Self::Qrpo, Self::Kto, Self::Dpo, Self::Grpo];

    /// # Errors
    /// A name that none of them has.
    pub fn parse(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|objective| objective.name() == name)
            .ok_or_else(|| format!("{name:?} is no objective, expected one of {names}"))
    }

    /// The name on the command line and on record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Choice => "choice",
            Self::Qrpo => "qrpo",
            Self::Kto => "kto",
            Self::Dpo => "dpo",
            Self::Grpo => "grpo",
        }
    }
}

impl TrainingTarget {
    /// Whether the loss looks at the reference.
    pub fn needs_reference(&self) -> bool {
        !matches!(self, Self::Answer | Self::Shares(_) | Self::Among(_))
    }

    /// What is wrong with it beside so many continuations, if anything.
    pub fn check(&self, continuations: usize) -> Result<(), String> {
        let (expected, finite) = match self {
            Self::Answer | Self::Anchor | Self::Thumb(_) => (1, true),
            Self::Quantile(q) => (1, (0.0..=1.0).contains(q)),
            Self::Pair => (2, true),
            Self::Shares(shares) => (
                shares.len(),
                (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6 && shares.iter().all(|s| *s >= 0.0),
            ),
            Self::Among(marked) => (marked.len(), marked.contains(&true)),
            Self::Rewards(rewards) | Self::Group(rewards) => {
                (rewards.len(), rewards.iter().all(|reward| reward.is_finite()))
            }
        };
        if continuations != expected || expected == 0 {
            return Err(format!(
                "it has {continuations} continuations, expected {}",
                expected.max(1)
            ));
        }
        if finite {
            Ok(())
        } else {
            Err(format!(
                "{self:?} does not hold what it should: shares that sum up to 1, or finite numbers"
            ))
        }
    }
}

/// Settings of the losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossSettings {
    /// QRPO's, KTO's and DPO's β.
    pub beta: f64,
    /// KTO's weights of what was liked and what was not.
    pub desirable: f64,
    /// Weight of undesirable examples (KTO).
    pub undesirable: f64,
    /// GRPO's clip range and weight of the KL term.
    pub clip: f64,
    /// Weight of the KL term (GRPO).
    pub kl: f64,
    /// What an anchor's loss counts.
    pub anchor: f64,
}

impl Default for LossSettings {
    fn default() -> Self {
        Self { beta: 0.1, desirable: 1.0, undesirable: 1.0, clip: 0.2, kl: 0.04, anchor: 1.0 }
    }
}

/// log Σ e^x.
pub fn log_sum_exp(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + values.iter().map(|value| (value - most).exp()).sum::<f64>().ln()
}

fn log_softmax(values: &[f64]) -> Vec<f64> {
    let total = log_sum_exp(values);
    values.iter().map(|value| value - total).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// log σ(x), also where σ(x) is 0.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// Cross-entropy between `shares` and the continuations' shares of likelihood.
pub fn choice(logps: &[f64], shares: &[f64]) -> (f64, Vec<f64>) {
    let log_probs = log_softmax(logps);
    let loss = -log_probs
        .iter()
        .zip(shares)
        .filter(|(_, share)| **share > 0.0)
        .map(|(log_probs, share)| share * log_probs)
        .sum::<f64>();
    (loss, log_probs.iter().zip(shares).map(|(log_probs, share)| log_probs.exp() - share).collect())
}

/// −log of the share of likelihood that the marked continuations have together.
pub fn among(logps: &[f64], marked: &[bool]) -> (f64, Vec<f64>) {
    let log_probs = log_softmax(logps);
    let kept: Vec<f64> = log_probs
        .iter()
        .zip(marked)
        .filter(|(_, marked)| **marked)
        .map(|(log_probs, _)| *log_probs)
        .collect();
    let total = log_sum_exp(&kept);
    let share = |log_probs: f64, marked: bool| if marked { (log_probs - total).exp() } else { 0.0 };
    (
        -total,
        log_probs
            .iter()
            .zip(marked)
            .map(|(log_probs, marked)| log_probs.exp() - share(*log_probs, *marked))
            .collect(),
    )
}

/// β log Z of QRPO where nothing is known of the other answers: rewards' quantiles are uniform
/// under the reference, so that Z = ∫₀¹ e^{q/β} dq = β (e^{1/β} − 1) (Matrenok et al. 2025, arXiv
/// 2507.08068).
pub fn qrpo_partition(beta: f64) -> f64 {
    beta * beta.ln() + 1.0 + beta * (-(-1.0 / beta).exp()).ln_1p()
}

/// QRPO of one answer: `(q − β log Z − β (log π − log π_ref))²`, its gradient by log π.
pub fn qrpo(logp: f64, reference: f64, quantile: f64, beta: f64) -> (f64, f64) {
    let error = quantile - qrpo_partition(beta) - beta * (logp - reference);
    (error * error, -2.0 * beta * error)
}

/// QRPO where every choice can be enumerated: π and π_ref are the choices' shares of likelihood,
/// and the partition is the exact sum `Z = Σ π_ref e^{q/β}`. The quantile of a choice is the
/// reference's probability of a smaller reward and half of that of the same one: choices have few
/// different rewards, and with ties counted whole, what the base is sure of would keep a high
/// quantile however bad it is. The mean over choices.
pub fn qrpo_choices(
    logps: &[f64],
    references: &[f64],
    rewards: &[f64],
    beta: f64,
) -> (f64, Vec<f64>) {
    let (log_probs, reference) = (log_softmax(logps), log_softmax(references));
    let quantiles = quantiles(&reference, rewards);
    let partition = log_sum_exp(
        &reference.iter().zip(&quantiles).map(|(p, q)| p + q / beta).collect::<Vec<_>>(),
    );
    let count = logps.len() as f64;
    let errors: Vec<f64> = log_probs
        .iter()
        .zip(&reference)
        .zip(&quantiles)
        .map(|((p, r), q)| q - beta * partition - beta * (p - r))
        .collect();
    let loss = errors.iter().map(|error| error * error).sum::<f64>() / count;
    // by the shares' logarithms, then through the softmax
    let by_share: Vec<f64> = errors.iter().map(|error| -2.0 * beta * error / count).collect();
    let total: f64 = by_share.iter().sum();
    (loss, log_probs.iter().zip(by_share).map(|(p, d)| d - p.exp() * total).collect())
}

/// The quantile of each choice's reward under the reference, given its choices' log-probabilities;
/// ties count half.
fn quantiles(reference: &[f64], rewards: &[f64]) -> Vec<f64> {
    let weight = |other: f64, own: f64| {
        if other < own { 1.0 } else { f64::from(u8::from(other == own)) / 2.0 }
    };
    rewards
        .iter()
        .map(|own| {
            reference.iter().zip(rewards).map(|(p, other)| p.exp() * weight(*other, *own)).sum()
        })
        .collect()
}

/// KTO's reference point: the mean of log π − log π_ref over answers paired with other prompts, at
/// least 0 (Ethayarajh et al. 2024, arXiv 2402.01306). No gradient goes through it.
pub fn kto_reference_point(mismatched: &[(f64, f64)]) -> f64 {
    if mismatched.is_empty() {
        return 0.0;
    }
    (mismatched.iter().map(|(logp, reference)| logp - reference).sum::<f64>()
        / mismatched.len() as f64)
        .max(0.0)
}

/// KTO of one answer: `λ (1 − σ(± β (log π − log π_ref − z)))`, + where it was liked.
pub fn kto(
    logp: f64,
    reference: f64,
    liked: bool,
    point: f64,
    settings: &LossSettings,
) -> (f64, f64) {
    let (sign, weight) =
        if liked { (1.0, settings.desirable) } else { (-1.0, settings.undesirable) };
    let value = sigmoid(sign * settings.beta * (logp - reference - point));
    (weight * (1.0 - value), -weight * sign * settings.beta * value * (1.0 - value))
}

/// DPO (Rafailov et al. 2023, arXiv 2305.18290): `−log σ(β ((log π − log π_ref)(preferred) − (log π
/// − log π_ref)(other)))`.
pub fn dpo(logps: [f64; 2], references: [f64; 2], beta: f64) -> (f64, [f64; 2]) {
    let margin = beta * ((logps[0] - references[0]) - (logps[1] - references[1]));
    let slope = -beta * sigmoid(-margin);
    (-log_sigmoid(margin), [slope, -slope])
}

/// GRPO's advantages: rewards less their mean, over their standard deviation (Shao et al. 2024,
/// arXiv 2402.03300); all 0 where rewards are the same.
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let count = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / count;
    let deviation =
        (rewards.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / count).sqrt();
    rewards
        .iter()
        .map(|reward| if deviation > 1e-8 { (reward - mean) / (deviation + 1e-4) } else { 0.0 })
        .collect()
}

/// GRPO of one answer, token by token: the clipped ratio to the policy that drew it, less `kl`
/// times the estimate `π_ref/π − log(π_ref/π) − 1` of the divergence from the reference; the mean
/// over tokens, to be made small.
pub fn grpo(
    logps: &[f64],
    old: &[f64],
    references: &[f64],
    advantage: f64,
    settings: &LossSettings,
) -> (f64, Vec<f64>) {
    let count = logps.len().max(1) as f64;
    let (mut loss, mut gradient) = (0.0, Vec::with_capacity(logps.len()));
    for ((logp, old), reference) in logps.iter().zip(old).zip(references) {
        let ratio = (logp - old).exp();
        let clipped = ratio.clamp(1.0 - settings.clip, 1.0 + settings.clip);
        let (free, bound) = (ratio * advantage, clipped * advantage);
        let away = reference - logp;
        loss -= (free.min(bound) - settings.kl * (away.exp() - away - 1.0)) / count;
        let by_ratio = if free <= bound { free } else { 0.0 };
        gradient.push((settings.kl * (1.0 - away.exp()) - by_ratio) / count);
    }
    (loss, gradient)
}
