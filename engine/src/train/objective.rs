//! Training objectives. Each loss is a function of log-probabilities and returns its value with the
//! analytic gradient by those log-probabilities.
//!
//! The log-probability of a continuation is the sum over its tokens, in nats; `reference` is the
//! log-probability under the reference policy: the base model without an adapter.

use serde::{Deserialize, Serialize};

/// The label of an example's continuations, which selects the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingTarget {
    /// Supervised fine-tuning on the one continuation. Loss: mean −log p over its tokens.
    Answer,
    /// Choice likelihood: the target distribution over the continuations, one share per
    /// continuation, which sum to 1. Loss: cross-entropy, see [`choice`].
    Distribution(Vec<f64>),
    /// Choice likelihood with partial labels (Jin and Ghahramani 2002): the correct continuation is
    /// one of those marked `true`. Loss: −log of their total share, see [`any_of`].
    AnyOf(Vec<bool>),
    /// QRPO over all choices: one reward per continuation. Loss: see [`qrpo_choices`].
    Rewards(Vec<f64>),
    /// QRPO of the one continuation; the value is the quantile, 0 to 1, of its reward among the
    /// rewards of reference answers. Loss: see [`qrpo`].
    Quantile(f64),
    /// KTO: whether the one continuation got positive feedback. Loss: see [`kto`].
    Desirable(bool),
    /// DPO of two continuations, of which the first is preferred. Loss: see [`dpo`].
    Pair,
    /// Regularisation: the one continuation keeps its likelihood under the reference. Loss: the
    /// mean over its tokens of (log π − log π_ref)², times [`LossSettings::anchor`].
    Anchor,
    /// GRPO: continuations sampled from the policy, one reward each. Loss: see [`grpo`].
    Group(Vec<f64>),
}

/// Training objectives selectable by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Supervised fine-tuning: cross-entropy of the correct answer.
    Sft,
    /// Cross-entropy over the choices' normalised likelihoods.
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

    /// Parses an objective's [`name`](Self::name).
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones.
    pub fn parse(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|objective| objective.name() == name)
            .ok_or_else(|| format!("unknown objective {name:?}, expected one of {names}"))
    }

    /// The name used on the command line and in the database.
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
    /// Whether the loss needs log-probabilities under the reference policy.
    pub fn needs_reference(&self) -> bool {
        !matches!(self, Self::Answer | Self::Distribution(_) | Self::AnyOf(_))
    }

    /// Validates the target for an example with this number of continuations.
    ///
    /// # Errors
    /// The number of continuations or a value of the target is invalid; the message names it.
    pub fn check(&self, continuations: usize) -> Result<(), String> {
        let (expected, finite) = match self {
            Self::Answer | Self::Anchor | Self::Desirable(_) => (1, true),
            Self::Quantile(q) => (1, (0.0..=1.0).contains(q)),
            Self::Pair => (2, true),
            Self::Distribution(shares) => (
                shares.len(),
                (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6 && shares.iter().all(|s| *s >= 0.0),
            ),
            Self::AnyOf(marked) => (marked.len(), marked.contains(&true)),
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
                "{self:?} is invalid, expected shares that sum up to 1, at least one mark, a \
                 quantile from 0 to 1, or finite rewards"
            ))
        }
    }
}

/// Hyperparameters of the losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossSettings {
    /// β of QRPO, KTO and DPO.
    pub beta: f64,
    /// Weight of examples with positive feedback (KTO).
    pub desirable: f64,
    /// Weight of examples with negative feedback (KTO).
    pub undesirable: f64,
    /// Clip range ε of the probability ratio (GRPO).
    pub clip: f64,
    /// Weight of the KL term (GRPO).
    pub kl: f64,
    /// Weight of the loss of [`TrainingTarget::Anchor`].
    pub anchor: f64,
}

impl Default for LossSettings {
    fn default() -> Self {
        Self { beta: 0.1, desirable: 1.0, undesirable: 1.0, clip: 0.2, kl: 0.04, anchor: 1.0 }
    }
}

