//! Sequential test of a canary's rewards: a confidence sequence by betting, valid at every sample
//! size.

use serde::{Deserialize, Serialize};

/// Number of candidate means tested against the rewards.
const GRID: usize = 200;
/// Maximum fraction of the capital that one bet may risk.
const TRUNCATION: f64 = 0.5;

/// The hedged capital process for the mean of values in [0, 1], with predictable plug-in bets
/// (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS
/// B, sections 4.2 and B): a mean is in the confidence set until the capital of a bet against it
/// reaches `1/α`.
#[derive(Debug, Clone)]
pub struct BettingSequence {
    alpha: f64,
    count: u32,
    mean: f64,
    /// Σ (x − running mean)², with a prior of a quarter.
    squares: f64,
    sum: f64,
    /// For every mean of the grid, the log capital of the bets above and below it.
    capital: Vec<(f64, f64)>,
    low: usize,
    high: usize,
}

impl BettingSequence {
    /// The error probability is at most `alpha`, over all time.
    pub fn new(alpha: f64) -> Self {
        Self {
            alpha,
            count: 0,
            mean: 0.5,
            squares: 0.25,
            sum: 0.0,
            capital: vec![(0.0, 0.0); GRID + 1],
            low: 0,
            high: GRID,
        }
    }

    /// Number of observations.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The mean of the observed values; a half before the first.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.5 } else { self.sum / f64::from(self.count) }
    }

    /// Observes a value, clamped to [0, 1]; NaN counts as 0.
    pub fn push(&mut self, value: f64) {
        let x = if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) };
        let t = f64::from(self.count + 1);
        // bets are placed before the value is observed
        let variance = self.squares / t;
        let bet = (2.0 * (2.0 / self.alpha).ln() / (variance * t * (t + 1.0).ln())).sqrt();
        for (at, (above, below)) in self.capital.iter_mut().enumerate() {
            let m = at as f64 / GRID as f64;
            *above += (1.0 + bet.min(TRUNCATION / m.max(1e-9)) * (x - m)).ln();
            *below += (1.0 - bet.min(TRUNCATION / (1.0 - m).max(1e-9)) * (x - m)).ln();
        }
        self.count += 1;
        self.sum += x;
        self.mean = (0.5 + self.sum) / (t + 1.0);
        self.squares += (x - self.mean).powi(2);
        // the interval never widens
        let limit = (2.0 / self.alpha).ln();
        let refuted = |(above, below): &(f64, f64)| above.max(*below) >= limit;
        while self.low < self.high && refuted(&self.capital[self.low]) {
            self.low += 1;
        }
        while self.high > self.low && refuted(&self.capital[self.high]) {
            self.high -= 1;
        }
    }

    /// The confidence interval of the mean, widened by one grid step on both sides.
    pub fn interval(&self) -> [f64; 2] {
        [
            self.low.saturating_sub(1) as f64 / GRID as f64,
            (self.high + 1).min(GRID) as f64 / GRID as f64,
        ]
    }
}

/// The state of a canary test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryVerdict {
    /// Undecided so far.
    Open,
    /// The canary is better.
    Better,
    /// The canary is not better.
    Worse,
    /// The maximum number of pairs was compared without a decision: the canary is retired.
    Undecided,
}

/// Compares a canary with the active adapter: rewards in [-1, 1] of the two, paired in order of
/// arrival.
#[derive(Debug, Clone)]
pub struct CanaryTrial {
    sequence: BettingSequence,
    most: u32,
    canary: Vec<f64>,
    live: Vec<f64>,
    verdict: CanaryVerdict,
}

impl CanaryTrial {
    /// Decides at level `alpha`, after at most `most` pairs.
    pub fn new(alpha: f64, most: u32) -> Self {
        Self {
            sequence: BettingSequence::new(alpha),
            most,
            canary: Vec::new(),
            live: Vec::new(),
            verdict: CanaryVerdict::Open,
        }
    }

    /// Observes a reward of the canary or of the active adapter.
    pub fn push(&mut self, of_canary: bool, reward: f64) -> CanaryVerdict {
        if self.verdict != CanaryVerdict::Open {
            return self.verdict;
        }
        if of_canary {
            self.canary.push(reward)
        } else {
            self.live.push(reward)
        }
        while let Some((canary, live)) = self.next_pair() {
            // a difference in [-2, 2]
            self.sequence.push((canary - live + 2.0) / 4.0);
            let [low, high] = self.sequence.interval();
            self.verdict = if low > 0.5 {
                CanaryVerdict::Better
            } else if high < 0.5 {
                CanaryVerdict::Worse
            } else if self.sequence.count() >= self.most {
                CanaryVerdict::Undecided
            } else {
                continue;
            };
            break;
        }
        self.verdict
    }

    fn next_pair(&self) -> Option<(f64, f64)> {
        let at = self.sequence.count() as usize;
        Some((*self.canary.get(at)?, *self.live.get(at)?))
    }

    /// The verdict, once there is one.
    pub fn verdict(&self) -> CanaryVerdict {
        self.verdict
    }

    /// Number of pairs compared.
    pub fn pairs(&self) -> u32 {
        self.sequence.count()
    }

    /// The confidence interval of the mean reward difference, in [-2, 2].
    pub fn interval(&self) -> [f64; 2] {
        self.sequence.interval().map(|x| 4.0 * x - 2.0)
    }
}
