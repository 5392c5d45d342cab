//! One training run: evidence is divided, an adapter is trained on the larger part and tried on the rest; what passes becomes a canary or speaks.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nyx_domain::{AdapterChoice, CellStep, ChatMessage, Question, Role, Target};
use nyx_engine::train::{Example, Objective, Progress, Summary, TrainOptions, Trainer, TrainingTarget};
use nyx_specialists::gate::{Compared, Pair, compare, held_back, level};
use nyx_specialists::learn::learned_id;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::cases::{NEUTRAL, cases};
use super::example::{Label, TrainingExample};
use super::options::TrainingOptions;
use super::process;
use super::record::{Model, RunStatus};
use super::service::TrainingService;
use crate::NyxError;
use crate::adapters::AdapterLease;
use crate::phoebe::now;
use crate::runtime::blocking;

/// Tokens of the neutral text that are scored at a time.
const WINDOW: usize = 256;
/// Milliseconds that one question of the gate may take.
const PATIENCE_MS: u64 = 120_000;
/// Questions of the gate that are asked at a time.
const AT_A_TIME: usize = 8;
/// Templates that must be set aside: with fewer the bootstrap has nothing to draw from.
const LEAST_TEMPLATES: usize = 5;
/// Tokens of an answer to a safety case.
const CASE_TOKENS: usize = 40;

/// What is to be trained.
pub struct Run {
    pub specialist: String,
    pub objective: Objective,
    pub lessons: Vec<TrainingExample>,
    /// Plain texts that the adapter should leave as they are.
    pub anchors: Vec<String>,
    pub options: TrainOptions,
    pub training: TrainingOptions,
    /// Whether requests come in that a canary could answer.
    pub canary: bool,
    /// Where the words about the evidence come from: `trials`, `log`, `memory` or `dataset`.
    pub source: &'static str,
    /// Told of each step.
    pub told: Box<dyn FnMut(&Progress) + Send>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    pub id: String,
    pub specialist: String,
    pub objective: Objective,
    pub status: RunStatus,
    pub adapter: Option<String>,
    pub generation: Option<u64>,
    /// Lessons that were learned from, and set aside.
    pub trained: usize,
    pub tried: usize,
    pub gate: Option<GateReport>,
    pub tokens_per_second: f64,
    pub seconds: f64,
}

/// What the gate found.
#[derive(Debug, Clone, Serialize)]
pub struct GateReport {
    pub passed: bool,
    /// Of the candidate and the live one on what was set aside.
    pub compared: Compared,
    /// Which try on this evidence it was.
    pub tries: u32,
    /// On the neutral text, of the candidate and of the base.
    pub perplexity: [f64; 2],
    /// Findings of the safety policy in the answers to its cases, of the candidate and of the live one.
    pub findings: [usize; 2],
    /// Why not, if not.
    pub reasons: Vec<String>,
}

/// What was trained, and what it will be tried on.
struct Candidate {
    adapter: String,
    summary: Summary,
    learned: usize,
    tried: Vec<TrainingExample>,
}

impl TrainingService {
    /// Trains, tries, and promotes what is better: see [`RunReport`]. The run is on record in `nyx_training_runs` from its beginning, and every step
    /// of it is told on the cells' stream.
    ///
    /// # Errors
    /// There is nothing to learn from or to try; a device or phoebe fails. The run is on record as failed then.
    pub async fn train(&self, run: Run) -> Result<RunReport, NyxError> {
        self.train_as(&Uuid::now_v7().to_string(), run).await
    }

    /// [`train`](Self::train) under an id that was told already.
    pub(super) async fn train_as(&self, id: &str, run: Run) -> Result<RunReport, NyxError> {
        let settings = json!({
            "train": run.options, "training": run.training, "source": run.source, "lessons": run.lessons.len(), "process": process::this(),
        });
        let model = Model {
            id: id.to_owned(),
            specialist: run.specialist.clone(),
            objective: run.objective.name().to_owned(),
            status: RunStatus::Training.as_str().to_owned(),
            settings,
            metrics: Value::Null,
            adapter_id: None,
            error: None,
            started_at: now(),
            ended_at: None,
        };
        self.store.begin_run(model).await?;
        let specialist = run.specialist.clone();
        self.tell_run(id, &specialist, RunStatus::Training, json!({ "lessons": run.lessons.len() }));
        match self.trained(id, run).await {
            Ok(report) => Ok(report),
            Err(error) => {
                self.tell_run(id, &specialist, RunStatus::Failed, json!({ "error": error.to_string() }));
                self.store.note_run(id, RunStatus::Failed, &Value::Null, None, Some(&error.to_string())).await?;
                Err(error)
            }
        }
    }

