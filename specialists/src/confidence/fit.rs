//! Fits confidence calibrators on answers of known correctness.

use std::collections::BTreeMap;

use nyx_domain::Signals;
use serde::Serialize;

use super::calibrators::{Calibrator, Confidences, Map};
use super::signals::{FEATURES, features};
use crate::learn::metrics::{
    auroc, base_rate, brier, brier_skill, expected_calibration_error, log_loss,
};
use crate::learn::{Example, Isotonic, LinearModel, Platt};

/// Minimum number of answers of a specialist, and of correct and wrong ones each.
const MIN_ROWS: usize = 50;
const MIN_ROWS_PER_CLASS: usize = 10;
const FOLDS: usize = 5;
/// L2 penalties tried, in descending order: of equal losses the largest penalty wins.
const PENALTIES: [f64; 4] = [0.1, 0.03, 0.01, 0.003];
/// Lower bound on probabilities in the log score.
const FLOOR: f64 = 1e-3;
/// Number of bins of the calibration error.
const BINS: usize = 10;
const DIGITS: i32 = 4;

type Candidate = (f64, f64, Vec<(f64, bool)>);

/// One answer of known correctness.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfidenceRow {
    /// The specialist.
    pub specialist: String,
    /// Signals of its answer.
    pub signals: Signals,
    /// Whether the answer was right.
    pub right: bool,
    /// Rows of one group (a table, a template) are always in the same fold; an empty group is a
    /// group of its own.
    pub group: String,
}

/// Quality of confidences on held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quality {
    /// Number of answers.
    pub rows: usize,
    /// Fraction of right answers.
    pub base_rate: Option<f64>,
    /// Expected calibration error.
    pub ece: Option<f64>,
    /// Mean Brier score.
    pub brier: Option<f64>,
    /// Skill against a constant prediction of the base rate.
    pub brier_skill: Option<f64>,
    /// Area under the ROC curve.
    pub auroc: Option<f64>,
}

impl Quality {
    /// From pairs of a confidence and whether the answer was correct.
    pub fn of(pairs: &[(f64, bool)]) -> Self {
        let rate = base_rate(pairs);
        Self {
            rows: pairs.len(),
            base_rate: rate,
            ece: expected_calibration_error(pairs, BINS),
            brier: brier(pairs),
            brier_skill: rate.and_then(|rate| brier_skill(pairs, rate)),
            auroc: auroc(pairs),
        }
    }
}

/// Results of the cross-validation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfidenceReport {
    /// By specialist.
    pub specialists: BTreeMap<String, Quality>,
    /// Over all specialists.
    pub pooled: Quality,
}

/// Fits a calibrator for each specialist with at least 50 rows, 10 correct and 10 wrong; the others
/// get none. Deterministic: the same rows in the same order give the same confidences.
pub fn fit(rows: &[ConfidenceRow]) -> (Confidences, ConfidenceReport) {
    let mut by_name: BTreeMap<&str, Vec<&ConfidenceRow>> = BTreeMap::new();
    for row in rows {
        by_name.entry(&row.specialist).or_default().push(row);
    }
    let (mut confidences, mut specialists, mut all) =
        (Confidences::default(), BTreeMap::new(), Vec::new());
    for (name, rows) in by_name {
        let right = rows.iter().filter(|row| row.right).count();
        if rows.len() < MIN_ROWS
            || right < MIN_ROWS_PER_CLASS
            || rows.len() - right < MIN_ROWS_PER_CLASS
        {
            continue;
        }
        let Some((calibrator, held_out)) = calibrator(&rows) else { continue };
        specialists.insert(name.to_owned(), Quality::of(&held_out));
        all.extend(held_out);
        confidences.specialists.insert(name.to_owned(), calibrator);
    }
    (confidences, ConfidenceReport { specialists, pooled: Quality::of(&all) })
}

