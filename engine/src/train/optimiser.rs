//! AdamW (Loshchilov and Hutter 2019) with gradient clipping by norm and a cosine schedule.

use serde::{Deserialize, Serialize};

/// Settings of AdamW (Loshchilov and Hutter 2019) and its learning-rate schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Peak learning rate, reached at the end of the warm-up.
    pub learning_rate: f64,
    /// Exponential decay of the first moment.
    pub beta1: f64,
    /// Exponential decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator for numerical stability.
    pub epsilon: f64,
    /// Coefficient of decoupled weight decay.
    pub weight_decay: f64,
    /// Maximum L2 norm of the gradient; a larger gradient is scaled down to it.
    pub clip: f64,
    /// Warm-up steps as a fraction of all steps.
    pub warmup: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            learning_rate: 5e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            warmup: 0.03,
        }
    }
}

impl AdamW {
    /// Returns the name and value of the first setting that is out of range.
    pub(super) fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: f64, low: f64, high: f64| {
            if value.is_finite() && value >= low && value < high {
                Ok(())
            } else {
                Err(format!("{name} is {value}, expected at least {low} and below {high}"))
            }
        };
        within("learning_rate", self.learning_rate, 0.0, 1.0)?;
        within("beta1", self.beta1, 0.0, 1.0)?;
        within("beta2", self.beta2, 0.0, 1.0)?;
        within("epsilon", self.epsilon, 1e-30, 1.0)?;
        within("weight_decay", self.weight_decay, 0.0, 1.0)?;
        within("clip", self.clip, 1e-12, f64::INFINITY)?;
        within("warmup", self.warmup, 0.0, 1.0)
    }

    /// The learning rate of step `step` (from 0) of `steps`: linear warm-up, then a half cosine
    /// down to 0.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let warmup = (self.warmup * steps as f64).ceil();
        let at = step as f64;
        if at < warmup {
            return self.learning_rate * (at + 1.0) / warmup;
        }
        let gone = (at - warmup) / (steps as f64 - warmup).max(1.0);
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * gone.min(1.0)).cos())
    }
}

/// The optimiser's state: first and second moments, laid out as the trained values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moments {
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
    /// Number of completed steps.
    pub(super) step: u64,
}

impl Moments {
    pub(super) fn new(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len], step: 0 }
    }

    /// Performs one step of `steps` with the scheduled learning rate; returns the gradient's norm
    /// before clipping.
    pub(super) fn step(
        &mut self,
        settings: &AdamW,
        steps: u64,
        values: &mut [f32],
        gradient: &[f32],
    ) -> f64 {
        self.step_at(settings, settings.rate(self.step, steps), values, gradient)
    }

    /// Performs one step at learning rate `rate`; returns the gradient's norm before clipping.
    pub(super) fn step_at(
        &mut self,
        settings: &AdamW,
        rate: f64,
        values: &mut [f32],
        gradient: &[f32],
    ) -> f64 {
        // in chunks of fixed size, so that the sum has the same bits on every machine
        let norm = gradient
            .chunks(4096)
            .map(|part| part.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>())
            .sum::<f64>()
            .sqrt();
        let clip = if norm > settings.clip { (settings.clip / norm) as f32 } else { 1.0 };
        self.step += 1;
        let power = self.step.min(i32::MAX as u64) as i32;
        let (fixed1, fixed2) = (1.0 - settings.beta1.powi(power), 1.0 - settings.beta2.powi(power));
        let (b1, b2) = (settings.beta1 as f32, settings.beta2 as f32);
        let (size, root) = ((rate / fixed1) as f32, (1.0 / fixed2.sqrt()) as f32);
        let (epsilon, shrink) =
            (settings.epsilon as f32, (1.0 - rate * settings.weight_decay) as f32);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(moments) {
            let g = gradient * clip;
            *first = b1 * *first + (1.0 - b1) * g;
            *second = b2 * *second + (1.0 - b2) * g * g;
            *value = *value * shrink - size * *first / (second.sqrt() * root + epsilon);
        }
        norm
    }
}
