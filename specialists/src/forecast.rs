//! Forecasts: pools the probabilities that the language model states, its likelihoods of two
//! choices, and a prior from the caller into one probability.

use nyx_domain::Forecast;

use crate::odds::{log_odds, sigmoid};

/// When several opinions are pooled, each is clamped to this distance from 0 and 1: a certain and
/// wrong one would dominate.
const SUREST: f64 = 0.995;

/// Pools opinions; `None` without one from the language model. Several opinions of one kind
/// count as one, the mean of their log-odds. The prior has the same weight as the model's:
/// nothing is known yet about which is better, and equal weights are hard to beat (Clemen 1989,
/// "Combining Forecasts"). A single opinion is used unchanged.
pub fn pool(prior: Option<f64>, choice: Option<f64>, stated: Vec<f64>) -> Option<Forecast> {
    let own: Vec<f64> = choice.iter().chain(&stated).copied().collect();
    let probability = match (own.as_slice(), prior) {
        ([], _) => return None,
        ([one], None) => one.clamp(0.0, 1.0),
        (own, prior) => {
            let model = own.iter().map(|p| log_odds(*p, SUREST)).sum::<f64>() / own.len() as f64;
            sigmoid(prior.map_or(model, |prior| f64::midpoint(model, log_odds(prior, SUREST))))
        }
    };
    Some(Forecast { prior, choice, stated, probability })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(prior: Option<f64>, stated: &[f64]) -> Option<f64> {
        pool(prior, None, stated.to_vec()).map(|forecast| forecast.probability)
    }

    #[test]
    fn what_is_stated_alone_is_the_forecast() {
        for p in [0.0, 0.3, 1.0] {
            assert_eq!(pooled(None, &[p]), Some(p));
            assert_eq!(
                pool(None, Some(p), Vec::new()).map(|forecast| forecast.probability),
                Some(p)
            );
        }
        assert_eq!(
            (pooled(None, &[]), pooled(Some(0.4), &[])),
            (None, None),
            "a prior is no forecast of the model's"
        );
    }

    #[test]
    fn opinions_are_pooled_by_the_mean_of_their_log_odds() {
        let near = |found: Option<f64>, expected: f64| {
            assert!((found.unwrap() - expected).abs() < 1e-9, "{found:?}, {expected}")
        };
        near(pooled(None, &[0.2, 0.8]), 0.5);
        // odds of 1 to 9 and 9 to 1, and of 1 to 4 with 1 to 1
        near(pooled(Some(0.9), &[0.1]), 0.5);
        near(pooled(Some(0.2), &[0.5]), 1.0 / 3.0);
        // three sampled answers are one opinion beside the prior
        near(pooled(Some(0.9), &[0.1, 0.1, 0.1]), 0.5);
        near(pooled(None, &[1.0, 1.0]), SUREST);
        near(pooled(Some(f64::NAN), &[0.5]), 0.5);
        let mut last = 0.0;
        for prior in [0.0, 0.05, 0.5, 0.95, 1.0] {
            let p = pooled(Some(prior), &[0.3]).unwrap();
            assert!(p > last && p < 1.0, "{prior}: {p}");
            last = p;
        }
    }
}