/// The calibrator, and its cross-validated confidences on held-out rows.
fn calibrator(rows: &[&ConfidenceRow]) -> Option<(Calibrator, Vec<(f64, bool)>)> {
    let folds = folds(rows);
    let example = |row: &ConfidenceRow| Example {
        features: features(&row.signals),
        class: usize::from(row.right),
        weight: 1.0,
    };
    let examples: Vec<Example> = rows.iter().map(|row| example(row)).collect();
    let learn = |left_out: Option<usize>, l2: f64| {
        let kept = examples
            .iter()
            .zip(&folds)
            .filter(|(_, fold)| left_out != Some(**fold))
            .map(|(example, _)| example.clone());
        LinearModel::fit(&kept.collect::<Vec<_>>(), 2, FEATURES, l2).rounded(DIGITS)
    };
    // (loss, penalty, held-out scores)
    let mut best: Option<Candidate> = None;
    for l2 in PENALTIES {
        let models: Vec<LinearModel> = (0..FOLDS).map(|fold| learn(Some(fold), l2)).collect();
        let scores: Vec<(f64, bool)> = rows
            .iter()
            .zip(&folds)
            .map(|(row, fold)| (Calibrator::score(&models[*fold], &row.signals), row.right))
            .collect();
        let loss = log_loss(&mapped(&scores, &folds, Platt::fit, Map::Platt), FLOOR)?;
        if best.as_ref().is_none_or(|(least, ..)| loss < *least - 1e-9) {
            best = Some((loss, l2, scores));
        }
    }
    let (platt_loss, l2, scores) = best?;
    // isotonic regression fits any monotone shape, Platt scaling needs fewer answers: the better
    // one on held-out folds is used
    let isotonic_scores = mapped(&scores, &folds, Isotonic::fit, Map::Isotonic);
    let isotonic_is_better = log_loss(&isotonic_scores, FLOOR)? < platt_loss;
    let (map, held_out) = if isotonic_is_better {
        (Map::Isotonic(Isotonic::fit(&scores)?), isotonic_scores)
    } else {
        (Map::Platt(Platt::fit(&scores)?), mapped(&scores, &folds, Platt::fit, Map::Platt))
    };
    let base_rate = base_rate(&scores)?;
    Some((Calibrator { rows: rows.len(), base_rate, map, model: learn(None, l2) }, held_out))
}

/// Maps each fold's scores with a map fitted on the other folds; uses their base rate where no map
/// can be fitted.
fn mapped<T>(
    scores: &[(f64, bool)],
    folds: &[usize],
    fit: impl Fn(&[(f64, bool)]) -> Option<T>,
    map: impl Fn(T) -> Map,
) -> Vec<(f64, bool)> {
    let maps: Vec<(Option<Map>, f64)> = (0..FOLDS)
        .map(|fold| {
            let others: Vec<(f64, bool)> = scores
                .iter()
                .zip(folds)
                .filter(|(_, of)| **of != fold)
                .map(|(pair, _)| *pair)
                .collect();
            (fit(&others).map(&map), base_rate(&others).unwrap_or(0.5))
        })
        .collect();
    let through = |(&(score, right), &fold): (&(f64, bool), &usize)| {
        let (map, rate) = &maps[fold];
        (map.as_ref().map_or(*rate, |map| map.apply(score)), right)
    };
    scores.iter().zip(folds).map(through).collect()
}

/// The fold of each row: groups in order of appearance, each into the smallest fold.
fn folds(rows: &[&ConfidenceRow]) -> Vec<usize> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.group.is_empty()) {
        *sizes.entry(&row.group).or_default() += 1;
    }
    let (mut placed, mut filled) = (BTreeMap::new(), [0; FOLDS]);
    let place = |filled: &mut [usize; FOLDS], size: usize| {
        let fold = (0..FOLDS).min_by_key(|fold| filled[*fold]).unwrap_or(0);
        filled[fold] += size;
        fold
    };
    rows.iter()
        .map(|row| match sizes.get(row.group.as_str()) {
            Some(size) => {
                *placed.entry(row.group.as_str()).or_insert_with(|| place(&mut filled, *size))
            }
            None => place(&mut filled, 1),
        })
        .collect()
}
