//! Learning the head.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{Asked, MasterHead, TIME_FEATURES, log_sum_exp};
use crate::learn::{Example, LinearModel};

/// Penalty of the squared weights; found by cross-validation over 1e-5 to 1e-3, where it hardly matters.
const L2: f64 = 2.5e-5;
const BUCKETS: usize = 4096;
/// An ordinary utterance counts as much as this many trials' questions of the mean weight: there are few.
const UTTERANCE_WEIGHT: f64 = 2.0;
const FOLDS: usize = 5;
/// Fitted on held-out folds, the shipped base's scores earn no gain above 0 (alone they route worse than chance), and without them a head serves
/// every base model.
const SCORE_GAIN: f64 = 0.0;
/// Decimal places of weights in the file.
const DIGITS: i32 = 3;
const PROBE_DIGITS: i32 = 4;
const UTTERANCES: &str = include_str!("utterances.txt");

/// A question whose specialist is known.
#[derive(Debug, Clone)]
pub struct RoutingExample {
    pub question: String,
    pub specialist: String,
    pub embedding: Vec<f32>,
    /// The present in which it is asked, and the time to answer: drawn at random where the example has none, so that neither stands for its specialist.
    pub now: DateTime<Utc>,
    pub deadline_ms: u64,
    /// Examples of one group (a conversation, a table, a template) never stand on both sides of a fold.
    pub group: String,
    /// One of [`utterances`], and so outside the count by which specialists are balanced and outside the report.
    pub utterance: bool,
}

/// How well the head does on folds that it did not learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadReport {
    pub accuracy: f64,
    /// Of each specialist, the share that went to it.
    pub recalls: BTreeMap<String, f64>,
    /// Mean negative log-probability (nats) of the right specialist, after the temperature.
    pub log_loss: f64,
    pub temperature: f64,
}

/// What people ordinarily say to each shipped specialist: pairs of a name and a text, to be learned from beside the trials' questions, since those all
/// have their suites' ways of asking.
pub fn utterances() -> impl Iterator<Item = (&'static str, &'static str)> {
    UTTERANCES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t'))
}

/// Learns a head. `probe` is the embedding of [`PROBE`](super::PROBE); `unit` the master's temperature. The same examples in the same order give the
/// same head.
///
/// # Errors
/// Says what is missing: at least two specialists, embeddings of one length.
pub fn fit(examples: &[RoutingExample], probe: &[f32], unit: f64) -> Result<(MasterHead, HeadReport), String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for example in examples.iter().filter(|example| !example.utterance) {
        *counts.entry(&example.specialist).or_default() += 1;
    }
    if counts.len() < 2 {
        return Err(format!("there are questions of {} specialists, expected at least 2", counts.len()));
    }
    let dimension = probe.len();
    if let Some(wrong) = examples.iter().find(|example| example.embedding.len() != dimension) {
        return Err(format!("the embedding of {:?} has {} numbers, the probe's {dimension}", wrong.question, wrong.embedding.len()));
    }
    let names: Vec<String> = counts.keys().map(|name| (*name).to_owned()).collect();
    let total: usize = counts.values().sum();
    let prepared: Vec<(Example, &RoutingExample)> = examples
        .iter()
        .filter_map(|example| {
            let class = names.iter().position(|name| *name == example.specialist)?;
            let even = total as f64 / (names.len() * counts.get(example.specialist.as_str()).copied().unwrap_or(1)) as f64;
            let RoutingExample { question, embedding, now, deadline_ms, .. } = example;
            let asked = Asked { question, embedding, now: *now, deadline_ms: *deadline_ms };
            let features = MasterHead::features(dimension, BUCKETS, &asked);
            Some((Example { features, class, weight: if example.utterance { UTTERANCE_WEIGHT } else { even } }, example))
        })
        .collect();
    let learn = |keep: &dyn Fn(&RoutingExample) -> bool| {
        let kept: Vec<Example> = prepared.iter().filter(|(_, from)| keep(from)).map(|(example, _)| example.clone()).collect();
        LinearModel::fit(&kept, names.len(), dimension + BUCKETS + TIME_FEATURES, L2)
    };
    let folds = folds(&prepared);
    // (logits, class, weight)
    let mut held_out: Vec<(Vec<f64>, usize, f64)> = Vec::with_capacity(total);
    for fold in 0..FOLDS {
        let inside = |example: &RoutingExample| !example.utterance && folds.get(example.group.as_str()) == Some(&fold);
        let model = learn(&|example| !inside(example));
        let tried = prepared.iter().filter(|(_, from)| inside(from));
        held_out.extend(tried.map(|(example, _)| (model.logits(&example.features), example.class, example.weight)));
    }
    let temperature = (calibrated(&held_out) * 1e3).round() / 1e3;
    let report = report(&held_out, &names, temperature);
    let model = learn(&|_| true).rounded(DIGITS);
    let scale = 10_f32.powi(PROBE_DIGITS);
    let probe = probe.iter().map(|entry| (entry * scale).round() / scale).collect();
    Ok((MasterHead { names, dimension, buckets: BUCKETS, temperature, score_gain: SCORE_GAIN, unit, probe, model }, report))
}

