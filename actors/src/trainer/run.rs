//! One training run: the examples are split, an adapter is trained on the larger part and evaluated
//! on the rest; what passes becomes a canary or is promoted.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nyx_domain::CellStep;
use nyx_engine::train::{
    Example, Objective, Progress, Summary, TrainOptions, Trainer, TrainingTarget,
};
use nyx_specialists::gate::held_back;
use nyx_specialists::learn::artifact_id;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::example::TrainingExample;
use super::gate::GateReport;
use super::options::TrainingOptions;
use super::process;
use super::record::{Model, RunStatus};
use super::service::TrainingService;
use crate::NyxError;
use crate::phoebe::now;
use crate::runtime::blocking;

/// A training run to start.
pub struct Run {
    pub specialist: String,
    pub objective: Objective,
    pub examples: Vec<TrainingExample>,
    /// Plain texts whose likelihood the adapter should keep.
    pub anchors: Vec<String>,
    pub options: TrainOptions,
    pub training: TrainingOptions,
    /// Whether a candidate becomes a canary first: there are requests for it to answer.
    pub canary: bool,
    /// Source of the examples: `evals`, `log`, `memory` or `dataset`.
    pub source: &'static str,
    /// Called with each step's progress.
    pub on_progress: Box<dyn FnMut(&Progress) + Send>,
}

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    pub id: String,
    pub specialist: String,
    pub objective: Objective,
    pub status: RunStatus,
    pub adapter: Option<String>,
    pub generation: Option<u64>,
    /// Number of examples trained on, and held out.
    pub trained: usize,
    pub tried: usize,
    pub gate: Option<GateReport>,
    pub tokens_per_second: f64,
    pub seconds: f64,
}

/// A trained candidate, and its held-out examples.
struct Candidate {
    adapter: String,
    summary: Summary,
    learned: usize,
    tried: Vec<TrainingExample>,
}

impl TrainingService {
    /// Trains, evaluates, and promotes what is better: see [`RunReport`]. The run is on record in
    /// `nyx_training_runs` from its start, and each status is published on the stream of cells.
    ///
    /// # Errors
    /// There are no examples to train on or to hold out; a device or phoebe fails. The run is
    /// recorded as failed then.
    pub async fn train(&self, run: Run) -> Result<RunReport, NyxError> {
        self.train_as(&Uuid::now_v7().to_string(), run).await
    }

    /// [`train`](Self::train) with a given id.
    pub(super) async fn train_as(&self, id: &str, run: Run) -> Result<RunReport, NyxError> {
        let settings = json!({
            "train": run.options, "training": run.training, "source": run.source, "examples": run.examples.len(), "process": process::this(),
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
        self.tell_run(
            id,
            &specialist,
            RunStatus::Training,
            json!({ "examples": run.examples.len() }),
        );
        match self.trained(id, run).await {
            Ok(report) => Ok(report),
            Err(error) => {
                self.tell_run(
                    id,
                    &specialist,
                    RunStatus::Failed,
                    json!({ "error": error.to_string() }),
                );
                self.store
                    .note_run(id, RunStatus::Failed, &Value::Null, None, Some(&error.to_string()))
                    .await?;
                Err(error)
            }
        }
    }

    fn tell_run(&self, run: &str, specialist: &str, status: RunStatus, metrics: Value) {
        let step = CellStep::Training { run: run.to_owned(), status: status.as_str(), metrics };
        self.cells.publish(None, Some(specialist), step);
    }

    /// Trains and stores the adapter as a candidate, without a recorded run and without a gate;
    /// returns its id. A fifth of the examples is held out all the same.
    ///
    /// # Errors
    /// As [`train`](Self::train).
    pub async fn train_only(&self, run: Run) -> Result<String, NyxError> {
        Ok(self.candidate(run, None).await?.adapter)
    }

    /// The tokens of a run's examples without the held-out ones: the trainer's input.
    ///
    /// # Errors
    /// A question is invalid.
    pub async fn training_examples(
        &self,
        specialist: &str,
        objective: Objective,
        examples: &[TrainingExample],
    ) -> Result<Vec<Example>, NyxError> {
        let mut tokenised = Vec::new();
        for example in examples.iter().filter(|example| !held_back(&example.template)) {
            tokenised.extend(example.examples(self, specialist, objective).await?);
        }
        Ok(tokenised)
    }

    async fn candidate(&self, run: Run, id: Option<&str>) -> Result<Candidate, NyxError> {
        let Run {
            specialist,
            objective,
            examples,
            anchors,
            mut options,
            training,
            on_progress,
            ..
        } = run;
        if objective == Objective::Qrpo {
            // its gradients scale with β; the anchor must not dominate them
            options.loss.anchor *= options.loss.beta * options.loss.beta;
        }
        let mut tokenised = self.training_examples(&specialist, objective, &examples).await?;
        let tried: Vec<TrainingExample> =
            examples.iter().filter(|example| held_back(&example.template)).cloned().collect();
        if tokenised.is_empty() || tried.is_empty() {
            let counts = format!(
                "{} examples to train on by {}, {} held out",
                tokenised.len(),
                objective.name(),
                tried.len()
            );
            return Err(NyxError::Conflict(format!(
                "{specialist} cannot be trained: {counts}; expected some of both"
            )));
        }
        let steps = tokenised.len().div_ceil(options.batch);
        tokenised.extend(self.anchors(&anchors, training.anchor_tokens, steps)?);
        let folder = self.folder(&specialist);
        let state = folder.with_extension("state");
        let summary = self
            .train_blocking(
                options,
                tokenised,
                folder.clone(),
                state,
                training.cpu_share,
                on_progress,
            )
            .await?;
        let adapter = self.adapters.import(&specialist, &folder, id.map(str::to_owned)).await?;
        Ok(Candidate { adapter, summary, learned: examples.len() - tried.len(), tried })
    }

    async fn trained(&self, id: &str, run: Run) -> Result<RunReport, NyxError> {
        let (specialist, objective, training, canary) =
            (run.specialist.clone(), run.objective, run.training.clone(), run.canary);
        let evidence = evidence_digest(&run.examples);
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
        self.tell_run(
            id,
            &specialist,
            RunStatus::Gate,
            json!({ "adapter": adapter, "tried": tried.len() }),
        );
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
                let made = self
                    .adapters
                    .promote(&adapter, &format!("passed the gate of training run {id}"))
                    .await?;
                report.generation = Some(made.generation);
                RunStatus::Promoted
            }
        };
        self.store.note_run(id, report.status, &note(&report), Some(&adapter), None).await?;
        self.tell_run(
            id,
            &specialist,
            report.status,
            json!({ "adapter": adapter, "gate": report.gate }),
        );
        Ok(report)
    }