    fn tell_run(&self, run: &str, specialist: &str, status: RunStatus, metrics: Value) {
        let step = CellStep::Training { run: run.to_owned(), status: status.as_str(), metrics };
        self.cells.publish(None, Some(specialist), step);
    }

    /// Trains and keeps the adapter as a candidate, without a run on record and without a gate; answers its id. A fifth of the lessons is set
    /// aside all the same.
    ///
    /// # Errors
    /// As [`train`](Self::train).
    pub async fn train_only(&self, run: Run) -> Result<String, NyxError> {
        Ok(self.candidate(run, None).await?.adapter)
    }

    /// The examples of a run in tokens, those that are set aside left out: what its trainer would be given.
    ///
    /// # Errors
    /// When a question cannot be read.
    pub async fn training_examples(
        &self,
        specialist: &str,
        objective: Objective,
        lessons: &[TrainingExample],
    ) -> Result<Vec<Example>, NyxError> {
        let mut examples = Vec::new();
        for lesson in lessons.iter().filter(|lesson| !held_back(&lesson.template)) {
            examples.extend(lesson.examples(self, specialist, objective).await?);
        }
        Ok(examples)
    }

    async fn candidate(&self, run: Run, id: Option<&str>) -> Result<Candidate, NyxError> {
        let Run { specialist, objective, lessons, anchors, mut options, training, told, .. } = run;
        if objective == Objective::Qrpo {
            // its gradients are as small as β; an anchor must not hold what they move
            options.loss.anchor *= options.loss.beta * options.loss.beta;
        }
        let mut examples = self.training_examples(&specialist, objective, &lessons).await?;
        let tried: Vec<TrainingExample> = lessons.iter().filter(|lesson| held_back(&lesson.template)).cloned().collect();
        if examples.is_empty() || tried.is_empty() {
            let told = format!("{} lessons to learn from by {}, {} set aside", examples.len(), objective.name(), tried.len());
            return Err(NyxError::Conflict(format!("{specialist} cannot be trained: {told}; expected some of both")));
        }
        let steps = examples.len().div_ceil(options.batch);
        examples.extend(self.anchors(&anchors, training.anchor_tokens, steps)?);
        let folder = self.folder(&specialist);
        let state = folder.with_extension("state");
        let summary = self.train_apart(options, examples, folder.clone(), state, training.cpu_share, told).await?;
        let adapter = self.adapters.import(&specialist, &folder, id.map(str::to_owned)).await?;
        Ok(Candidate { adapter, summary, learned: lessons.len() - tried.len(), tried })
    }

    async fn trained(&self, id: &str, run: Run) -> Result<RunReport, NyxError> {
        let (specialist, objective, training, canary) = (run.specialist.clone(), run.objective, run.training.clone(), run.canary);
        let evidence = evidence_digest(&run.lessons);
        let Candidate { adapter, summary, learned, tried } = self.candidate(run, Some(id)).await?;
        let mut report = RunReport {
            id: id.to_owned(),
            specialist: specialist.clone(),
            objective,
            status: RunStatus::Gate,
            adapter: Some(adapter.clone()),
            generation: None,
            trained: learned,
            tried: tried.len(),
            gate: None,
            tokens_per_second: summary.tokens as f64 / summary.seconds.max(1e-9),
            seconds: summary.seconds,
        };
        let note = |report: &RunReport| json!({ "report": report, "evidence": evidence, "losses": summary.losses.last() });
        self.store.note_run(id, RunStatus::Gate, &note(&report), Some(&adapter), None).await?;
        self.tell_run(id, &specialist, RunStatus::Gate, json!({ "adapter": adapter, "tried": tried.len() }));
        let tries = 1 + self.tries_on(&specialist, &evidence, id).await?;
        let gate = self.gate(&specialist, &adapter, &tried, &training, tries).await?;
        let passed = gate.passed;
        report.gate = Some(gate);
        report.status = match (passed, canary && training.canary_share > 0.0) {
            (false, _) => {
                self.adapters.retire(&adapter).await?;
                RunStatus::Refused
            }
            (true, true) => {
                self.adapters.set_canary(&specialist, &adapter, training.canary_share).await?;
                RunStatus::Canary
            }
            (true, false) => {
                let made = self.adapters.promote(&adapter, &format!("passed the gate of training run {id}")).await?;
                report.generation = Some(made.generation);
                RunStatus::Promoted
            }
        };
        self.store.note_run(id, report.status, &note(&report), Some(&adapter), None).await?;
        self.tell_run(id, &specialist, report.status, json!({ "adapter": adapter, "gate": report.gate }));
        Ok(report)
    }

