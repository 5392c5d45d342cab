//! Calibration: maps from scores to probabilities.

use serde::{Deserialize, Serialize};

use super::{Example, LinearModel};
use crate::odds::sigmoid;

/// Platt scaling: `P = 1 / (1 + exp(-(slope * score + offset)))`, fitted with Platt's smoothed
/// targets (Platt 1999, "Probabilistic Outputs for Support Vector Machines").
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Platt {
    /// Slope of the logit.
    pub slope: f64,
    /// Offset of the logit.
    pub offset: f64,
}

impl Platt {
    /// Fits pairs of a score and whether it was correct; `None` unless both outcomes occur.
    pub fn fit(pairs: &[(f64, bool)]) -> Option<Self> {
        let right = pairs.iter().filter(|(_, right)| *right).count() as f64;
        let wrong = pairs.len() as f64 - right;
        if right == 0.0 || wrong == 0.0 {
            return None;
        }
        let (high, low) = ((right + 1.0) / (right + 2.0), 1.0 / (wrong + 2.0));
        let examples = pairs.iter().flat_map(|&(score, right)| {
            let target = if right { high } else { low };
            [(1, target), (0, 1.0 - target)].map(|(class, weight)| Example {
                features: vec![(0, score as f32)],
                class,
                weight,
            })
        });
        // a negligible penalty that still makes the solution unique
        let model = LinearModel::fit(&examples.collect::<Vec<_>>(), 2, 1, 1e-6);
        let at = |score: f32| {
            let logits = model.logits(&[(0, score)]);
            logits[1] - logits[0]
        };
        Some(Self { slope: at(1.0) - at(0.0), offset: at(0.0) })
    }

    /// Whether the parameters are valid; checks a map read from a file.
    pub fn is_sound(&self) -> bool {
        self.slope.is_finite() && self.offset.is_finite()
    }

    /// The calibrated probability of a score.
    pub fn apply(&self, score: f64) -> f64 {
        sigmoid(self.slope * score + self.offset)
    }
}

/// Isotonic regression: the non-decreasing step function closest to the outcomes, by pooling
/// adjacent violators (Ayer et al. 1955), with linear interpolation between the centres of its
/// steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Isotonic {
    /// Pairs of a score and its probability, both non-decreasing.
    points: Vec<(f64, f64)>,
}

impl Isotonic {
    /// Fits pairs of a score and whether it was correct; `None` without any, or with a score that
    /// is not finite. Each step is smoothed by one pseudo-example at the overall rate, so that no
    /// step is certain.
    pub fn fit(pairs: &[(f64, bool)]) -> Option<Self> {
        if pairs.is_empty() || pairs.iter().any(|(score, _)| !score.is_finite()) {
            return None;
        }
        let rate = pairs.iter().filter(|(_, right)| *right).count() as f64 / pairs.len() as f64;
        let mut sorted = pairs.to_vec();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        // (sum of scores, correct, count)
        let mut pools: Vec<(f64, f64, f64)> = Vec::new();
        let mut at = 0;
        while at < sorted.len() {
            // equal scores are one pool
            let end = at + sorted[at..].iter().take_while(|pair| pair.0 == sorted[at].0).count();
            let right = sorted[at..end].iter().filter(|pair| pair.1).count() as f64;
            let count = (end - at) as f64;
            pools.push((sorted[at].0 * count, right, count));
            at = end;
            while let [.., before, last] = pools.as_mut_slice()
                && before.1 * last.2 >= last.1 * before.2
            {
                *before = (before.0 + last.0, before.1 + last.1, before.2 + last.2);
                pools.pop();
            }
        }
        Some(
            Self {
                points: pools
                    .into_iter()
                    .map(|(sum, right, count)| (sum / count, (right + rate) / (count + 1.0)))
                    .collect(),
            }
            .monotone(),
        )
    }

    /// Smoothing shifts small pools more than large ones and may violate the order.
    fn monotone(mut self) -> Self {
        let mut highest = 0.0;
        for (_, probability) in &mut self.points {
            highest = f64::max(highest, *probability);
            *probability = highest;
        }
        self
    }

    /// Whether the map is valid, non-decreasing and within [0, 1]; checks a map read from a file.
    pub fn is_sound(&self) -> bool {
        let inside = |(score, p): &(f64, f64)| score.is_finite() && (0.0..=1.0).contains(p);
        self.points.iter().all(inside)
            && self.points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
    }

    /// The calibrated probability of a score.
    pub fn apply(&self, score: f64) -> f64 {
        let next = self.points.partition_point(|(at, _)| *at <= score);
        match (
            next.checked_sub(1).and_then(|before| self.points.get(before)),
            self.points.get(next),
        ) {
            (Some(&(low, p)), Some(&(high, q))) => p + (q - p) * (score - low) / (high - low),
            (Some(&(_, p)), None) | (None, Some(&(_, p))) => p,
            (None, None) => 0.5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rng::TestRng;

    /// Scores from -3 to 3, correct with the logistic probability of twice the score less 0.5.
    fn sample() -> Vec<(f64, bool)> {
        let mut random = TestRng::new();
        (0..20_000)
            .map(|_| {
                let score = 6.0 * random.unit() - 3.0;
                let p = sigmoid(2.0 * score - 0.5);
                (score, random.unit() < p)
            })
            .collect()
    }

    #[test]
    fn platt_finds_the_curve() {
        let platt = Platt::fit(&sample()).unwrap();
        assert!((platt.slope - 2.0).abs() < 0.1 && (platt.offset + 0.5).abs() < 0.1, "{platt:?}");
        assert_eq!(Platt::fit(&[(1.0, true), (2.0, true)]), None);
        // few examples never give certainty
        let few = Platt::fit(&[(0.0, false), (1.0, true)]).unwrap();
        assert!(few.apply(1.0) < 0.8 && few.apply(0.0) > 0.2, "{few:?}");
    }

    #[test]
    fn isotonic_follows_the_curve_and_never_falls() {
        let isotonic = Isotonic::fit(&sample()).unwrap();
        let mut last = 0.0;
        for step in 0..60 {
            let score = f64::from(step) / 10.0 - 3.0;
            let (found, truth) = (isotonic.apply(score), sigmoid(2.0 * score - 0.5));
            assert!((found - truth).abs() < 0.18, "{score}: {found} for {truth}");
            assert!(found >= last);
            last = found;
        }
        assert!(isotonic.apply(-9.0) > 0.0 && isotonic.apply(9.0) < 1.0);
    }

    #[test]
    fn isotonic_of_odd_input() {
        assert_eq!(Isotonic::fit(&[]), None);
        assert_eq!(Isotonic::fit(&[(f64::NAN, true)]), None);
        let one = Isotonic::fit(&[(0.3, true), (0.3, false)]).unwrap();
        assert!((one.apply(0.1) - 0.5).abs() < 1e-12 && (one.apply(0.9) - 0.5).abs() < 1e-12);
        // always falling: one step at the mean
        let falling =
            Isotonic::fit(&[(0.0, true), (1.0, true), (2.0, false), (3.0, false)]).unwrap();
        assert!((falling.apply(0.0) - falling.apply(3.0)).abs() < 1e-12);
    }
}
