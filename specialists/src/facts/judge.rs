//! How far a statement's readings are to be believed: a small logistic regression over what its candidates say and how much of the statement they
//! explain, learned on statements whose answers are known.

use serde::{Deserialize, Serialize};

use super::candidates::{Candidate, Claim, Reading};
use super::lexicon::Lexicon;
use super::rank::{TableIndex, bare_statement};
use super::run::holds;
use super::table::FactTable;
use crate::learn::{Example, LearnedFile, LearnedPart, LinearModel, TrainedOn};

/// Of a candidate's share of the statement, above which it explains nearly all.
const NEARLY_ALL: f64 = 0.85;
/// Strength of the penalty on weights.
const L2: f64 = 0.02;
/// Share of a plan's verdicts that must be right, in trials by tables that were not learned from, for the plan to decide.
const PRECISION: f64 = 0.77;
/// Statements that must be decided for their share of right ones to tell anything.
const LEAST_DECIDED: usize = 20;
const FOLDS: usize = 8;
const CLAIMS: usize = Claim::ALL.len();

/// The learned parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactJudge {
    /// Class 1 is supported.
    pub model: LinearModel,
    /// A plan decides when the probability of its verdict is at least this.
    pub decides_from: f64,
}

/// What is thought of a statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Probability that it is supported.
    pub supported: f64,
    /// The candidate that speaks for it.
    pub candidate: Option<usize>,
    /// A plan of filter, count, min or max decides it, and not a guess.
    pub by_query: bool,
}

/// A statement with its answer, to learn from.
#[derive(Debug, Clone)]
pub struct Judged {
    /// As [`features`] gives them.
    pub features: Vec<(u32, f32)>,
    /// What the likeliest plan says, if it is plain.
    pub plain: Option<bool>,
    pub supported: bool,
    /// Statements of one table are learned from together or not at all.
    pub table: String,
}

/// How well learning went, by tables that were held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    pub accuracy: f64,
    /// Share of statements that a query decides, and how many of those are right.
    pub decided: f64,
    pub decided_accuracy: f64,
}

impl LearnedPart for FactJudge {
    const KIND: &'static str = "facts";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if !self.model.is_sound() || self.model.classes() != 2 || self.model.features() != FEATURES {
            return Err(format!("model is not one of 2 classes and {FEATURES} finite weights each"));
        }
        if !(0.5..=1.0).contains(&self.decides_from) {
            return Err(format!("decides_from is {}, expected 0.5 to 1", self.decides_from));
        }
        Ok(())
    }
}

/// Numbers in an example.
pub const FEATURES: usize = 4 * CLAIMS + 24;

/// What the first candidate says whose plans gave something.
fn told<'a>(reading: &'a Reading, held: &[Vec<Option<bool>>]) -> Option<(usize, &'a Candidate, bool)> {
    let told = |(at, candidate): (usize, &'a Candidate)| Some((at, candidate, candidate.truth(held.get(at)?)?));
    reading.candidates.iter().enumerate().find_map(told)
}

/// What the model sees of a reading; `None` where no candidate says anything.
pub fn features(reading: &Reading, held: &[Vec<Option<bool>>]) -> Option<Vec<(u32, f32)>> {
    let (_, top, truth) = told(reading, held)?;
    let sign = |truth: bool| if truth { 1.0_f64 } else { -1.0 };
    let mut features: Vec<(usize, f64)> = Vec::new();
    let claim = Claim::ALL.iter().position(|claim| *claim == top.claim).unwrap_or_default();
    features.push((claim, 1.0));
    features.push((CLAIMS + claim, sign(truth)));
    features.push((2 * CLAIMS + claim, sign(truth) * top.explained));
    // the likeliest of each kind of claim has a vote
    for (at, claim) in Claim::ALL.iter().enumerate() {
        let vote = reading.candidates.iter().zip(held).find(|(candidate, _)| candidate.claim == *claim);
        if let Some((candidate, truth)) = vote.and_then(|(candidate, held)| Some((candidate, candidate.truth(held)?))) {
            features.push((3 * CLAIMS + at, sign(truth) * candidate.explained));
        }
    }
    let cues = &reading.linked.cues;
    let votes: Vec<f64> =
        reading.candidates.iter().zip(held).filter_map(|(candidate, held)| Some(sign(candidate.truth(held)?) * candidate.score)).collect();
    let mean = votes.iter().sum::<f64>() / votes.len().max(1) as f64;
    let nearly = top.explained >= NEARLY_ALL;
    let flag = |holds: bool| if holds { 1.0 } else { 0.0 };
    let unlinked = reading.linked.figures.iter().filter(|figure| !figure.linked).count();
    let held_rows = |candidate: &Candidate| candidate.compares.len() > 1;
    let more = [
        sign(truth),
        sign(truth) * top.explained,
        top.explained,
        sign(truth) * flag(nearly),
        sign(truth) * flag(top.unheld),
        flag(top.unheld),
        mean,
        flag(truth && votes.iter().all(|vote| *vote > 0.0)),
        flag(!truth && votes.iter().all(|vote| *vote < 0.0)),
        sign(truth) * flag(cues.negated()),
        flag(cues.negated()),
        flag(cues.only.is_some()),
        flag(cues.all.is_some()),
        flag(!cues.superlatives.is_empty()),
        flag(!cues.comparatives.is_empty()),
        flag(cues.counting),
        sign(truth) * flag(!cues.superlatives.is_empty()),
        sign(truth) * flag(!cues.comparatives.is_empty()),
        sign(truth) * flag(cues.only.is_some()),
        (unlinked as f64).min(3.0) / 3.0,
        sign(truth) * (unlinked as f64).min(3.0) / 3.0,
        (reading.linked.links.len() as f64).min(6.0) / 6.0,
        sign(truth) * (reading.linked.links.len() as f64).min(6.0) / 6.0,
        sign(truth) * flag(held_rows(top)),
    ];
    features.extend(more.into_iter().enumerate().map(|(at, value)| (4 * CLAIMS + at, value)));
    features.retain(|(_, value)| *value != 0.0);
    Some(features.into_iter().filter_map(|(at, value)| Some((u32::try_from(at).ok()?, value as f32))).collect())
}

impl FactJudge {
    /// What the candidates say together; `None` where they say nothing. `held` says of each candidate which of its comparisons hold.
    pub fn judge(&self, reading: &Reading, held: &[Vec<Option<bool>>]) -> Option<Judgement> {
        let features = features(reading, held)?;
        let supported = self.model.probabilities(&features).get(1).copied()?;
        let (at, top, truth) = told(reading, held)?;
        let by_query = top.is_plain() && self.decides(supported, truth);
        Some(Judgement { supported, candidate: Some(at), by_query })
    }

    fn decides(&self, supported: f64, truth: bool) -> bool {
        (if truth { supported } else { 1.0 - supported }) >= self.decides_from
    }
}

impl Judged {
    /// `None` where there is nothing to learn from: no candidate says anything.
    pub fn new(reading: &Reading, held: &[Vec<Option<bool>>], supported: bool, table: &str) -> Option<Self> {
        let features = features(reading, held)?;
        let plain = told(reading, held).filter(|(_, top, _)| top.is_plain()).map(|(_, _, truth)| truth);
        Some(Self { features, plain, supported, table: table.to_owned() })
    }

    fn example(&self) -> Example {
        Example { features: self.features.clone(), class: usize::from(self.supported), weight: 1.0 }
    }
}

/// A statement about one of some tables, to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Tells it from all others.
    pub id: String,
    pub text: String,
    /// The table that it is about; statements of one table are learned from together or held out together.
    pub table: String,
    pub supported: bool,
}

