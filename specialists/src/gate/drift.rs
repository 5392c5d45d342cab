//! The watch over a generation that is live: have its rewards fallen below what was predicted?

use serde::{Deserialize, Serialize};

/// How far below its prediction, in standard deviations, a reward may lie on average.
const SLACK: f64 = 0.25;
/// The smallest deviation that residuals are measured in: rewards that never differ would alarm at anything.
const LEAST: f64 = 0.05;
/// Residuals from which the deviation is estimated before anything is judged.
const FIRST: u32 = 20;

/// The one-sided test of Page (1954) and Hinkley (1971): sums up how far rewards lie below what was predicted, less a slack, never below 0; an alarm
/// where that sum passes a threshold. Residuals are measured in their own standard deviations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PageHinkley {
    threshold: f64,
    count: u32,
    mean: f64,
    squares: f64,
    sum: f64,
}

impl PageHinkley {
    /// Alarms by mistake once in `false_alarm_interval` rewards, on average.
    pub fn new(false_alarm_interval: f64) -> Self {
        Self { threshold: threshold(false_alarm_interval), count: 0, mean: 0.0, squares: 0.0, sum: 0.0 }
    }

    /// Takes a reward and what was predicted of it; true is an alarm, after which it begins anew.
    pub fn push(&mut self, predicted: f64, reward: f64) -> bool {
        let residual = reward - predicted;
        if !residual.is_finite() {
            return false;
        }
        // what is judged is measured by what came before
        let deviation = (self.squares / f64::from(self.count.max(2) - 1)).sqrt().max(LEAST);
        let judged = self.count >= FIRST;
        // Welford's
        self.count += 1;
        let away = residual - self.mean;
        self.mean += away / f64::from(self.count);
        self.squares += away * (residual - self.mean);
        if !judged {
            return false;
        }
        self.sum = (self.sum - residual / deviation - SLACK).max(0.0);
        if self.sum > self.threshold {
            *self = Self { threshold: self.threshold, count: 0, mean: 0.0, squares: 0.0, sum: 0.0 };
            return true;
        }
        false
    }

    /// How far it is from an alarm, in [0, 1].
    pub fn alarm(&self) -> f64 {
        (self.sum / self.threshold).min(1.0)
    }
}

/// The threshold at which a false alarm comes once in `false_alarm_interval` values of mean 0 and deviation 1, on average: Siegmund's approximation of the
/// average run length (Siegmund 1985, "Sequential Analysis", equation 10.20), solved for the threshold.
pub fn threshold(false_alarm_interval: f64) -> f64 {
    let length = |h: f64| {
        let b = 2.0 * SLACK * (h + 1.166);
        (b.exp() - b - 1.0) / (2.0 * SLACK * SLACK)
    };
    let (mut low, mut high) = (0.0, 200.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if length(middle) < false_alarm_interval { low = middle } else { high = middle }
    }
    high
}
