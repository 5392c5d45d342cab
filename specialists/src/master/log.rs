//! Learning the head from the log of what choices earned.

use chrono::{DateTime, Utc};

use super::{Asked, MasterHead};
use crate::bandit::{Estimate, LoggedChoice, best, doubly_robust, imputed, mean_interval, propensities, softmax};
use crate::learn::LinearModel;
use crate::learn::minimise::minimise;
use crate::master::fnv1a;

/// Penalty of the squared distance from the present head: at least this, and more with few decisions.
const LEAST_PENALTY: f64 = 1e-3;
const PENALTY_DECISIONS: f64 = 3.0;
/// One in so many questions is held back, with all of its askings.
const HELD_BACK: u64 = 3;
/// Fewer decisions on either side teach and show nothing.
const LEAST_DECISIONS: usize = 30;
const STEPS: usize = 200;
const TOLERANCE: f64 = 1e-6;
const DIGITS: i32 = 3;

/// A drawn decision whose reward is known, as the head would read it again.
#[derive(Debug, Clone)]
pub struct LoggedRouting {
    pub question: String,
    pub embedding: Vec<f32>,
    pub now: DateTime<Utc>,
    pub deadline_ms: u64,
    /// The base model's, in the order of the names.
    pub scores: Vec<f64>,
    pub choice: LoggedChoice,
}

/// How the head's logits become a draw.
#[derive(Debug, Clone, Copy)]
pub struct Serving<'a> {
    /// The candidates.
    pub names: &'a [String],
    /// Their trait weights.
    pub weights: &'a [f64],
    pub temperature: f64,
    pub epsilon: f64,
}

impl Serving<'_> {
    /// The propensities of one decision's candidates.
    pub fn policy(&self, head: Option<&MasterHead>, row: &LoggedRouting) -> Vec<f64> {
        propensities(&self.logits(head, row), self.temperature, self.epsilon)
    }

    /// What decides: the head's logits (the scores, without one) with the trait weights.
    pub fn logits(&self, head: Option<&MasterHead>, row: &LoggedRouting) -> Vec<f64> {
        let heads = head.map_or_else(|| row.scores.clone(), |head| head.logits(self.names, &row.scores, &row.asked()));
        heads.iter().zip(self.weights).map(|(head, weight)| head + weight).collect()
    }

    /// All on the highest logit.
    pub fn greedy(&self, head: Option<&MasterHead>, row: &LoggedRouting) -> Vec<f64> {
        let logits = self.logits(head, row);
        let best = best(&logits);
        (0..logits.len()).map(|index| if Some(index) == best { 1.0 } else { 0.0 }).collect()
    }
}

impl LoggedRouting {
    fn asked(&self) -> Asked<'_> {
        Asked { question: &self.question, embedding: &self.embedding, now: self.now, deadline_ms: self.deadline_ms }
    }

    /// By its question, so that one asked twice is never on both sides.
    fn is_held_back(&self) -> bool {
        // a hash's low bits are those of its last character
        (fnv1a(&self.question.trim().to_lowercase()) >> 17).is_multiple_of(HELD_BACK)
    }
}

/// Whether what was learned may replace the present head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogReport {
    pub learned_from: usize,
    pub held_back: usize,
    /// Doubly robust, on the decisions held back.
    pub present: Estimate,
    pub candidate: Estimate,
    /// Of pairs: what the candidate earns more on the same decision.
    pub gain: Estimate,
}

impl LogReport {
    /// The gain's one-sided 95 % lower bound is above 0.
    pub fn passes(&self) -> bool {
        self.gain.lower_bound() > 0.0
    }
}

