//! The drawn decisions with known rewards, without a running Nyx: for off-policy evaluation.

use nyx_domain::{Decision, Feedback};
use nyx_specialists::bandit::{LoggedChoice, OffPolicy, best, estimate, propensities};
use serde::Serialize;

use super::{DrawnDecision, PolicySpec, RoutingPolicy};
use crate::options::RoutingOptions;
use crate::phoebe::PhoebeStore;
use crate::{NyxError, NyxOptions, StartError};

/// A logged decision for re-evaluation.
struct Row {
    /// Each specialist's logit without its trait weight; minus infinity if it was not a candidate
    /// then.
    unweighted: Vec<f64>,
    choice: LoggedChoice,
}

/// The log, with the current specialists and weights.
pub struct ChoosingLog {
    names: Vec<String>,
    weights: Vec<f64>,
    rows: Vec<Row>,
    options: RoutingOptions,
}

/// The estimated value of a policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyReport {
    pub policy: String,
    #[serde(flatten)]
    pub estimates: OffPolicy,
}

impl ChoosingLog {
    /// Reads the log from the database of `options`; loads no model.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn open(options: &NyxOptions) -> Result<Self, StartError> {
        let store = PhoebeStore::connect(&options.phoebe, &options.data_dir).await?;
        let names: Vec<String> =
            options.specialists.iter().map(|policy| policy.name.clone()).collect();
        let judged = store.judged().await?;
        let weights = store.trait_weights(&names).await?;
        store.close().await;
        let weights = names.iter().map(|name| weights.get(name).copied().unwrap_or(0.0)).collect();
        let rows = judged
            .iter()
            .filter_map(|(decision, feedback)| row(decision, feedback, &names))
            .collect();
        Ok(Self { names, weights, rows, options: options.routing.clone() })
    }

    /// Number of decisions.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Estimates the mean reward of `policy`, which was given as `spec`.
    ///
    /// # Errors
    /// There is no such specialist, or the log contains no decision that the policy could have
    /// made.
    pub fn evaluate(&self, policy: &str, spec: &PolicySpec) -> Result<PolicyReport, NyxError> {
        let always = match &spec.chooser {
            RoutingPolicy::Specialist(name) => {
                let unknown = || NyxError::UnknownSpecialist {
                    name: name.clone(),
                    known: self.names.join(", "),
                };
                Some(self.names.iter().position(|known| known == name).ok_or_else(unknown)?)
            }
            RoutingPolicy::Uniform | RoutingPolicy::Best | RoutingPolicy::Current => None,
        };
        let target: Vec<Vec<f64>> =
            self.rows.iter().map(|row| self.shares(row, spec, always)).collect();
        let choices: Vec<LoggedChoice> = self.rows.iter().map(|row| row.choice).collect();
        let estimates = estimate(&choices, &target).ok_or_else(|| {
            NyxError::Conflict(format!(
                "there are {} drawn decisions with an outcome or feedback, expected at least 2, among them some that {policy:?} might have made",
                choices.len()
            ))
        })?;
        Ok(PolicyReport { policy: policy.to_owned(), estimates })
    }

    /// The policy's propensity of each specialist; 0 for those that were not candidates.
    fn shares(&self, row: &Row, spec: &PolicySpec, always: Option<usize>) -> Vec<f64> {
        let only = |at: Option<usize>| {
            (0..self.names.len()).map(|index| if Some(index) == at { 1.0 } else { 0.0 }).collect()
        };
        let epsilon = match spec.chooser {
            RoutingPolicy::Specialist(_) => return only(always),
            RoutingPolicy::Uniform => 1.0,
            RoutingPolicy::Best | RoutingPolicy::Current => {
                spec.epsilon.unwrap_or(self.options.epsilon)
            }
        };
        let weight = |index: usize| if spec.weights { self.weights[index] } else { 0.0 };
        let logits: Vec<f64> =
            row.unweighted.iter().enumerate().map(|(index, logit)| logit + weight(index)).collect();
        if spec.chooser == RoutingPolicy::Best {
            return only(best(&logits));
        }
        let candidates: Vec<usize> =
            (0..logits.len()).filter(|index| logits[*index].is_finite()).collect();
        let of_candidates: Vec<f64> = candidates.iter().map(|index| logits[*index]).collect();
        let mut shares = vec![0.0; logits.len()];
        let drawn = propensities(
            &of_candidates,
            spec.temperature.unwrap_or(self.options.temperature),
            epsilon,
        );
        candidates.into_iter().zip(drawn).for_each(|(index, share)| shares[index] = share);
        shares
    }
}

