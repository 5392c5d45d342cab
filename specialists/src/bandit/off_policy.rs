//! Off-policy evaluation: the expected reward of another policy, from the log of the policy that
//! ran.

use serde::Serialize;

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_985;
/// Folds of the log; the rewards of one fold are predicted from the others (cross-fitting,
/// Chernozhukov et al. 2018).
const FOLDS: usize = 5;
/// Pseudo-count with which a mean is shrunk towards its parent mean.
const PRIOR: f64 = 4.0;

/// A logged choice and its reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoggedChoice {
    /// The kind of question, counted from 0.
    pub kind: usize,
    /// Index of the chosen candidate.
    pub chosen: usize,
    /// The probability of everything that was drawn, in (0, 1]: of the specialist, times that of
    /// its generation where that was drawn too.
    pub propensity: f64,
    /// The factor of `propensity` that the target policy shares (a generation's), in (0, 1].
    pub common: f64,
    /// The reward.
    pub reward: f64,
}

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The estimated mean reward.
    pub value: f64,
    /// 95 % interval.
    pub interval: [f64; 2],
    /// Standard error of the value.
    pub standard_error: f64,
}

impl Estimate {
    fn new(value: f64, standard_error: f64) -> Self {
        Self {
            value,
            interval: [value - Z * standard_error, value + Z * standard_error],
            standard_error,
        }
    }
}

/// The value of a policy by three estimators.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OffPolicy {
    /// Number of decisions.
    pub decisions: usize,
    /// `(Σw)² / Σw²`: the effective sample size of the weighted decisions.
    pub effective_decisions: f64,
    /// The largest importance weight.
    pub largest_weight: f64,
    /// The mean reward of the policy that ran, on the same decisions.
    pub logged: Estimate,
    /// Inverse propensity scoring (Horvitz and Thompson 1952): unbiased, high variance.
    pub ips: Estimate,
    /// Self-normalised (Swaminathan and Joachims 2015): slightly biased, lower variance.
    pub snips: Estimate,
    /// Doubly robust (Dudík, Langford, Li 2011), with the mean rewards of candidates by kind of
    /// question as the model.
    pub doubly_robust: Estimate,
}

/// The mean of independent values with its interval by the central limit theorem; `None` for fewer
/// than two.
fn mean_interval(values: &[f64]) -> Option<Estimate> {
    let count = values.len() as f64;
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Some(Estimate::new(mean, (variance / count).sqrt()))
}

/// The expected reward per decision of the policy that draws candidate `a` of decision `i` with
/// probability `target[i][a]`. `None` for fewer than two decisions, and when it gives every logged
/// choice probability 0.
pub fn estimate(log: &[LoggedChoice], target: &[Vec<f64>]) -> Option<OffPolicy> {
    let weights = importance(log, target);
    let (total, squares) = weights
        .iter()
        .fold((0.0, 0.0), |(total, squares), weight| (total + weight, squares + weight * weight));
    if total <= 0.0 {
        return None;
    }
    let weighted: Vec<f64> =
        log.iter().zip(&weights).map(|(row, weight)| weight * row.reward).collect();
    let normalised = weighted.iter().sum::<f64>() / total;
    let spread = log
        .iter()
        .zip(&weights)
        .map(|(row, weight)| (weight * (row.reward - normalised)).powi(2))
        .sum::<f64>();
    let rewards: Vec<f64> = log.iter().map(|row| row.reward).collect();
    Some(OffPolicy {
        decisions: log.len(),
        effective_decisions: total * total / squares,
        largest_weight: weights.iter().copied().fold(0.0, f64::max),
        logged: mean_interval(&rewards)?,
        ips: mean_interval(&weighted)?,
        snips: Estimate::new(normalised, spread.sqrt() / total),
        doubly_robust: mean_interval(&doubly_robust(log, target))?,
    })
}

/// The doubly robust score of each decision: their mean is the estimate.
fn doubly_robust(log: &[LoggedChoice], target: &[Vec<f64>]) -> Vec<f64> {
    let models = RewardModel::cross_fitted(log, target.iter().map(Vec::len).max().unwrap_or(0));
    let weights = importance(log, target);
    let rows = log.iter().zip(target).zip(weights).enumerate();
    rows.map(|(index, ((row, target), weight))| {
        let model = &models[index % FOLDS];
        let predicted: f64 = target
            .iter()
            .enumerate()
            .map(|(candidate, share)| share * model.predict(row.kind, candidate))
            .sum();
        predicted + weight * (row.reward - model.predict(row.kind, row.chosen))
    })
    .collect()
}

/// Importance weights: the target policy's probability of the logged choice over the logged one.
fn importance(log: &[LoggedChoice], target: &[Vec<f64>]) -> Vec<f64> {
    let share = |row: &LoggedChoice, target: &[f64]| target.get(row.chosen).copied().unwrap_or(0.0);
    log.iter()
        .zip(target)
        .map(|(row, target)| share(row, target) * row.common / row.propensity)
        .collect()
}

/// Mean rewards by candidate and kind of question, shrunk towards the candidate's mean, which is
/// shrunk towards the overall mean.
struct RewardModel {
    candidates: usize,
    /// `[kinds × candidates]`
    means: Vec<f64>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    count: f64,
    rewards: f64,
}

impl Sum {
    fn add(&mut self, other: Self, sign: f64) {
        self.count += sign * other.count;
        self.rewards += sign * other.rewards;
    }

    fn shrunk(self, towards: f64) -> f64 {
        (self.rewards + PRIOR * towards) / (self.count + PRIOR)
    }
}

impl RewardModel {
    /// One model per fold, fitted on the other folds.
    fn cross_fitted(log: &[LoggedChoice], candidates: usize) -> Vec<Self> {
        let kinds = log.iter().map(|row| row.kind + 1).max().unwrap_or(0);
        let mut folds = vec![vec![Sum::default(); kinds * candidates]; FOLDS];
        for (index, row) in log.iter().enumerate().filter(|(_, row)| row.chosen < candidates) {
            folds[index % FOLDS][row.kind * candidates + row.chosen]
                .add(Sum { count: 1.0, rewards: row.reward }, 1.0);
        }
        let mut all = vec![Sum::default(); kinds * candidates];
        folds
            .iter()
            .for_each(|fold| all.iter_mut().zip(fold).for_each(|(all, cell)| all.add(*cell, 1.0)));
        let without = |fold: &Vec<Sum>| {
            let mut rest = all.clone();
            rest.iter_mut().zip(fold).for_each(|(rest, cell)| rest.add(*cell, -1.0));
            Self::of(&rest, candidates)
        };
        folds.iter().map(without).collect()
    }

    fn of(cells: &[Sum], candidates: usize) -> Self {
        let mut of_candidate = vec![Sum::default(); candidates];
        let mut total = Sum::default();
        for (index, cell) in cells.iter().enumerate() {
            of_candidate[index % candidates].add(*cell, 1.0);
            total.add(*cell, 1.0);
        }
        let mean = total.rewards / total.count.max(1.0);
        let of_candidate: Vec<f64> = of_candidate.into_iter().map(|sum| sum.shrunk(mean)).collect();
        let means = cells
            .iter()
            .enumerate()
            .map(|(index, cell)| cell.shrunk(of_candidate[index % candidates]))
            .collect();
        Self { candidates, means }
    }

    fn predict(&self, kind: usize, candidate: usize) -> f64 {
        self.means.get(kind * self.candidates + candidate).copied().unwrap_or(0.0)
    }
}
