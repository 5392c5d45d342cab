//! Statistics: proportions with intervals, paired differences, and word overlap.

use nyx_specialists::gate::{Pair, compare};
use nyx_specialists::tokens::tokens;
use serde::Serialize;

/// The standard normal's 97.5 % point.
const Z: f64 = 1.959_963_985;

/// Wilson's 95 % interval of a proportion (Wilson 1927); `[0, 1]` for an empty sample.
pub(crate) fn wilson(right: usize, count: usize) -> [f64; 2] {
    if count == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (count as f64, right as f64 / count as f64);
    let centre = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0)]
}

/// A mean with its 95 % interval by the percentile bootstrap (Efron 1979).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    pub mean: f64,
    pub interval: [f64; 2],
}

/// The mean of `values`, which are paired differences where two systems answered the same
/// questions. The same seed gives the same interval.
pub(crate) fn bootstrap(values: &[f64], seed: u64) -> Option<Mean> {
    let pair = |(at, value): (usize, &f64)| Pair {
        template: at.to_string(),
        candidate: *value,
        live: 0.0,
    };
    let compared = compare(&values.iter().enumerate().map(pair).collect::<Vec<_>>(), 0.025, seed);
    (!values.is_empty()).then_some(Mean { mean: compared.gain, interval: compared.interval })
}

/// Words without articles, as SQuAD compares answers, whose texts are English (Rajpurkar et al.
/// 2016).
fn answer_words(text: &str) -> Vec<String> {
    tokens(text).into_iter().filter(|word| !["a", "an", "the"].contains(&word.as_str())).collect()
}

/// Token F1 of an answer: the harmonic mean of its words' precision and recall.
pub(crate) fn token_f1(answer: &str, truth: &str) -> f64 {
    let (answer, mut truth) = (answer_words(answer), answer_words(truth));
    let (said, expected) = (answer.len(), truth.len());
    if said == 0 || expected == 0 {
        return f64::from(u8::from(said == expected));
    }
    let mut common = 0;
    for word in answer {
        if let Some(at) = truth.iter().position(|other| *other == word) {
            truth.swap_remove(at);
            common += 1;
        }
    }
    2.0 * f64::from(common) / (said + expected) as f64
}

/// Share of `evidence` in the first `k` of `found`.
pub(crate) fn recall_at(found: &[String], evidence: &[String], k: usize) -> f64 {
    let hits =
        evidence.iter().filter(|turn| found.iter().take(k).any(|found| found == *turn)).count();
    hits as f64 / evidence.len().max(1) as f64
}

/// Reciprocal rank of the first piece of evidence; 0 when none was found.
pub(crate) fn reciprocal_rank(found: &[String], evidence: &[String]) -> f64 {
    found.iter().position(|found| evidence.contains(found)).map_or(0.0, |at| 1.0 / (at + 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilsons_interval_of_known_samples() {
        let [low, high] = wilson(8, 10);
        assert!((low - 0.4902).abs() < 1e-4 && (high - 0.9433).abs() < 1e-4, "{low} {high}");
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
        assert!(wilson(0, 20)[0] == 0.0 && wilson(20, 20)[1] == 1.0);
    }

    #[test]
    fn the_bootstrap_covers_the_mean_and_repeats_itself() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(i % 10)).collect();
        let mean = bootstrap(&values, 7).unwrap();
        assert!((mean.mean - 4.5).abs() < 1e-12);
        // the standard error is 2.87 / sqrt(200) = 0.203
        assert!(
            (mean.interval[0] - 4.1).abs() < 0.05 && (mean.interval[1] - 4.9).abs() < 0.05,
            "{mean:?}"
        );
        assert_eq!(bootstrap(&values, 7), Some(mean));
        assert_eq!(bootstrap(&[], 7), None);
    }

    #[test]
    fn f1_counts_words_once() {
        assert_eq!(token_f1("The Prius!", "prius"), 1.0);
        assert_eq!(token_f1("red red car", "a red car"), 0.8);
        assert_eq!(token_f1("blue", "red"), 0.0);
        assert_eq!(token_f1("", "the"), 1.0);
    }

    #[test]
    fn recall_and_rank_of_evidence() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (found, evidence) = (names(&["a", "b", "c", "d"]), names(&["c", "x"]));
        assert_eq!((recall_at(&found, &evidence, 2), recall_at(&found, &evidence, 3)), (0.0, 0.5));
        assert_eq!(reciprocal_rank(&found, &evidence), 1.0 / 3.0);
        assert_eq!(reciprocal_rank(&found, &names(&["z"])), 0.0);
    }
}
