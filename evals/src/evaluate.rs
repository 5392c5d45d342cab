//! Runs an evaluation and makes its report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use chrono::Utc;
use nyx_actors::artifacts::Origin;

use crate::choices::{self, Answered, ChoiceReport, FairnessReport, unknown_choices};
use crate::environment::EvalEnvironment;
use crate::error::{CHOICES, EvalError, SUITES};
use crate::report::{ConfidenceReport, PartReport, Report, SuiteReport};
use crate::routing::{self, RoutingCase};
use crate::{Dataset, DatasetError, forecast, recall, verification};

/// The suites whose questions make the routing suite.
const ROUTED: [&str; 4] = ["kairos", "eleos", "aletheia", "moira"];

/// Which suites to run.
#[derive(Debug, Clone)]
pub struct EvalPlan {
    pub dataset: Dataset,
    /// When empty, all suites with files.
    pub suites: Vec<String>,
    /// Evaluate Mnemosyne's answers as well as its recall.
    pub answers: bool,
}

impl EvalPlan {
    /// # Errors
    /// An unknown suite, or one without its file.
    fn chosen(&self) -> Result<BTreeSet<&str>, EvalError> {
        if let Some(name) = self.suites.iter().find(|name| !SUITES.contains(&name.as_str())) {
            return Err(EvalError::UnknownSuite { name: name.clone() });
        }
        let file = |name: &str| {
            if name == "mnemosyne" { "mnemosyne.questions".to_owned() } else { name.to_owned() }
        };
        let present = |name: &str| self.dataset.has(&file(name));
        if self.suites.is_empty() {
            let mut found: BTreeSet<&str> =
                SUITES.into_iter().filter(|name| present(name)).collect();
            if found.is_empty() {
                return Err(DatasetError::Missing {
                    path: self.dataset.path(SUITES[0]),
                    split: self.dataset.split.clone(),
                }
                .into());
            }
            if found.contains("mnemosyne") && ROUTED.iter().all(|name| found.contains(name)) {
                found.insert("routing");
            }
            return Ok(found);
        }
        Ok(self.suites.iter().map(String::as_str).collect())
    }
}

/// Runs the plan on the environment.
///
/// # Errors
/// The first case that could not be read or answered.
pub async fn evaluate(environment: &EvalEnvironment, plan: &EvalPlan) -> Result<Report, EvalError> {
    let started = Instant::now();
    let dataset = &plan.dataset;
    let chosen = plan.chosen()?;
    let mut suites: BTreeMap<String, SuiteReport> = BTreeMap::new();
    let mut pooled: Vec<Answered> = Vec::new();
    for name in CHOICES.into_iter().filter(|name| chosen.contains(name)) {
        let all = dataset.choices(name)?;
        let unknown = unknown_choices(&all);
        let questions = environment.sample(all);
        let mut suite = SuiteReport::default();
        let answers = if name == "aletheia" {
            let tables = dataset.tables()?;
            let count = tables.len();
            verification::register(environment, tables).await?;
            let answers = choices::run(environment, name, questions).await?;
            suite.facts = Some(verification::report(count, &answers));
            answers
        } else {
            choices::run(environment, name, questions).await?
        };
        suite.choices = Some(ChoiceReport::of(&answers));
        suite.confidence = ConfidenceReport::of(&answers);
        if name == "eleos" {
            suite.fairness = Some(FairnessReport::of(&answers, &unknown));
        }
        if name == "moira" {
            let train = Dataset { split: "train".into(), ..dataset.clone() };
            let base_rate =
                if train.has(name) { forecast::base_rate(&train.choices(name)?) } else { None };
            suite.forecast = Some(forecast::report(environment, &answers, base_rate).await?);
        }
        suites.insert(name.to_owned(), suite);
        pooled.extend(answers);
    }
    if chosen.contains("mnemosyne") {
        let (turns, questions) = (dataset.memories()?, environment.sample(dataset.questions()?));
        let recall = recall::run(environment, turns, questions, plan.answers).await?;
        suites.insert(
            "mnemosyne".into(),
            SuiteReport { recall: Some(recall), ..SuiteReport::default() },
        );
    }
    let routing = if chosen.contains("routing") {
        Some(routing::run(environment, &mixture(environment, dataset)?).await?)
    } else {
        None
    };
    let nyx = &environment.nyx;
    let artifacts = nyx.artifacts.reports().into_iter().map(|part| {
        let origin = match part.origin {
            Origin::Record => "record".to_owned(),
            Origin::File(path) => path
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        };
        (part.name, PartReport { id: part.id, origin })
    });
    let adapters = pooled.iter().filter_map(|answer| answer.decision.adapter.as_ref());
    Ok(Report {
        nyx: env!("CARGO_PKG_VERSION"),
        at: Utc::now(),
        split: dataset.split.clone(),
        seed: environment.seed,
        limit: environment.limit,
        base_model: nyx.model.name.clone(),
        base_sha256: nyx.model.sha256.clone(),
        adapters: adapters.map(|adapter| (adapter.name.clone(), adapter.id.clone())).collect(),
        artifacts: artifacts.collect(),
        suites,
        routing,
        confidence: ConfidenceReport::of(&pooled),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The main suites' questions, without context, each with its suite's name.
///
/// # Errors
/// A suite without its file: routing needs all five.
fn mixture(
    environment: &EvalEnvironment,
    dataset: &Dataset,
) -> Result<Vec<RoutingCase>, DatasetError> {
    let of = |specialist: &str, request: String| RoutingCase {
        lang: None,
        request,
        specialist: specialist.to_owned(),
    };
    let mut mixed = Vec::new();
    for name in ROUTED {
        mixed.extend(
            environment
                .sample(dataset.choices(name)?)
                .into_iter()
                .map(|case| of(name, case.question)),
        );
    }
    mixed.extend(
        environment
            .sample(dataset.questions()?)
            .into_iter()
            .map(|case| of("mnemosyne", case.question)),
    );
    Ok(mixed)
}
