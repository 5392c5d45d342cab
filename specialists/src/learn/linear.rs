//! Multinomial logistic regression over sparse features.

use serde::{Deserialize, Serialize};

use super::minimise::minimise;

const STEPS: usize = 300;
/// Tolerance on the largest entry of the gradient, a mean over the examples.
const TOLERANCE: f64 = 1e-6;

/// One training example.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Pairs of a feature's index and its value; omitted features are 0.
    pub features: Vec<(u32, f32)>,
    /// Index of the class.
    pub class: usize,
    /// Its weight, above 0.
    pub weight: f64,
}

/// `P(class | x) = softmax(W x + b)`. With two classes, class 1's probability is logistic
/// regression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearModel {
    /// `[classes][features]`
    weights: Vec<Vec<f32>>,
    /// `[classes]`
    bias: Vec<f32>,
}

impl LinearModel {
    /// Maximises the likelihood less `l2 / 2` times the squared weights (not the bias), both
    /// averaged over the examples' weight: strictly convex, so the solution is unique. Features
    /// outside `0..features` are ignored. Classes without examples keep a bias as low as the other
    /// classes' examples make it.
    pub fn fit(examples: &[Example], classes: usize, features: usize, l2: f64) -> Self {
        let width = features + 1;
        let total: f64 =
            examples.iter().map(|example| example.weight).sum::<f64>().max(f64::MIN_POSITIVE);
        let mut logits = vec![0.0; classes];
        let found = minimise(vec![0.0; classes * width], STEPS, TOLERANCE, |at, gradient| {
            gradient.fill(0.0);
            let mut loss = 0.0;
            for example in examples {
                let known = || {
                    example.features.iter().filter(|(feature, _)| (*feature as usize) < features)
                };
                for (class, logit) in logits.iter_mut().enumerate() {
                    let row = &at[class * width..(class + 1) * width];
                    *logit = row[features]
                        + known()
                            .map(|&(feature, value)| row[feature as usize] * f64::from(value))
                            .sum::<f64>();
                }
                let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let normaliser =
                    best + logits.iter().map(|logit| (logit - best).exp()).sum::<f64>().ln();
                let share = example.weight / total;
                loss +=
                    share * (normaliser - logits.get(example.class).copied().unwrap_or(normaliser));
                for (class, logit) in logits.iter().enumerate() {
                    let error = share
                        * ((logit - normaliser).exp()
                            - f64::from(u8::from(class == example.class)));
                    let row = &mut gradient[class * width..(class + 1) * width];
                    row[features] += error;
                    known().for_each(|&(feature, value)| {
                        row[feature as usize] += error * f64::from(value)
                    });
                }
            }
            for (row, slopes) in at.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
                for (weight, slope) in row[..features].iter().zip(&mut slopes[..features]) {
                    loss += l2 / 2.0 * weight * weight;
                    *slope += l2 * weight;
                }
            }
            loss
        });
        let rows = found.chunks_exact(width);
        Self {
            weights: rows
                .clone()
                .map(|row| row[..features].iter().map(|weight| *weight as f32).collect())
                .collect(),
            bias: rows.map(|row| row[features] as f32).collect(),
        }
    }

    /// A model with these weights `[classes][features]`; `None` when the shapes do not agree or a
    /// number is not finite.
    pub fn new(weights: Vec<Vec<f32>>, bias: Vec<f32>) -> Option<Self> {
        let model = Self { weights, bias };
        model.is_sound().then_some(model)
    }

    /// Whether the shapes agree and every number is finite; checks a model read from a file.
    pub fn is_sound(&self) -> bool {
        let features = self.features();
        self.weights.len() == self.bias.len()
            && !self.bias.is_empty()
            && self
                .weights
                .iter()
                .all(|row| row.len() == features && row.iter().all(|weight| weight.is_finite()))
            && self.bias.iter().all(|bias| bias.is_finite())
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.bias.len()
    }

    /// Number of features.
    pub fn features(&self) -> usize {
        self.weights.first().map_or(0, Vec::len)
    }

    /// `W x + b`, one per class.
    pub fn logits(&self, features: &[(u32, f32)]) -> Vec<f64> {
        let rows = self.weights.iter().zip(&self.bias);
        rows.map(|(row, bias)| {
            let known = features.iter().filter_map(|(feature, value)| {
                Some(f64::from(*row.get(*feature as usize)?) * f64::from(*value))
            });
            f64::from(*bias) + known.sum::<f64>()
        })
        .collect()
    }

    /// One per class; they sum to 1.
    pub fn probabilities(&self, features: &[(u32, f32)]) -> Vec<f64> {
        let logits = self.logits(features);
        let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = logits.iter().map(|logit| (logit - best).exp()).collect();
        let total: f64 = shares.iter().sum();
        shares.into_iter().map(|share| share / total).collect()
    }

    /// Rounds each weight to `digits` decimal places, for a file that users and version control
    /// read.
    #[must_use]
    pub fn rounded(mut self, digits: i32) -> Self {
        let scale = 10_f32.powi(digits);
        let round = |value: &mut f32| *value = (*value * scale).round() / scale;
        self.weights.iter_mut().flatten().for_each(round);
        self.bias.iter_mut().for_each(round);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rng::TestRng;

    fn example(x: f32, class: usize) -> Example {
        Example { features: vec![(0, x)], class, weight: 1.0 }
    }

    #[test]
    fn without_features_it_learns_the_base_rates() {
        let examples: Vec<Example> = (0..100)
            .map(|i| Example { features: vec![], class: usize::from(i < 20), weight: 1.0 })
            .collect();
        let model = LinearModel::fit(&examples, 2, 0, 0.1);
        assert!((model.probabilities(&[])[1] - 0.2).abs() < 1e-4);
        let doubled: Vec<Example> = examples
            .iter()
            .map(|example| Example { weight: 1.0 + example.class as f64, ..example.clone() })
            .collect();
        assert!(
            (LinearModel::fit(&doubled, 2, 0, 0.1).probabilities(&[])[1] - 1.0 / 3.0).abs() < 1e-4
        );
    }

    /// The gradient at the solution is zero: mean of (p - y) x + l2 w = 0.
    #[test]
    fn the_answer_is_a_stationary_point() {
        let mut random = TestRng::new();
        let mut uniform = || (2.0 * random.unit() - 1.0) as f32;
        let examples: Vec<Example> = (0..300)
            .map(|i| {
                let x: Vec<(u32, f32)> = (0..3).map(|feature| (feature, uniform())).collect();
                Example {
                    class: if x[0].1 + 0.5 * uniform() > 0.0 {
                        1
                    } else {
                        2 * usize::from(i % 3 == 0)
                    },
                    features: x,
                    weight: 1.0,
                }
            })
            .collect();
        let l2 = 0.01;
        let model = LinearModel::fit(&examples, 3, 3, l2);
        for class in 0..3 {
            for feature in 0..3 {
                let slope: f64 = examples
                    .iter()
                    .map(|example| {
                        let p = model.probabilities(&example.features)[class];
                        (p - f64::from(u8::from(example.class == class)))
                            * f64::from(example.features[feature].1)
                    })
                    .sum::<f64>()
                    / examples.len() as f64
                    + l2 * f64::from(model.weights[class][feature]);
                assert!(slope.abs() < 1e-5, "class {class}, feature {feature}: {slope}");
            }
        }
    }

    #[test]
    fn separable_classes_are_separated() {
        let examples = [example(-2.0, 0), example(-1.0, 0), example(1.0, 1), example(2.0, 1)];
        let model = LinearModel::fit(&examples, 2, 1, 0.01).rounded(3);
        assert!(model.probabilities(&[(0, 1.5)])[1] > 0.8);
        assert!(model.probabilities(&[(0, -1.5)])[1] < 0.2);
        // a feature without training examples has no weight
        assert_eq!(model.probabilities(&[(0, 1.5), (7, 9.0)]), model.probabilities(&[(0, 1.5)]));
    }

    #[test]
    fn a_file_with_wrong_shapes_is_not_sound() {
        assert!(LinearModel::new(vec![vec![0.0], vec![1.0]], vec![0.0, 0.0]).is_some());
        assert!(LinearModel::new(vec![vec![0.0], vec![1.0, 2.0]], vec![0.0, 0.0]).is_none());
        assert!(LinearModel::new(vec![vec![0.0], vec![f32::NAN]], vec![0.0, 0.0]).is_none());
        assert!(LinearModel::new(vec![], vec![]).is_none());
        assert!(LinearModel::new(vec![vec![0.0]], vec![0.0, 0.0]).is_none());
    }
}