    /// Number of earlier gate runs on these examples.
    async fn tries_on(&self, specialist: &str, evidence: &str, but: &str) -> Result<u32, NyxError> {
        let runs = self.store.runs(Some(specialist), 1_000).await?;
        let same = runs
            .iter()
            .filter(|run| {
                run.id != but && run.metrics["evidence"] == evidence && run.adapter_id.is_some()
            })
            .count();
        Ok(u32::try_from(same).unwrap_or(u32::MAX))
    }

    /// Chunks of plain text whose likelihood is kept, one per step.
    fn anchors(
        &self,
        texts: &[String],
        tokens: usize,
        steps: usize,
    ) -> Result<Vec<Example>, NyxError> {
        if tokens == 0 || texts.is_empty() {
            return Ok(Vec::new());
        }
        let mut pieces = Vec::new();
        for text in texts.iter().cycle().take(steps * 4) {
            let encoded = self.text.encode(text)?;
            for piece in encoded.chunks_exact(2 * tokens).take(1) {
                let (prompt, rest) = piece.split_at(tokens);
                pieces.push(Example {
                    prompt: prompt.to_vec(),
                    continuations: vec![rest.to_vec()],
                    target: TrainingTarget::Anchor,
                });
            }
            if pieces.len() == steps {
                break;
            }
        }
        Ok(pieces)
    }

    /// Trains on a blocking thread, which yields to requests; the adapter's folder is written at
    /// the end.
    async fn train_blocking(
        &self,
        options: TrainOptions,
        examples: Vec<Example>,
        folder: PathBuf,
        state: PathBuf,
        cpu_share: f64,
        mut on_progress: Box<dyn FnMut(&Progress) + Send>,
    ) -> Result<Summary, NyxError> {
        let (files, busy, ended) =
            (Arc::clone(&self.files), self.busy(), self.admission.draining());
        blocking(move || -> Result<Summary, NyxError> {
            let mut trainer = Trainer::new(&files, options)?;
            let mut since = Instant::now();
            trainer.pause_by(move || {
                // while requests run, use `cpu_share` of the time
                let worked = since.elapsed();
                let rest = worked.mul_f64((1.0 - cpu_share) / cpu_share);
                let until = Instant::now() + rest.min(Duration::from_secs(2));
                while busy() && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(2));
                }
                since = Instant::now();
            });
            let summary = trainer.run(&examples, Some(&state), &mut |progress| {
                on_progress(progress);
                if ended.is_cancelled() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
            if !summary.complete {
                return Err(NyxError::ShuttingDown);
            }
            trainer.save(&folder)?;
            Ok(summary)
        })
        .await?
    }
}

/// Digest of the held-out templates: the gate's significance level decreases with each run on the
/// same ones.
fn evidence_digest(examples: &[TrainingExample]) -> String {
    let mut templates: Vec<&str> = examples
        .iter()
        .filter(|example| held_back(&example.template))
        .map(|example| example.template.as_str())
        .collect();
    templates.sort_unstable();
    artifact_id(templates.join("\n").as_bytes())
}