/// log Σ e^x over `values`, shifted by the maximum so that it does not overflow.
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

/// log σ(x), finite also where σ(x) underflows to 0.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// Cross-entropy between the target `shares` and the softmax of `logps`. Returns the loss and its
/// gradient by each of `logps`.
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

/// −log of the marked continuations' total probability under the softmax of `logps`. Returns the
/// loss and its gradient by each of `logps`.
pub fn any_of(logps: &[f64], marked: &[bool]) -> (f64, Vec<f64>) {
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

/// β log Z of QRPO when the other answers are not enumerated: reward quantiles are uniform under
/// the reference, so Z = ∫₀¹ e^{q/β} dq = β (e^{1/β} − 1) (Matrenok et al. 2025, arXiv 2507.08068).
pub fn qrpo_partition(beta: f64) -> f64 {
    beta * beta.ln() + 1.0 + beta * (-(-1.0 / beta).exp()).ln_1p()
}

/// QRPO of one answer: the loss `(q − β log Z − β (log π − log π_ref))²` and its gradient by log π.
pub fn qrpo(logp: f64, reference: f64, quantile: f64, beta: f64) -> (f64, f64) {
    let error = quantile - qrpo_partition(beta) - beta * (logp - reference);
    (error * error, -2.0 * beta * error)
}

/// QRPO over enumerated choices: π and π_ref are softmaxes over the choices, and the partition
/// function is the exact sum `Z = Σ π_ref e^{q/β}`. The quantile of a choice is the reference
/// probability of a smaller reward plus half that of an equal reward: rewards of choices take few
/// distinct values, and if ties counted in full, a choice to which the base gives a high
/// probability would keep a high quantile even with a low reward. Returns the mean loss over the
/// choices and its gradient by each of `logps`.
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
    // gradient by the log-softmax values, then through the softmax
    let by_share: Vec<f64> = errors.iter().map(|error| -2.0 * beta * error / count).collect();
    let total: f64 = by_share.iter().sum();
    (loss, log_probs.iter().zip(by_share).map(|(p, d)| d - p.exp() * total).collect())
}

/// The quantile of each choice's reward under the reference, whose log-softmax over the choices is
/// `reference`; ties count half.
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

/// KTO's reference point: the mean of log π − log π_ref over answers paired with other prompts,
/// given as (log π, log π_ref), and at least 0 (Ethayarajh et al. 2024, arXiv 2402.01306). It is a
/// constant of the loss: no gradient is propagated through it.
pub fn kto_reference_point(mismatched: &[(f64, f64)]) -> f64 {
    if mismatched.is_empty() {
        return 0.0;
    }
    (mismatched.iter().map(|(logp, reference)| logp - reference).sum::<f64>()
        / mismatched.len() as f64)
        .max(0.0)
}

/// KTO of one answer: the loss `λ (1 − σ(± β (log π − log π_ref − z)))` with `z` = `point`, + for
/// positive feedback (`liked`), and its gradient by log π.
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
/// − log π_ref)(other)))`, index 0 being the preferred answer. Returns the loss and its gradient by
/// each of `logps`.
pub fn dpo(logps: [f64; 2], references: [f64; 2], beta: f64) -> (f64, [f64; 2]) {
    let margin = beta * ((logps[0] - references[0]) - (logps[1] - references[1]));
    let slope = -beta * sigmoid(-margin);
    (-log_sigmoid(margin), [slope, -slope])
}

/// GRPO's advantages: rewards minus their mean, divided by their standard deviation (Shao et al.
/// 2024, arXiv 2402.03300); all 0 when the rewards are equal.
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

/// GRPO of one answer, from the log-probabilities of its tokens under the policy, the sampling
/// policy (`old`) and the reference. Loss: the negative mean over tokens of the clipped ratio
/// objective minus `kl` times `π_ref/π − log(π_ref/π) − 1`, an estimate of the KL divergence from
/// the reference. Returns the loss and its gradient by each of `logps`.
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