/// Learns a head that earns more by this log, beginning with the present one, and measures it on questions held back: the rewards that each candidate
/// would have earned are imputed without bias (Dudík, Langford, Li 2011) and the policy that is served, trait weights included, climbs their mean, less a
/// penalty of the squared distance from the present parameters. The same decisions in the same order give the same head.
///
/// # Errors
/// There are too few decisions, or none among specialists that the head knows.
pub fn fit_log(present: &MasterHead, serving: &Serving<'_>, log: &[LoggedRouting]) -> Result<(MasterHead, LogReport), String> {
    let (held_back, learned_from): (Vec<&LoggedRouting>, Vec<&LoggedRouting>) = log.iter().partition(|row| row.is_held_back());
    if held_back.len() < LEAST_DECISIONS || learned_from.len() < LEAST_DECISIONS {
        return Err(format!(
            "there are {} rewarded decisions to learn from and {} held back, expected at least {LEAST_DECISIONS} of each",
            learned_from.len(),
            held_back.len()
        ));
    }
    let candidate = climb(present, serving, &learned_from)?;
    let choices: Vec<LoggedChoice> = held_back.iter().map(|row| row.choice).collect();
    let scores = |head: &MasterHead| {
        let target: Vec<Vec<f64>> = held_back.iter().map(|row| serving.policy(Some(head), row)).collect();
        doubly_robust(&choices, &target)
    };
    let (before, after) = (scores(present), scores(&candidate));
    let gains: Vec<f64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    let estimate = |values: &[f64]| mean_interval(values).ok_or_else(|| "fewer than two decisions are held back".to_owned());
    let report = LogReport {
        learned_from: learned_from.len(),
        held_back: held_back.len(),
        present: estimate(&before)?,
        candidate: estimate(&after)?,
        gain: estimate(&gains)?,
    };
    Ok((candidate, report))
}

/// One decision, prepared for the climb over the specialists that the head knows.
struct Prepared {
    features: Vec<(u32, f32)>,
    /// `unit / temperature × score_gain × score + trait weight`, one a known class.
    offsets: Vec<f64>,
    rewards: Vec<f64>,
}

