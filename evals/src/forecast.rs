//! Moira's suite: scores probabilities against the market's and against a constant base rate.

use nyx_actors::NyxError;
use serde::Serialize;

use crate::ChoiceCase;
use crate::choices::{Answered, run};
use crate::environment::EvalEnvironment;
use crate::stats::{Mean, bootstrap};

/// Probabilities are clipped to this distance from 0 and 1, so that log scores are finite.
const FLOOR: f64 = 1e-3;

/// Forecasts of the same questions, with and without the market's prior.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ForecastReport {
    pub count: usize,
    /// Mean Brier score of Yes (0 is best), with the prior if the case has one.
    pub brier: f64,
    /// Mean log-probability of the outcome, in nats.
    pub log_score: f64,
    pub market_brier: f64,
    pub market_log_score: f64,
    /// Moira's Brier score minus the market's, paired: negative is better.
    pub over_market: Option<Mean>,
    /// The same forecasts without the market's prior.
    pub without_prior: WithoutPrior,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WithoutPrior {
    pub brier: f64,
    pub log_score: f64,
    /// The share of Yes in the training split, as a constant forecast; absent if that split does
    /// not exist.
    pub base_rate: Option<f64>,
    pub base_rate_brier: Option<f64>,
    /// Brier score minus the base rate's, paired: negative is better.
    pub over_base_rate: Option<Mean>,
}

/// A forecast of Yes and its outcome.
type Forecasts = Vec<(f64, bool)>;

fn brier((p, yes): (f64, bool)) -> f64 {
    (p - f64::from(u8::from(yes))).powi(2)
}

fn log_score((p, yes): (f64, bool)) -> f64 {
    let p = p.clamp(FLOOR, 1.0 - FLOOR);
    if yes { p.ln() } else { (1.0 - p).ln() }
}

fn mean(forecasts: &Forecasts, score: fn((f64, bool)) -> f64) -> f64 {
    forecasts.iter().map(|forecast| score(*forecast)).sum::<f64>() / forecasts.len().max(1) as f64
}

fn paired(ours: &Forecasts, theirs: &Forecasts, seed: u64) -> Option<Mean> {
    let differences: Vec<f64> =
        ours.iter().zip(theirs).map(|(ours, theirs)| brier(*ours) - brier(*theirs)).collect();
    bootstrap(&differences, seed)
}

/// The probability of the first choice, which is Yes, and its outcome.
fn forecasts(answers: &[Answered]) -> Forecasts {
    let forecast = |answer: &Answered| {
        (answer.probabilities().first().copied().unwrap_or(0.5), answer.case.answer == 0)
    };
    answers.iter().map(forecast).collect()
}

/// Share of Yes.
pub fn base_rate(cases: &[ChoiceCase]) -> Option<f64> {
    (!cases.is_empty())
        .then(|| cases.iter().filter(|case| case.answer == 0).count() as f64 / cases.len() as f64)
}

/// Scores `answers`, which were made with the prior, and repeats the questions without it.
///
/// # Errors
/// The first question that could not be answered.
pub async fn report(
    environment: &EvalEnvironment,
    answers: &[Answered],
    base_rate: Option<f64>,
) -> Result<ForecastReport, NyxError> {
    let blind = answers.iter().map(|answer| ChoiceCase { prior: None, ..answer.case.clone() });
    let blind = forecasts(&run(environment, "moira: without the prior", blind.collect()).await?);
    let own = forecasts(answers);
    // a case without a prior counts as a market forecast of 0.5
    let market: Forecasts = own
        .iter()
        .zip(answers)
        .map(|(&(_, yes), answer)| (answer.case.prior.unwrap_or(0.5), yes))
        .collect();
    let constant =
        base_rate.map(|rate| own.iter().map(|&(_, yes)| (rate, yes)).collect::<Forecasts>());
    Ok(ForecastReport {
        count: answers.len(),
        brier: mean(&own, brier),
        log_score: mean(&own, log_score),
        market_brier: mean(&market, brier),
        market_log_score: mean(&market, log_score),
        over_market: paired(&own, &market, environment.seed),
        without_prior: WithoutPrior {
            brier: mean(&blind, brier),
            log_score: mean(&blind, log_score),
            base_rate,
            base_rate_brier: constant.as_ref().map(|constant| mean(constant, brier)),
            over_base_rate: constant
                .as_ref()
                .and_then(|constant| paired(&blind, constant, environment.seed)),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_known_forecasts() {
        let sure: Forecasts = vec![(1.0, true), (0.0, false)];
        let wrong: Forecasts = vec![(0.0, true), (1.0, false)];
        let even: Forecasts = vec![(0.5, true), (0.5, false)];
        assert_eq!((mean(&sure, brier), mean(&wrong, brier), mean(&even, brier)), (0.0, 1.0, 0.25));
        assert!(
            (mean(&even, log_score) + std::f64::consts::LN_2).abs() < 1e-5
                && mean(&wrong, log_score).is_finite()
        );
        let over = paired(&sure, &even, 1).unwrap();
        assert_eq!((over.mean, over.interval), (-0.25, [-0.25, -0.25]));
    }
}