/// A drawn decision with the feedback in effect; `None` if there was no draw, or the specialist no
/// longer exists.
fn row(decision: &Decision, feedback: &Feedback, names: &[String]) -> Option<Row> {
    let drawn = DrawnDecision::of(decision)?;
    let place = |name: &str| names.iter().position(|known| known == name);
    let logit = |name: &String| {
        let at = drawn.names.iter().position(|drawn| drawn == name);
        at.and_then(|at| drawn.unweighted.get(at)).copied().unwrap_or(f64::NEG_INFINITY)
    };
    let choice = LoggedChoice {
        kind: place(&drawn.kind).unwrap_or(names.len()),
        chosen: place(&decision.specialist)?,
        propensity: drawn.propensity * drawn.generation_propensity,
        common: drawn.generation_propensity,
        reward: feedback.reward,
    };
    Some(Row { unweighted: names.iter().map(logit).collect(), choice })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three specialists, of which the third was not a candidate when the decisions were drawn.
    fn log() -> ChoosingLog {
        let row = |chosen: usize, reward: f64| Row {
            unweighted: vec![1.0, 0.0, f64::NEG_INFINITY],
            choice: LoggedChoice { kind: 0, chosen, propensity: 0.5, common: 1.0, reward },
        };
        let names = ["moira", "kairos", "nyx"].map(str::to_owned).to_vec();
        let rows = vec![row(0, 1.0), row(0, 1.0), row(1, -1.0), row(1, -1.0)];
        ChoosingLog {
            names,
            weights: vec![0.0, 2.0, 0.0],
            rows,
            options: RoutingOptions::default(),
        }
    }

    #[test]
    fn a_policy_draws_among_those_that_were_candidates() {
        let log = log();
        let shares = |spec: &str| log.shares(&log.rows[0], &spec.parse().unwrap(), Some(1));
        assert_eq!(shares("uniform"), [0.5, 0.5, 0.0]);
        assert_eq!(shares("specialist=kairos"), [0.0, 1.0, 0.0]);
        assert_eq!(shares("best"), [0.0, 1.0, 0.0]);
        assert_eq!(shares("best,weights=none"), [1.0, 0.0, 0.0]);
        for spec in ["current", "current,temperature=1,epsilon=0.1", "current,weights=none"] {
            let shares = shares(spec);
            assert!(
                (shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && shares[2] == 0.0,
                "{spec}: {shares:?}"
            );
        }
        let even = shares("current,temperature=1,epsilon=1,weights=none");
        assert_eq!(even, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn a_policy_is_worth_what_its_choices_earned() {
        let log = log();
        let worth = |spec: &str| {
            log.evaluate(spec, &spec.parse().unwrap()).map(|report| report.estimates.snips.value)
        };
        assert_eq!(worth("uniform").unwrap(), 0.0);
        assert_eq!(
            (worth("specialist=moira").unwrap(), worth("specialist=kairos").unwrap()),
            (1.0, -1.0)
        );
        assert_eq!(worth("best,weights=none").unwrap(), 1.0);
        let unknown = worth("specialist=zeus").unwrap_err().to_string();
        assert!(unknown.contains("zeus") && unknown.contains("moira, kairos, nyx"), "{unknown}");
        let never = worth("specialist=nyx").unwrap_err().to_string();
        assert!(never.contains("4 drawn decisions"), "{never}");
    }
}
