//! An evaluation from its first question to its report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use chrono::Utc;
use nyx_actors::NyxError;
use nyx_actors::learned::Origin;

use super::choices::{self, Answered, ChoiceReport, FairnessReport, unknown_choices};
use super::learn::PARTS;
use super::report::{ConfidenceReport, PartReport, Report, SuiteReport};
use super::routing::RoutingTrial;
use super::stage::Stage;
use super::{TrialError, Trials, aletheia, mnemosyne, moira, routing};

/// The choice suites, in the order in which they are played.
pub const CHOICES: [&str; 5] = ["kairos", "eleos", "aletheia", "truthful", "moira"];
/// Whose questions make the routing suite.
const ROUTED: [&str; 4] = ["kairos", "eleos", "aletheia", "moira"];
pub const SUITES: [&str; 7] = ["kairos", "eleos", "aletheia", "truthful", "moira", "mnemosyne", "routing"];

/// Why an evaluation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error(transparent)]
    Nyx(#[from] NyxError),
    #[error("there is no suite {name:?}, expected one of {}", SUITES.join(", "))]
    UnknownSuite { name: String },
    #[error("there is no part {name:?} to learn, expected one of {}", PARTS.join(", "))]
    UnknownPart { name: String },
    #[error("{part} cannot be learned from these trials: there are too few, or all have the same answer")]
    TooFew { part: String },
    #[error("{path} is no data set of chats: {reason}")]
    Dataset { path: String, reason: String },
    #[error("{part} cannot be learned from these trials: {reason}")]
    Unfit { part: String, reason: String },
}

/// Which suites are played.
#[derive(Debug, Clone)]
pub struct Programme {
    pub trials: Trials,
    /// All that have files when empty.
    pub suites: Vec<String>,
    /// Let Mnemosyne answer as well, not only recall.
    pub answers: bool,
}

impl Programme {
    /// # Errors
    /// A suite that nobody knows, or one without its file.
    fn chosen(&self) -> Result<BTreeSet<&str>, EvalError> {
        if let Some(name) = self.suites.iter().find(|name| !SUITES.contains(&name.as_str())) {
            return Err(EvalError::UnknownSuite { name: name.clone() });
        }
        let file = |name: &str| if name == "mnemosyne" { "mnemosyne.questions".to_owned() } else { name.to_owned() };
        let present = |name: &str| self.trials.has(&file(name));
        if self.suites.is_empty() {
            let mut found: BTreeSet<&str> = SUITES.into_iter().filter(|name| present(name)).collect();
            if found.is_empty() {
                return Err(TrialError::Missing { path: self.trials.path(SUITES[0]), split: self.trials.split.clone() }.into());
            }
            if found.contains("mnemosyne") && ROUTED.iter().all(|name| found.contains(name)) {
                found.insert("routing");
            }
            return Ok(found);
        }
        Ok(self.suites.iter().map(String::as_str).collect())
    }
}

/// Plays the programme on the stage.
///
/// # Errors
/// The first trial that could not be read, or question that could not be answered.
pub async fn evaluate(stage: &Stage, programme: &Programme) -> Result<Report, EvalError> {
    let started = Instant::now();
    let trials = &programme.trials;
    let chosen = programme.chosen()?;
    let mut suites: BTreeMap<String, SuiteReport> = BTreeMap::new();
    let mut pooled: Vec<Answered> = Vec::new();
    for name in CHOICES.into_iter().filter(|name| chosen.contains(name)) {
        let all = trials.choices(name)?;
        let unknown = unknown_choices(&all);
        let questions = stage.sample(all);
        let mut suite = SuiteReport::default();
        let answers = if name == "aletheia" {
            let tables = trials.tables()?;
            let count = tables.len();
            aletheia::register(stage, tables).await?;
            let answers = choices::play(stage, name, questions).await?;
            suite.facts = Some(aletheia::report(count, &answers));
            answers
        } else {
            choices::play(stage, name, questions).await?
        };
        suite.choices = Some(ChoiceReport::of(&answers));
        suite.confidence = ConfidenceReport::of(&answers);
        if name == "eleos" {
            suite.fairness = Some(FairnessReport::of(&answers, &unknown));
        }
        if name == "moira" {
            let train = Trials { split: "train".into(), ..trials.clone() };
            let base_rate = if train.has(name) { moira::base_rate(&train.choices(name)?) } else { None };
            suite.forecast = Some(moira::report(stage, &answers, base_rate).await?);
        }
        suites.insert(name.to_owned(), suite);
        pooled.extend(answers);
    }
    if chosen.contains("mnemosyne") {
        let (turns, questions) = (trials.memories()?, stage.sample(trials.questions()?));
        let recall = mnemosyne::play(stage, turns, questions, programme.answers).await?;
        suites.insert("mnemosyne".into(), SuiteReport { recall: Some(recall), ..SuiteReport::default() });
    }
    let routing = if chosen.contains("routing") { Some(routing::play(stage, &mixture(stage, trials)?).await?) } else { None };
    let nyx = &stage.nyx;
    let learned = nyx.learned.reports().into_iter().map(|part| {
        let origin = match part.origin {
            Origin::Record => "record".to_owned(),
            Origin::File(path) => path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        };
        (part.name, PartReport { id: part.id, origin })
    });
    let adapters = pooled.iter().filter_map(|answer| answer.decision.adapter.as_ref());
    Ok(Report {
        nyx: env!("CARGO_PKG_VERSION"),
        at: Utc::now(),
        split: trials.split.clone(),
        seed: stage.seed,
        limit: stage.limit,
        base_model: nyx.model.name.clone(),
        base_sha256: nyx.model.sha256.clone(),
        adapters: adapters.map(|adapter| (adapter.name.clone(), adapter.id.clone())).collect(),
        learned: learned.collect(),
        suites,
        routing,
        confidence: ConfidenceReport::of(&pooled),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The main suites' questions by their text alone, each with its suite.
///
/// # Errors
/// A suite without its file: routing needs all five.
fn mixture(stage: &Stage, trials: &Trials) -> Result<Vec<RoutingTrial>, TrialError> {
    let of = |specialist: &str, request: String| RoutingTrial { lang: None, request, specialist: specialist.to_owned() };
    let mut mixed = Vec::new();
    for name in ROUTED {
        mixed.extend(stage.sample(trials.choices(name)?).into_iter().map(|trial| of(name, trial.question)));
    }
    mixed.extend(stage.sample(trials.questions()?).into_iter().map(|trial| of("mnemosyne", trial.question)));
    Ok(mixed)
}
