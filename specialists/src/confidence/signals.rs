//! Signals of one answer from which its correctness is predicted.

use nyx_domain::Signals;
use sha2::{Digest as _, Sha256};

use crate::odds::log_odds;
use crate::tokens::tokens;

/// Number of numeric features, and of hash buckets for the answer's words.
const NUMBERS: u32 = 22;
const BUCKETS: u32 = 96;
/// Number of features of a [`Signals`].
pub(super) const FEATURES: usize = (NUMBERS + BUCKETS) as usize;
/// Maximum number of an answer's words that are used: choices are short.
const ANSWER_WORDS: usize = 16;
/// Probabilities are clamped to this distance from 0 and 1.
const SUREST: f64 = 0.997_5;

fn logit(p: f64) -> f64 {
    log_odds(p, SUREST)
}

/// The hash bucket of a word: the same on every machine and in every version.
fn bucket(term: &str) -> u32 {
    let digest = Sha256::digest(term.as_bytes());
    u32::from(u16::from_be_bytes([digest[0], digest[1]])) % BUCKETS
}

/// The top choice's probability, its lead over the second, and the entropy as a fraction of the
/// maximum.
fn of_choices(signals: &Signals) -> Option<(f64, f64, f64)> {
    let mut sorted = signals.choices.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (first, second) = (*sorted.first()?, *sorted.get(1)?);
    let entropy: f64 = sorted.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
    Some((first, first - second, entropy / (sorted.len() as f64).ln()))
}

/// Features for the linear model. Every number is finite, whatever the signals are.
pub(super) fn features(signals: &Signals) -> Vec<(u32, f32)> {
    let mut numbers: Vec<Option<f64>> = Vec::with_capacity(NUMBERS as usize);
    let flag = |yes: bool| yes.then_some(1.0);
    let of_choices = of_choices(signals);
    numbers.extend([
        of_choices.map(|(first, ..)| logit(first)),
        of_choices.map(|(_, margin, _)| margin),
        of_choices.map(|(.., entropy)| entropy),
    ]);
    numbers.extend([2, 3, 4].map(|count| flag(signals.choices.len() == count)));
    numbers.push(flag(signals.choices.len() > 4));
    numbers.extend([
        signals.mean_entropy,
        signals.max_entropy.map(|entropy| entropy / 2.0),
        signals.mean_logprob,
    ]);
    numbers.extend([
        signals.support,
        flag(signals.support.is_some()),
        flag(signals.evidence > 0),
        signals.best_evidence,
    ]);
    numbers.extend([flag(signals.prior.is_some()), signals.prior.map(|prior| logit(prior).abs())]);
    numbers.extend([
        signals.probability.map(|p| logit(p).abs()),
        flag(signals.context),
        flag(!signals.complete),
    ]);
    let answer = tokens(&signals.answer);
    numbers.extend([
        Some((1.0 + answer.len() as f64).ln()),
        flag(signals.p_true.is_some()),
        signals.p_true.map(logit),
    ]);
    let numbered = numbers.into_iter().zip(0_u32..NUMBERS).filter_map(|(value, index)| {
        // a signal may hold any number: NaN and infinities are ignored
        let value = value.filter(|value| value.is_finite())?.clamp(-1e3, 1e3) as f32;
        (value != 0.0).then_some((index, value))
    });
    let mut features: Vec<(u32, f32)> = numbered.collect();
    let counted = answer.len().min(ANSWER_WORDS);
    let each = 1.0 / (counted.max(1) as f32).sqrt();
    features.extend(answer.iter().take(counted).map(|word| (NUMBERS + bucket(word), each)));
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_finite_and_in_place_whatever_the_signals() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, 0.5, 1.0, 2.0, f64::MAX];
        for value in odd {
            for count in 0..6 {
                let some = Some(value);
                let signals = Signals {
                    mean_entropy: some,
                    max_entropy: some,
                    mean_logprob: some,
                    choices: vec![value; count],
                    support: some,
                    evidence: count,
                    best_evidence: some,
                    prior: some,
                    probability: some,
                    context: true,
                    complete: false,
                    p_true: some,
                    answer: "yes \u{1f319} 12".repeat(count),
                };
                for (index, value) in features(&signals) {
                    assert!((index as usize) < FEATURES && value.is_finite(), "{index}: {value}");
                }
            }
        }
        assert!(features(&Signals::default()).len() <= 2);
    }

    #[test]
    fn choices_are_read_by_lead_and_spread() {
        let of = |choices: &[f64]| {
            of_choices(&Signals { choices: choices.to_vec(), ..Signals::default() })
        };
        let (first, margin, entropy) = of(&[0.1, 0.7, 0.2]).unwrap();
        assert!((first - 0.7).abs() < 1e-12 && (margin - 0.5).abs() < 1e-12 && entropy < 0.75);
        assert!((of(&[0.25; 4]).unwrap().2 - 1.0).abs() < 1e-12);
        assert_eq!((of(&[]), of(&[1.0])), (None, None));
    }

    #[test]
    fn signals_keep_everything_but_the_answer() {
        let signals = Signals {
            choices: vec![0.25, 0.75],
            support: Some(0.5),
            answer: "no".into(),
            ..Signals::default()
        };
        let back: Signals =
            serde_json::from_value(serde_json::to_value(&signals).unwrap()).unwrap();
        assert_eq!(back, Signals { answer: String::new(), ..signals });
    }
}
