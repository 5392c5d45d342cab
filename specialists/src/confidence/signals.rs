//! What one pass over an answer tells of whether it is right.

use serde::{Deserialize, Serialize};

use super::words::{fnv1a, words};

/// Numbers of the signals, and buckets for the answer's words.
const NUMBERS: u32 = 32;
const BUCKETS: u32 = 96;
/// Features of a [`Signals`].
pub(super) const FEATURES: usize = (NUMBERS + BUCKETS) as usize;
/// Words of an answer that count: choices are short.
const ANSWER_WORDS: usize = 16;
/// Log-odds beyond which a probability says no more.
const MOST_LOGIT: f64 = 6.0;

/// The signals of one answer; `None` where there is none of that kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signals {
    /// Of a generated answer, over its tokens' distributions, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_entropy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_entropy: Option<f64>,
    /// Mean log-probability (nats) of the answer's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_logprob: Option<f64>,
    /// In the order of the choices, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<f64>,
    /// Share of the answer that its evidence supports, in [0, 1].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub support: Option<f64>,
    /// Pieces of evidence, and the best one's score.
    pub evidence: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_evidence: Option<f64>,
    /// Whether a query over tables decided, or what was learned about such queries did; `None` where the language model did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided_by_query: Option<bool>,
    /// Of a question about two people: whether the text tells them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_apart: Option<bool>,
    /// Others' probability of Yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior: Option<f64>,
    /// A forecast's probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Whether the caller gave a text to answer from.
    pub context: bool,
    /// The answer ended by itself.
    pub complete: bool,
    /// How likely the model finds that its answer is true (Kadavath et al. 2022, "Language Models (Mostly) Know What They Know").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_true: Option<f64>,
    /// The answer itself, which the decision holds: its words count, and it is not written a second time.
    #[serde(skip)]
    pub answer: String,
}

fn logit(p: f64) -> f64 {
    // at the ends the logarithm is infinite, which the bound cuts
    (p / (1.0 - p)).ln().clamp(-MOST_LOGIT, MOST_LOGIT)
}

impl Signals {
    /// The likeliest choice's probability, its lead over the second, and the entropy as a share of the largest possible.
    fn of_choices(&self) -> Option<(f64, f64, f64)> {
        let mut sorted = self.choices.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let (first, second) = (*sorted.first()?, *sorted.get(1)?);
        let entropy: f64 = sorted.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        Some((first, first - second, entropy / (sorted.len() as f64).ln()))
    }

    /// As a linear model reads them. Every number is finite, whatever the signals are.
    pub(super) fn features(&self) -> Vec<(u32, f32)> {
        let mut numbers: Vec<Option<f64>> = Vec::with_capacity(NUMBERS as usize);
        let flag = |yes: bool| yes.then_some(1.0);
        let of_choices = self.of_choices();
        numbers.extend([
            of_choices.map(|(first, ..)| logit(first)),
            of_choices.map(|(_, margin, _)| margin),
            of_choices.map(|(.., entropy)| entropy),
        ]);
        numbers.extend([2, 3, 4].map(|count| flag(self.choices.len() == count)));
        numbers.push(flag(self.choices.len() > 4));
        numbers.extend([self.mean_entropy, self.max_entropy.map(|entropy| entropy / 2.0), self.mean_logprob]);
        numbers.extend([self.support, flag(self.support.is_some()), flag(self.evidence > 0), self.best_evidence]);
        for told in [self.decided_by_query, self.told_apart] {
            numbers.extend([true, false].map(|yes| flag(told == Some(yes))));
        }
        let yes = self.answer.trim_start().to_lowercase().starts_with("yes");
        let side = if yes { 1.0 } else { -1.0 };
        numbers.extend([
            flag(self.prior.is_some()),
            self.prior.map(|prior| logit(prior).abs()),
            self.prior.map(|prior| side * logit(prior)),
        ]);
        numbers.extend([self.probability.map(|p| logit(p).abs()), flag(self.context), flag(!self.complete)]);
        let answer = words(&self.answer);
        numbers.extend([Some((1.0 + answer.len() as f64).ln()), flag(self.p_true.is_some()), self.p_true.map(logit)]);
        let numbered = numbers.into_iter().zip(0_u32..NUMBERS).filter_map(|(value, index)| {
            // a signal may be any number: what is none says nothing
            let value = value.filter(|value| value.is_finite())?.clamp(-1e3, 1e3) as f32;
            (value != 0.0).then_some((index, value))
        });
        let mut features: Vec<(u32, f32)> = numbered.collect();
        let counted = answer.len().min(ANSWER_WORDS);
        let each = 1.0 / (counted.max(1) as f32).sqrt();
        // what an answer's words mean depends on whether the text tells the people apart
        let state = match self.told_apart {
            Some(true) => "apart",
            Some(false) => "alike",
            None => "",
        };
        for word in &answer[..counted] {
            for term in [format!("{word} {}", self.choices.len()), format!("{word} {state}")] {
                // below BUCKETS
                features.push((NUMBERS + (fnv1a(&term) % u64::from(BUCKETS)) as u32, each));
            }
        }
        features
    }
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
                    decided_by_query: Some(count == 0),
                    told_apart: Some(count == 1),
                    prior: some,
                    probability: some,
                    context: true,
                    complete: false,
                    p_true: some,
                    answer: "yes \u{1f319} 12".repeat(count),
                };
                for (index, value) in signals.features() {
                    assert!((index as usize) < FEATURES && value.is_finite(), "{index}: {value}");
                }
            }
        }
        assert!(Signals::default().features().len() <= 2);
    }

    #[test]
    fn choices_are_read_by_lead_and_spread() {
        let of = |choices: &[f64]| Signals { choices: choices.to_vec(), ..Signals::default() }.of_choices();
        let (first, margin, entropy) = of(&[0.1, 0.7, 0.2]).unwrap();
        assert!((first - 0.7).abs() < 1e-12 && (margin - 0.5).abs() < 1e-12 && entropy < 0.75);
        assert!((of(&[0.25; 4]).unwrap().2 - 1.0).abs() < 1e-12);
        assert_eq!((of(&[]), of(&[1.0])), (None, None));
    }

    #[test]
    fn signals_keep_everything_but_the_answer() {
        let signals = Signals { choices: vec![0.25, 0.75], told_apart: Some(true), answer: "no".into(), ..Signals::default() };
        let back: Signals = serde_json::from_value(serde_json::to_value(&signals).unwrap()).unwrap();
        assert_eq!(back, Signals { answer: String::new(), ..signals });
    }
}
