//! Drift monitor of an active generation: detects a fall of its rewards below their prediction.

use serde::{Deserialize, Serialize};

/// Slack: how far below its prediction, in standard deviations, a reward may be on average.
const SLACK: f64 = 0.25;
/// Lower bound on the standard deviation of residuals: rewards that never vary would alarm at any
/// change.
const LEAST: f64 = 0.05;
/// Number of residuals from which the deviation is estimated before the test starts.
const FIRST: u32 = 20;

/// The one-sided test of Page (1954) and Hinkley (1971): accumulates the shortfall of rewards below
/// their prediction, less a slack, never below 0; an alarm is raised when the sum exceeds a
/// threshold. Residuals are standardised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PageHinkley {
    threshold: f64,
    count: u32,
    mean: f64,
    squares: f64,
    sum: f64,
}

impl PageHinkley {
    /// Raises a false alarm once in `false_alarm_interval` rewards, on average.
    pub fn new(false_alarm_interval: f64) -> Self {
        Self {
            threshold: threshold(false_alarm_interval),
            count: 0,
            mean: 0.0,
            squares: 0.0,
            sum: 0.0,
        }
    }

    /// Observes a reward and its prediction; returns true for an alarm, after which the test
    /// restarts.
    pub fn push(&mut self, predicted: f64, reward: f64) -> bool {
        let residual = reward - predicted;
        if !residual.is_finite() {
            return false;
        }
        // standardised with the statistics of the earlier residuals
        let deviation = (self.squares / f64::from(self.count.max(2) - 1)).sqrt().max(LEAST);
        let judged = self.count >= FIRST;
        // Welford's algorithm
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

    /// The accumulated sum as a fraction of the alarm threshold, in [0, 1].
    pub fn alarm(&self) -> f64 {
        (self.sum / self.threshold).min(1.0)
    }
}

/// The threshold with one false alarm in `false_alarm_interval` values of mean 0 and deviation 1,
/// on average: Siegmund's approximation of the average run length (Siegmund 1985, "Sequential
/// Analysis", equation 10.20), solved for the threshold.
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
