//! Pooling of opinions in log-odds, and extremising.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// No opinion counts as surer than this: one that is certain and wrong would cost everything.
const SUREST: f64 = 0.995;

/// Probabilities that it happens, of different sources.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Opinions {
    /// Of others, as the caller gave it.
    pub prior: Option<f64>,
    /// Of the learned model: see [`Forecaster::learned`](super::Forecaster::learned).
    pub learned: Option<f64>,
    /// The language model's likelihood of `Yes` beside `No`.
    pub choice: Option<f64>,
    /// What the language model's sampled answers state, one each; they are one opinion, the mean of their log-odds.
    pub chains: Vec<f64>,
}

impl Opinions {
    /// Those that are there, with their log-odds, in a fixed order.
    pub(super) fn log_odds(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let chains = (!self.chains.is_empty()).then(|| self.chains.iter().map(|p| log_odds(*p)).sum::<f64>() / self.chains.len() as f64);
        let single = |p: Option<f64>| p.map(log_odds);
        let all = [("prior", single(self.prior)), ("learned", single(self.learned)), ("choice", single(self.choice)), ("chains", chains)];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }

    /// The names of those that are there, such as `prior+learned`; empty when there are none.
    pub fn names(&self) -> String {
        self.log_odds().map(|(name, _)| name).collect::<Vec<_>>().join("+")
    }

    /// Leaves out the one that is missed least.
    pub(super) fn forget_one(&mut self) {
        if !self.chains.is_empty() {
            self.chains.clear();
        } else if self.choice.take().is_none() {
            self.learned = None;
        }
    }
}

/// `ln(p / (1 - p))` of a probability; NaN counts as even.
fn log_odds(p: f64) -> f64 {
    let p = if p.is_nan() { 0.5 } else { p.clamp(1.0 - SUREST, SUREST) };
    (p / (1.0 - p)).ln()
}

/// How opinions become one: `log-odds = offset + factor * sum of share_i * log-odds_i`.
///
/// A geometric pool of odds, moved away from even odds by a factor above 1, because opinions that each know a part are together surer than their mean
/// (Baron et al. 2014, "Two Reasons to Make Aggregated Probability Forecasts More Extreme"; Satopää et al. 2014, "Combining Multiple Probability
/// Predictions Using a Simple Logit Model"). The offset is the bias they have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Of each opinion, in [0, 1]; they add up to 1.
    pub shares: BTreeMap<String, f64>,
    /// The extremising factor: above 1 away from even odds, below 1 towards them.
    pub factor: f64,
    pub offset: f64,
}

impl Pool {
    /// Says the same whatever the opinions.
    pub(super) fn constant(p: f64) -> Self {
        Self { shares: BTreeMap::new(), factor: 0.0, offset: log_odds(p) }
    }

    /// Believes one opinion as it is.
    pub(super) fn alone(name: &str) -> Self {
        Self { shares: BTreeMap::from([(name.to_owned(), 1.0)]), factor: 1.0, offset: 0.0 }
    }

    /// From a weight for each opinion, none below 0.
    pub(super) fn of_weights(weights: &[(&str, f64)], offset: f64) -> Self {
        let factor: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let share = |weight: f64| if factor > 0.0 { weight / factor } else { 1.0 / weights.len() as f64 };
        Self { shares: weights.iter().map(|&(name, weight)| (name.to_owned(), share(weight))).collect(), factor, offset }
    }

    /// The pooled probability, in (0, 1). Opinions that it has no share for do not count.
    pub fn probability(&self, opinions: &Opinions) -> f64 {
        let pooled: f64 = opinions.log_odds().map(|(name, value)| self.shares.get(name).unwrap_or(&0.0) * value).sum();
        1.0 / (1.0 + (-(self.offset + self.factor * pooled)).exp())
    }