fn climb(present: &MasterHead, serving: &Serving<'_>, log: &[&LoggedRouting]) -> Result<MasterHead, String> {
    // the place of each class among the candidates
    let places: Vec<Option<usize>> = present.names.iter().map(|name| serving.names.iter().position(|known| known == name)).collect();
    if places.iter().flatten().count() < 2 {
        return Err(format!("the head knows {:?}, expected at least two of {:?}", present.names, serving.names));
    }
    let choices: Vec<LoggedChoice> = log.iter().map(|row| row.choice).collect();
    let imputed = imputed(&choices, serving.names.len());
    let scale = present.unit / present.temperature;
    let prepared: Vec<Prepared> = log
        .iter()
        .zip(imputed)
        .map(|(row, rewards)| {
            let of = |values: &[f64], place: Option<usize>| place.and_then(|place| values.get(place)).copied().unwrap_or(0.0);
            let offset = |place: &Option<usize>| match place {
                Some(_) => scale * present.score_gain * of(&row.scores, *place) + of(serving.weights, *place),
                // never drawn
                None => f64::NEG_INFINITY,
            };
            Prepared {
                features: MasterHead::features(present.dimension, present.buckets, &row.asked()),
                offsets: places.iter().map(offset).collect(),
                rewards: places.iter().map(|place| of(&rewards, *place)).collect(),
            }
        })
        .collect();
    let (classes, features) = (present.model.classes(), present.model.features());
    let width = features + 1;
    let start = present.model.parameters();
    let count = prepared.len() as f64;
    let penalty = LEAST_PENALTY.max(PENALTY_DECISIONS / count);
    let found = minimise(start.clone(), STEPS, TOLERANCE, |at, gradient| {
        let mut loss = 0.0;
        for (index, slope) in gradient.iter_mut().enumerate() {
            let moved = at[index] - start[index];
            loss += penalty / 2.0 * moved * moved;
            *slope = penalty * moved;
        }
        for row in &prepared {
            let known = || row.features.iter().filter(|(feature, _)| (*feature as usize) < features);
            let logits: Vec<f64> = (0..classes)
                .map(|class| {
                    let weights = &at[class * width..(class + 1) * width];
                    let raw =
                        weights[features] + known().map(|&(feature, value)| weights[feature as usize] * f64::from(value)).sum::<f64>();
                    scale * raw + row.offsets[class]
                })
                .collect();
            let shares = softmax(&logits, serving.temperature);
            let mean: f64 = shares.iter().zip(&row.rewards).map(|(share, reward)| share * reward).sum();
            loss -= mean / count;
            for (class, (share, reward)) in shares.iter().zip(&row.rewards).enumerate() {
                let error = -share * (reward - mean) * scale / serving.temperature / count;
                let slopes = &mut gradient[class * width..(class + 1) * width];
                slopes[features] += error;
                known().for_each(|&(feature, value)| slopes[feature as usize] += error * f64::from(value));
            }
        }
        loss
    });
    let model = LinearModel::of_parameters(&found, features).ok_or("what was learned is not finite")?.rounded(DIGITS);
    Ok(MasterHead { model, ..present.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::TIME_FEATURES;
    use crate::seeded::Seeded;

    const TEXTS: [(&str, usize); 3] = [("how is the weather", 0), ("who was that again", 1), ("prices will rise", 2)];

    fn head() -> MasterHead {
        let (dimension, buckets) = (2, 64);
        let rows = vec![vec![0.0; dimension + buckets + TIME_FEATURES]; 3];
        let names: Vec<String> = ["a", "b", "c"].iter().map(|name| (*name).to_owned()).collect();
        let model = LinearModel::new(rows, vec![0.0; 3]).unwrap();
        MasterHead { names, dimension, buckets, temperature: 1.0, score_gain: 0.0, unit: 0.5, probe: vec![1.0, 0.0], model }
    }

    /// Questions of three kinds, each with its own right answerer where `learnable`, else nobody is better than the others.
    fn log(learnable: bool, seed: u64) -> Vec<LoggedRouting> {
        let mut random = Seeded::of(seed);
        (0..600)
            .map(|index| {
                let (text, right) = TEXTS[random.below(3)];
                let chosen = random.below(3);
                let chance = if learnable && chosen == right { 0.9 } else { 0.3 };
                let reward = if random.unit() < chance { 1.0 } else { -1.0 };
                let choice = LoggedChoice { kind: 0, chosen, propensity: 1.0 / 3.0, common: 1.0, reward };
                let question = format!("{text} {}", "x".repeat(index % 40));
                let (embedding, now) = (vec![1.0, 0.0], DateTime::UNIX_EPOCH);
                LoggedRouting { question, embedding, now, deadline_ms: 1_000, scores: vec![0.0; 3], choice }
            })
            .collect()
    }

    #[test]
    fn the_log_teaches_whom_to_choose_and_noise_does_not_pass() {
        let (head, weights) = (head(), [0.0, 0.2, 0.0]);
        let serving = Serving { names: head.names(), weights: &weights, temperature: 0.5, epsilon: 0.02 };
        let (learned, report) = fit_log(&head, &serving, &log(true, 5)).unwrap();
        assert!(report.passes() && report.gain.value > 0.2, "{report:?}");
        assert!((report.candidate.value - report.present.value - report.gain.value).abs() < 1e-9);
        for row in log(true, 5).iter().take(30) {
            let right = TEXTS.iter().find(|(text, _)| row.question.starts_with(text)).unwrap().1;
            assert_eq!(best(&serving.logits(Some(&learned), row)), Some(right), "{}", row.question);
            assert_eq!(serving.greedy(Some(&learned), row)[right], 1.0);
        }
        // one in twenty would pass by chance
        let passed = (1..=10).filter(|seed| fit_log(&head, &serving, &log(false, *seed)).unwrap().1.passes()).count();
        assert!(passed <= 2, "{passed} of 10 heads passed that learned from noise");
        assert!(fit_log(&head, &serving, &log(true, 5)[..40]).unwrap_err().contains("held back"));
    }
}
