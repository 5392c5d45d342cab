//! Paired bootstrap: tests whether the candidate is better than the active adapter on the same
//! questions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::random::SplitMix;

const RESAMPLES: usize = 10_000;

/// One question's scores, and its cluster: questions of one template are resampled together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The template, by which pairs are resampled.
    pub template: String,
    /// Score of the candidate.
    pub candidate: f64,
    /// Score of the active adapter.
    pub live: f64,
}

/// The result of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Number of pairs.
    pub questions: usize,
    /// Number of templates.
    pub templates: usize,
    /// Mean score of the candidate.
    pub candidate: f64,
    /// Mean score of the active adapter.
    pub live: f64,
    /// The mean difference.
    pub gain: f64,
    /// The 95 % interval of the mean difference.
    pub interval: [f64; 2],
    /// The one-sided significance level.
    pub level: f64,
    /// The lower bound of the mean difference at that level.
    pub bound: f64,
    /// Whether the bound is above 0.
    pub better: bool,
}

/// Compares by resampling templates with replacement (Efron 1979; clusters: Davison and Hinkley
/// 1997, section 3.8). The same pairs and seed give the same result; without pairs, or when all
/// differences are equal, the candidate is not better.
pub fn compare(pairs: &[Pair], level: f64, seed: u64) -> Compared {
    let mean = |value: &dyn Fn(&Pair) -> f64| {
        pairs.iter().map(value).sum::<f64>() / pairs.len().max(1) as f64
    };
    let mut clusters: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for pair in pairs {
        let cluster = clusters.entry(&pair.template).or_default();
        cluster.0 += pair.candidate - pair.live;
        cluster.1 += 1.0;
    }
    let clusters: Vec<(f64, f64)> = clusters.into_values().collect();
    let mut random = SplitMix(seed);
    let mut means: Vec<f64> = if clusters.is_empty() {
        vec![0.0]
    } else {
        let draw = |_| {
            let (sum, count) = (0..clusters.len())
                .map(|_| clusters[random.below(clusters.len())])
                .fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
            sum / count
        };
        (0..RESAMPLES).map(draw).collect()
    };
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((means.len() - 1) as f64 * share).round() as usize];
    let bound = at(level);
    Compared {
        questions: pairs.len(),
        templates: clusters.len(),
        candidate: mean(&|pair| pair.candidate),
        live: mean(&|pair| pair.live),
        gain: mean(&|pair| pair.candidate - pair.live),
        interval: [at(0.025), at(0.975)],
        level,
        bound,
        better: bound > 0.0,
    }
}

/// The significance level of test number `tries` on the same evidence, counted from 1:
/// `alpha / 2^(tries - 1)`, so that the family-wise error rate of all tests is at most `2 alpha`
/// (alpha spending).
pub fn level(alpha: f64, tries: u32) -> f64 {
    alpha * 0.5_f64.powi(tries.saturating_sub(1).min(60).cast_signed())
}