/// Which fold a group is in: the largest group first, each into the fold that has least of its specialist.
fn folds<'a>(prepared: &[(Example, &'a RoutingExample)]) -> BTreeMap<&'a str, usize> {
    let mut sizes: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for (example, from) in prepared.iter().filter(|(_, from)| !from.utterance) {
        *sizes.entry((example.class, from.group.as_str())).or_default() += 1;
    }
    let mut groups: Vec<_> = sizes.into_iter().collect();
    // stable: equals in the order of their names
    groups.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let mut filled: BTreeMap<usize, [usize; FOLDS]> = BTreeMap::new();
    let mut folds = BTreeMap::new();
    for ((class, group), size) in groups {
        let filled = filled.entry(class).or_default();
        let fold = (0..FOLDS).min_by_key(|fold| filled[*fold]).unwrap_or(0);
        filled[fold] += size;
        folds.entry(group).or_insert(fold);
    }
    folds
}

fn log_loss(held_out: &[(Vec<f64>, usize, f64)], temperature: f64) -> f64 {
    let weight: f64 = held_out.iter().map(|(_, _, weight)| weight).sum();
    let loss = |(logits, class, weight): &(Vec<f64>, usize, f64)| {
        let scaled: Vec<f64> = logits.iter().map(|logit| logit / temperature).collect();
        weight * (log_sum_exp(&scaled) - scaled.get(*class).copied().unwrap_or(0.0))
    };
    held_out.iter().map(loss).sum::<f64>() / weight.max(f64::MIN_POSITIVE)
}

/// The temperature of the least log loss (Guo et al. 2017, "On Calibration of Modern Neural Networks"), by golden section over its logarithm, in which
/// the loss has one valley.
fn calibrated(held_out: &[(Vec<f64>, usize, f64)]) -> f64 {
    let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (0.05_f64.ln(), 20.0_f64.ln());
    for _ in 0..60 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if log_loss(held_out, a.exp()) < log_loss(held_out, b.exp()) { high = b } else { low = a }
    }
    f64::midpoint(low, high).exp()
}

fn report(held_out: &[(Vec<f64>, usize, f64)], names: &[String], temperature: f64) -> HeadReport {
    let right = |logits: &[f64], class: usize| logits.iter().all(|logit| *logit <= logits[class]);
    let rate = |class: Option<usize>| {
        let of: Vec<_> = held_out.iter().filter(|(_, of, _)| class.is_none_or(|class| *of == class)).collect();
        of.iter().filter(|(logits, class, _)| right(logits, *class)).count() as f64 / of.len().max(1) as f64
    };
    HeadReport {
        accuracy: rate(None),
        recalls: names.iter().enumerate().map(|(class, name)| (name.clone(), rate(Some(class)))).collect(),
        log_loss: log_loss(held_out, temperature),
        temperature,
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::hashed;
    use super::*;
    use crate::SHIPPED;

    #[test]
    fn every_shipped_specialist_has_its_utterances_each_once() {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut texts = std::collections::BTreeSet::new();
        for (name, text) in utterances() {
            *counts.entry(name).or_default() += 1;
            assert!(texts.insert(text), "{text} is there twice");
            assert!(!hashed(text, 64).is_empty());
        }
        assert_eq!(counts.len(), SHIPPED.len(), "{counts:?}");
        assert!(counts.values().all(|count| *count >= 20), "{counts:?}");
    }

    #[test]
    fn groups_stay_together_and_folds_are_even() {
        let example = |group: usize| RoutingExample {
            question: String::new(),
            specialist: "a".into(),
            embedding: vec![],
            now: DateTime::UNIX_EPOCH,
            deadline_ms: 1_000,
            group: group.to_string(),
            utterance: false,
        };
        let examples: Vec<RoutingExample> = (0..100).map(|index| example(index % 23)).collect();
        let prepared: Vec<_> = examples.iter().map(|from| (Example { features: vec![], class: 0, weight: 1.0 }, from)).collect();
        let folds = folds(&prepared);
        assert_eq!(folds.len(), 23);
        for fold in 0..FOLDS {
            let size = examples.iter().filter(|example| folds[example.group.as_str()] == fold).count();
            assert!((15..=25).contains(&size), "{size}");
        }
    }

    #[test]
    fn the_temperature_undoes_what_was_multiplied() {
        // right three times of four, said with the logits of that, times 2.5
        let logit = 3.0_f64.ln();
        let held_out: Vec<_> = (0..100).map(|index| (vec![0.0, 2.5 * logit], usize::from(index % 4 != 0), 1.0)).collect();
        assert!((calibrated(&held_out) - 2.5).abs() < 1e-3);
    }
}