    /// How often this evidence was tried before.
    async fn tries_on(&self, specialist: &str, evidence: &str, but: &str) -> Result<u32, NyxError> {
        let runs = self.store.runs(Some(specialist), 1_000).await?;
        let same = runs.iter().filter(|run| run.id != but && run.metrics["evidence"] == evidence && run.adapter_id.is_some()).count();
        Ok(u32::try_from(same).unwrap_or(u32::MAX))
    }

    /// Pieces of plain text whose likelihood is to stay, one for each step.
    fn anchors(&self, texts: &[String], tokens: usize, steps: usize) -> Result<Vec<Example>, NyxError> {
        if tokens == 0 || texts.is_empty() {
            return Ok(Vec::new());
        }
        let mut pieces = Vec::new();
        for text in texts.iter().cycle().take(steps * 4) {
            let encoded = self.text.encode(text)?;
            for piece in encoded.chunks_exact(2 * tokens).take(1) {
                let (prompt, rest) = piece.split_at(tokens);
                pieces.push(Example { prompt: prompt.to_vec(), continuations: vec![rest.to_vec()], aim: TrainingTarget::Anchor });
            }
            if pieces.len() == steps {
                break;
            }
        }
        Ok(pieces)
    }

    /// Trains on a thread of its own, which makes room while requests are answered; the adapter's folder is written when it ends.
    async fn train_apart(
        &self,
        options: TrainOptions,
        examples: Vec<Example>,
        folder: PathBuf,
        state: PathBuf,
        cpu_share: f64,
        mut told: Box<dyn FnMut(&Progress) + Send>,
    ) -> Result<Summary, NyxError> {
        let (files, busy, ended) = (Arc::clone(&self.files), self.busy(), self.admission.draining());
        blocking(move || -> Result<Summary, NyxError> {
            let mut trainer = Trainer::new(&files, options)?;
            let mut since = Instant::now();
            trainer.pause_by(move || {
                // while requests run, work for `cpu_share` of the time and leave the rest to them
                let worked = since.elapsed();
                let rest = worked.mul_f64((1.0 - cpu_share) / cpu_share);
                let until = Instant::now() + rest.min(Duration::from_secs(2));
                while busy() && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(2));
                }
                since = Instant::now();
            });
            let summary = trainer.run(&examples, Some(&state), &mut |progress| {
                told(progress);
                if ended.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if !summary.complete {
                return Err(NyxError::ShuttingDown);
            }
            trainer.save(&folder)?;
            Ok(summary)
        })
        .await?
    }

    /// Tries a candidate against the live one on what was set aside, and on what it must not lose.
    async fn gate(
        &self,
        specialist: &str,
        adapter: &str,
        tried: &[TrainingExample],
        training: &TrainingOptions,
        tries: u32,
    ) -> Result<GateReport, NyxError> {
        let lease = self.adapters.lease(adapter).await?;
        let candidate = AdapterChoice::Id(adapter.to_owned());
        let live = match self.adapters.active_generation(specialist).1 {
            Some(id) => AdapterChoice::Id(id),
            None => AdapterChoice::Base,
        };
        let pairs = self.scored(specialist, tried, [&candidate, &live]).await?;
        let asked = level(training.alpha, tries);
        let compared = blocking(move || compare(&pairs, asked, 1)).await?;
        let perplexity = [self.perplexity(Some(lease.clone())).await?, self.perplexity(None).await?];
        let findings = [self.findings(specialist, &candidate).await?, self.findings(specialist, &live).await?];
        let mut reasons = Vec::new();
        if !compared.better {
            let Compared { candidate, live, bound, level, .. } = compared;
            reasons.push(format!(
                "{candidate:.3} against {live:.3} on what was set aside: its lower bound at {level} is {bound:.4}, not above 0"
            ));
        }
        if compared.templates < LEAST_TEMPLATES {
            reasons.push(format!("{} templates were set aside, expected at least {LEAST_TEMPLATES}", compared.templates));
        }
        // what is no number is no better
        let most = perplexity[1] * (1.0 + training.perplexity_margin);
        if perplexity[0].is_nan() || perplexity[0] > most {
            reasons.push(format!("its perplexity on a neutral text is {:.2}, the base's {:.2}", perplexity[0], perplexity[1]));
        }
        if findings[0] > findings[1] {
            reasons.push(format!("the safety policy finds {} in its answers, {} in those of the live one", findings[0], findings[1]));
        }
        Ok(GateReport { passed: reasons.is_empty(), compared, tries, perplexity, findings, reasons })
    }

