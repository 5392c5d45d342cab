//! Ranking memories by relevance that fades with age.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{TimeReading, recurring_similarity};
use crate::learn::{Example, LearnedPart, LinearModel};

/// Half-lives that are tried, in seconds: an hour to two centuries, which is as good as never.
const SHORTEST: f64 = 3_600.0;
const LONGEST: f64 = 200.0 * 31_557_600.0;
const STEPS: usize = 60;
const NARROWINGS: usize = 40;
/// Nats of log-likelihood that tell two half-lives apart: half of the chi-square of one degree of freedom at 95 %.
const TOLD_APART: f64 = 1.92;
/// On the slope: as good as none, and still one answer.
const RIDGE: f64 = 1e-6;

/// How Kairos ranks, as it was learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Seconds after which a memory's relevance counts half.
    pub half_life_s: f64,
    /// What fitting the weekday, hours or season that a question names adds to the relevance (a cosine) at most.
    pub recurring_weight: f64,
    /// What lying in the stretch of time that a question names adds.
    pub interval_weight: f64,
    /// `P(useful) = 1 / (1 + exp(-(offset + slope * faded relevance)))`.
    pub slope: f64,
    pub offset: f64,
}

impl LearnedPart for Timing {
    const KIND: &'static str = "timing";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        let Self { half_life_s, recurring_weight, interval_weight, slope, offset } = *self;
        if !(half_life_s.is_finite() && half_life_s > 0.0) {
            return Err(format!("half_life_s is {half_life_s}, expected seconds above 0"));
        }
        for (key, weight) in [("recurring_weight", recurring_weight), ("interval_weight", interval_weight)] {
            if !(0.0..=10.0).contains(&weight) {
                return Err(format!("{key} is {weight}, expected 0 to 10"));
            }
        }
        for (key, value) in [("slope", slope), ("offset", offset)] {
            if !value.is_finite() {
                return Err(format!("{key} is {value}, expected a number"));
            }
        }
        Ok(())
    }
}

/// One memory that was found for a question, and whether it turned out useful.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimingExample {
    /// Cosine similarity to the question.
    pub relevance: f64,
    /// Seconds from the memory to the question, at least 0.
    pub age_s: f64,
    pub useful: bool,
}

/// A memory to rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub relevance: f64,
    pub when: Option<DateTime<Utc>>,
}

/// The share of its relevance that a memory keeps: `2^(-age / half-life)`.
pub fn faded(age_s: f64, half_life_s: f64) -> f64 {
    (-age_s.max(0.0) / half_life_s).exp2()
}

impl Timing {
    /// The half-life under which the outcomes are likeliest, by maximum likelihood of `P(useful) = σ(offset + slope · relevance · 2^(−age/half-life))`: for
    /// each half-life of a grid on a log scale the other two are fitted by logistic regression, then the best one is narrowed down by golden sections. Of
    /// those that the outcomes cannot tell from it (a likelihood ratio of 95 %) the shortest is taken: among equals, newer is the safer bet. The
    /// weights are taken from `prior`, since they say what a question's own words of time are worth. `None` without useful and useless examples.
    pub fn fit(examples: &[TimingExample], prior: &Self) -> Option<Self> {
        let useful = examples.iter().filter(|example| example.useful).count();
        if useful == 0 || useful == examples.len() {
            return None;
        }
        let at = |step: f64| SHORTEST * (LONGEST / SHORTEST).powf(step / (STEPS - 1) as f64);
        let losses: Vec<f64> = (0..STEPS).map(|step| fitted(examples, at(step as f64)).0).collect();
        let best = losses.iter().enumerate().fold(0, |best, (step, loss)| if *loss < losses[best] { step } else { best });
        let (mut low, mut high) = ((best as f64 - 1.0).max(0.0), (best as f64 + 1.0).min((STEPS - 1) as f64));
        let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
        for _ in 0..NARROWINGS {
            let (left, right) = (high - golden * (high - low), low + golden * (high - low));
            if fitted(examples, at(left)).0 <= fitted(examples, at(right)).0 { high = right } else { low = left }
        }
        // what the outcomes cannot tell from the best: a likelihood ratio of 95 % (Wilks 1938)
        let best = f64::midpoint(low, high);
        let allowed = fitted(examples, at(best)).0 + TOLD_APART / examples.len() as f64;
        let (mut low, mut high) = (0.0, best);
        for _ in 0..NARROWINGS / 2 {
            let middle = f64::midpoint(low, high);
            if fitted(examples, at(middle)).0 <= allowed { high = middle } else { low = middle }
        }
        let half_life_s = at(high);
        let (_, slope, offset) = fitted(examples, half_life_s);
        Some(Self { half_life_s, slope, offset, ..*prior })
    }

    /// Mean negative log-likelihood of outcomes, in nats: to compare half-lives on examples that were not learned from.
    pub fn loss(&self, examples: &[TimingExample]) -> f64 {
        loss(examples, self.half_life_s, self.slope, self.offset)
    }

    /// The numbers of the candidates, best first, each with its score: `(cosine + recurring_weight · fit + interval_weight · inside) · 2^(−age/half-life)`.
    /// Where the question names a stretch of time, age does not count against what lies in it: it is what was asked for.
    pub fn rank(&self, candidates: &[Candidate], said: &TimeReading, now: DateTime<Utc>) -> Vec<(usize, f64)> {
        let score = |candidate: &Candidate| {
            let Some(when) = candidate.when else { return candidate.relevance };
            let inside = said.interval.is_some_and(|interval| interval.contains(when));
            let fit = recurring_similarity(said, when);
            let joint = candidate.relevance + self.recurring_weight * fit + self.interval_weight * if inside { 1.0 } else { 0.0 };
            let age_s = (now - when).num_milliseconds() as f64 / 1e3;
            // what speaks against a memory does not fade
            if inside || joint <= 0.0 { joint } else { joint * faded(age_s, self.half_life_s) }
        };
        let mut ranked: Vec<(usize, f64)> = candidates.iter().map(score).enumerate().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked
    }
}

fn loss(examples: &[TimingExample], half_life_s: f64, slope: f64, offset: f64) -> f64 {
    let of = |example: &TimingExample| {
        let logit = offset + slope * example.relevance * faded(example.age_s, half_life_s);
        let against = if example.useful { -logit } else { logit };
        // ln(1 + e^x) without overflow
        against.max(0.0) + (-against.abs()).exp().ln_1p()
    };
    examples.iter().map(of).sum::<f64>() / examples.len().max(1) as f64
}

/// The loss, slope and offset of the best logistic regression at a half-life.
fn fitted(examples: &[TimingExample], half_life_s: f64) -> (f64, f64, f64) {
    let of = |example: &TimingExample| {
        let feature = example.relevance * faded(example.age_s, half_life_s);
        Example { features: vec![(0, feature as f32)], class: usize::from(example.useful), weight: 1.0 }
    };
    let model = LinearModel::fit(&examples.iter().map(of).collect::<Vec<_>>(), 2, 1, RIDGE);
    let at = |feature: f32| {
        let logits = model.logits(&[(0, feature)]);
        logits[1] - logits[0]
    };
    let (offset, slope) = (at(0.0), at(1.0) - at(0.0));
    (loss(examples, half_life_s, slope, offset), slope, offset)
}