    pub(super) fn check(&self, names: &str) -> Result<(), String> {
        const KNOWN: [&str; 4] = ["prior", "learned", "choice", "chains"];
        for name in names.split('+') {
            if !KNOWN.contains(&name) {
                return Err(format!("{name} is not known, expected one of {}", KNOWN.join(", ")));
            }
            match self.shares.get(name) {
                Some(share) if (0.0..=1.0).contains(share) => {}
                share => return Err(format!("shares.{name} is {share:?}, expected a number from 0 to 1")),
            }
        }
        let total: f64 = self.shares.values().sum();
        if self.shares.len() != names.split('+').count() || (total - 1.0).abs() > 1e-3 {
            return Err(format!("shares add up to {total}, expected 1 over {names}"));
        }
        if !(0.0..=10.0).contains(&self.factor) || !self.offset.is_finite() {
            return Err(format!(
                "factor is {} and offset {}, expected a factor from 0 to 10 and a finite offset",
                self.factor, self.offset
            ));
        }
        Ok(())
    }

    /// For a file that people read.
    #[must_use]
    pub(super) fn rounded(mut self) -> Self {
        let round = |value: &mut f64| *value = (*value * 1e4).round() / 1e4;
        self.shares.values_mut().for_each(round);
        round(&mut self.factor);
        round(&mut self.offset);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priors(prior: f64, learned: f64) -> Opinions {
        Opinions { prior: Some(prior), learned: Some(learned), ..Opinions::default() }
    }

    #[test]
    fn equal_shares_are_the_geometric_mean_of_odds() {
        let pool = Pool::of_weights(&[("prior", 0.5), ("learned", 0.5)], 0.0);
        // odds 4 and 1/4, 9 and 1
        assert!((pool.probability(&priors(0.8, 0.2)) - 0.5).abs() < 1e-12);
        assert!((pool.probability(&priors(0.9, 0.5)) - 0.75).abs() < 1e-12);
        // a factor of 2 squares the odds
        let extreme = Pool::of_weights(&[("prior", 1.0), ("learned", 1.0)], 0.0);
        assert_eq!((extreme.factor, extreme.shares["prior"]), (2.0, 0.5));
        assert!((extreme.probability(&priors(0.9, 0.5)) - 0.9).abs() < 1e-12);
    }

    #[test]
    fn chains_are_one_opinion_and_certainty_is_bounded() {
        let pool = Pool::alone("chains");
        let chains = |chains: &[f64]| Opinions { chains: chains.to_vec(), ..Opinions::default() };
        assert!((pool.probability(&chains(&[0.2, 0.8])) - 0.5).abs() < 1e-12);
        assert!((pool.probability(&chains(&[1.0])) - SUREST).abs() < 1e-12);
        assert!((pool.probability(&chains(&[f64::NAN])) - 0.5).abs() < 1e-12);
        assert_eq!(chains(&[0.3]).names(), "chains");
        assert_eq!(Opinions { choice: Some(0.5), ..priors(0.1, 0.2) }.names(), "prior+learned+choice");
    }

    #[test]
    fn what_is_missed_least_is_forgotten_first() {
        let mut all = Opinions { choice: Some(0.5), chains: vec![0.5], ..priors(0.1, 0.2) };
        let mut left = Vec::new();
        while all.names() != "prior" {
            all.forget_one();
            left.push(all.names());
        }
        assert_eq!(left, ["prior+learned+choice", "prior+learned", "prior"]);
    }

    #[test]
    fn a_pool_must_fit_its_name() {
        let pool = Pool::of_weights(&[("prior", 0.7), ("learned", 0.3)], 0.1);
        pool.check("prior+learned").unwrap();
        assert!(pool.check("prior").unwrap_err().contains("shares"));
        assert!(pool.check("prior+choice").unwrap_err().contains("shares.choice"));
        assert!(pool.check("moon").unwrap_err().contains("moon is not known"));
        let wild = Pool { factor: f64::NAN, ..pool };
        assert!(wild.check("prior+learned").unwrap_err().contains("factor is NaN"));
    }
}