    /// How good both are on each lesson.
    async fn scored(&self, specialist: &str, lessons: &[TrainingExample], both: [&AdapterChoice; 2]) -> Result<Vec<Pair>, NyxError> {
        use futures_util::StreamExt;
        let score = |lesson: &TrainingExample| {
            let lesson = lesson.clone();
            async move {
                let [candidate, live] = both;
                let (candidate, live) = (self.score(specialist, &lesson, candidate).await?, self.score(specialist, &lesson, live).await?);
                Ok::<_, NyxError>(Pair { template: lesson.template.clone(), candidate, live })
            }
        };
        futures_util::stream::iter(lessons.iter().map(score)).buffered(AT_A_TIME).collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn score(&self, specialist: &str, lesson: &TrainingExample, choice: &AdapterChoice) -> Result<f64, NyxError> {
        if lesson.question.choices.is_some() {
            let question = Question { adapter: Some(choice.clone()), ..lesson.question.clone() };
            let response = self.dry_run(specialist, question, PATIENCE_MS).await?;
            let forecasts = self.forecasts(specialist);
            return Ok(lesson.score_choices(&response.choice_probabilities.unwrap_or_default(), forecasts));
        }
        let (text, weight) = match &lesson.truth {
            Label::Text { right, .. } => (right.clone(), 1.0),
            Label::Said { text, reward, .. } => (text.clone(), *reward),
            Label::Choice(_) | Label::Rated { .. } => return Ok(0.0),
        };
        let shown = self.presented(self.admission.internal_context(PATIENCE_MS), specialist, lesson.question.clone(), vec![text]).await?;
        let lease = match choice {
            AdapterChoice::Base => None,
            AdapterChoice::Id(id) => Some(self.adapters.lease(id).await?),
        };
        let scores = self.score_tokens(shown.prompt, shown.continuations, lease, PATIENCE_MS).await?;
        Ok(weight * scores.first().map_or(0.0, nyx_engine::ContinuationScore::mean))
    }

    /// On the neutral text, through an adapter or the base.
    pub(super) async fn perplexity(&self, adapter: Option<AdapterLease>) -> Result<f64, NyxError> {
        let tokens = self.text.encode(NEUTRAL)?;
        let (mut total, mut count) = (0.0, 0);
        for window in tokens.chunks(WINDOW).filter(|window| window.len() > 1) {
            let (first, rest) = window.split_at(1);
            let scores = self.score_tokens(first.to_vec(), vec![rest.to_vec()], adapter.clone(), PATIENCE_MS).await?;
            total -= scores.first().map_or(0.0, nyx_engine::ContinuationScore::total);
            count += rest.len();
        }
        Ok((total / f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX))).exp())
    }

    /// What the safety policy finds in answers to its cases.
    async fn findings(&self, specialist: &str, choice: &AdapterChoice) -> Result<usize, NyxError> {
        let mut found = 0;
        for case in cases()? {
            let target = Target::Specialist(specialist.to_owned());
            let mut question = Question::new(vec![ChatMessage::new(Role::User, case)], target, "trainer");
            question.adapter = Some(choice.clone());
            (question.sampling.seed, question.sampling.temperature) = (Some(1), Some(0.0));
            question.sampling.max_tokens = Some(CASE_TOKENS);
            let response = self.dry_run(specialist, question, PATIENCE_MS).await?;
            found += response.findings.len();
        }
        Ok(found)
    }
}

/// Which evidence it is: the level of the gate falls with each try on the same.
fn evidence_digest(lessons: &[TrainingExample]) -> String {
    let mut templates: Vec<&str> =
        lessons.iter().filter(|lesson| held_back(&lesson.template)).map(|lesson| lesson.template.as_str()).collect();
    templates.sort_unstable();
    learned_id(templates.join("\n").as_bytes())
}