/// Learns from statements as they will be served: the table is found, and not told. The answer is the file of the learned part, with what became of
/// tables that were held out.
pub fn learn(tables: &[FactTable], statements: &[Statement]) -> (LearnedFile<FactJudge>, Fit) {
    let index = TableIndex::new(tables);
    let lexicons: Vec<Lexicon> = tables.iter().map(Lexicon::new).collect();
    let judged: Vec<Judged> = statements
        .iter()
        .filter_map(|statement| {
            let (name, _) = index.rank(&statement.text, 1).into_iter().next()?;
            let (table, lexicon) = tables.iter().zip(&lexicons).find(|(table, _)| table.name == name)?;
            let reading = lexicon.read(table, bare_statement(&statement.text));
            let held: Vec<Vec<Option<bool>>> = reading
                .candidates
                .iter()
                .map(|candidate| candidate.compares.iter().map(|compare| holds(table, compare)).collect())
                .collect();
            Judged::new(&reading, &held, statement.supported, &statement.table)
        })
        .collect();
    let (judge, learned) = fit(&judged);
    let trained_on = TrainedOn::of(statements.iter().map(|statement| ("aletheia", statement.id.as_str())));
    (LearnedFile::new(trained_on, None, judge), learned)
}

/// Learns the model and from what probability on a plan decides, the latter from predictions for tables that were held out.
pub fn fit(judged: &[Judged]) -> (FactJudge, Fit) {
    let mut tables: Vec<&str> = judged.iter().map(|judged| judged.table.as_str()).collect();
    tables.sort_unstable();
    tables.dedup();
    let fold = |judged: &Judged| tables.binary_search(&judged.table.as_str()).unwrap_or_default() % FOLDS;
    let mut predicted = vec![0.5; judged.len()];
    for held_out in 0..FOLDS {
        let examples: Vec<Example> = judged.iter().filter(|judged| fold(judged) != held_out).map(Judged::example).collect();
        let model = LinearModel::fit(&examples, 2, FEATURES, L2);
        for (predicted, judged) in predicted.iter_mut().zip(judged).filter(|(_, judged)| fold(judged) == held_out) {
            *predicted = model.probabilities(&judged.features).get(1).copied().unwrap_or(0.5);
        }
    }
    let right = predicted.iter().zip(judged).filter(|(predicted, judged)| (**predicted >= 0.5) == judged.supported).count();
    // of each plain verdict: the probability that it is right, and whether it was
    let mut verdicts: Vec<(f64, bool)> = predicted
        .iter()
        .zip(judged)
        .filter_map(|(predicted, judged)| {
            let truth = judged.plain?;
            Some((if truth { *predicted } else { 1.0 - predicted }, truth == judged.supported))
        })
        .collect();
    verdicts.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut decides_from, mut decided, mut decided_right, mut so_far) = (1.0, 0, 0, 0);
    for (at, (probability, right)) in verdicts.iter().enumerate() {
        so_far += usize::from(*right);
        let enough = at + 1 >= LEAST_DECIDED && so_far as f64 >= PRECISION * (at + 1) as f64;
        if enough && *probability >= 0.5 {
            (decides_from, decided, decided_right) = (*probability, at + 1, so_far);
        }
    }
    let examples: Vec<Example> = judged.iter().map(Judged::example).collect();
    let model = LinearModel::fit(&examples, 2, FEATURES, L2).rounded(4);
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let fit = Fit {
        accuracy: share(right, judged.len()),
        decided: share(decided, judged.len()),
        decided_accuracy: share(decided_right, decided),
    };
    (FactJudge { model, decides_from: (decides_from * 1e4).round() / 1e4 }, fit)
}
