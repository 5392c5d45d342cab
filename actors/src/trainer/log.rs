//! Evidence for training from the log and from memories, and runs based on it.

use nyx_domain::{CellStep, ChatMessage, Memory, MemoryFilter, Question, Role, Target};
use nyx_engine::train::Objective;
use serde_json::{Value, json};

use super::example::{self, Label, TrainingExample};
use super::options::TrainingOptions;
use super::process;
use super::record::{Model, RunStatus};
use super::run::Run;
use super::service::TrainingService;
use crate::NyxError;
use crate::phoebe::messages::ListMemories;
use crate::phoebe::search::LOCAL_TENANT;

/// Memories per page.
const PAGE: usize = 500;

impl TrainingService {
    /// Marks interrupted runs as failed: those whose process, on this machine, has ended.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub(super) async fn end_abandoned_runs(&self) -> Result<(), NyxError> {
        let runs = self.store.runs(None, 1_000).await?;
        let abandoned = |run: &Model| {
            run.ended_at.is_none()
                && run.status != RunStatus::Canary.as_str()
                && process::has_ended(&run.settings["process"])
        };
        for run in runs.into_iter().filter(abandoned) {
            let error = "its process ended before it did";
            self.store
                .note_run(
                    &run.id,
                    RunStatus::Failed,
                    &run.metrics,
                    run.adapter_id.as_deref(),
                    Some(error),
                )
                .await?;
            let step = CellStep::Training {
                run: run.id,
                status: RunStatus::Failed.as_str(),
                metrics: json!({ "error": error }),
            };
            self.cells.publish(None, Some(&run.specialist), step);
        }
        Ok(())
    }

    /// The training examples of a specialist: its decisions with feedback.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn evidence_of_log(
        &self,
        specialist: &str,
    ) -> Result<Vec<TrainingExample>, NyxError> {
        Ok(example::of_log(&self.decisions_with_feedback().await?, specialist))
    }

    /// The stored memories, each as the answer to a question about its speaker and time.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn evidence_of_memory(
        &self,
        specialist: &str,
    ) -> Result<Vec<TrainingExample>, NyxError> {
        let mut memories: Vec<Memory> = Vec::new();
        loop {
            let after = memories.last().map(|memory| memory.id);
            let page = self
                .store
                .memories(ListMemories {
                    tenant: LOCAL_TENANT.to_owned(),
                    after,
                    limit: PAGE as u64,
                })
                .await?;
            let last = page.len() < PAGE;
            memories.extend(page);
            if last {
                break;
            }
        }
        let to_example = |memory: Memory| {
            let who = memory.speaker.as_deref().map_or("I".to_owned(), str::to_owned);
            let on = memory
                .when
                .map(|when| format!(" on {}", when.format("%-d %B %Y")))
                .unwrap_or_default();
            let first: Vec<&str> = memory.text.split_whitespace().take(4).collect();
            let asked = format!("What did {who} say{on}? It begins with \"{}\".", first.join(" "));
            let target = Target::Specialist(specialist.to_owned());
            let mut question =
                Question::new(vec![ChatMessage::new(Role::User, asked)], target, "trainer");
            question.inputs.memory = MemoryFilter::of(memory.conversation);
            TrainingExample {
                template: memory.text.clone(),
                question,
                label: Label::Text { correct: memory.text, rejected: None },
            }
        };
        Ok(memories.into_iter().map(to_example).collect())
    }

    /// A run from the log, with the objective that suits most of its examples where none is given.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn run_from_log(
        &self,
        specialist: &str,
        objective: Option<Objective>,
        training: TrainingOptions,
    ) -> Result<Run, NyxError> {
        let examples = self.evidence_of_log(specialist).await?;
        let objective = objective.unwrap_or_else(|| suited(&examples));
        let anchors = anchors_of(&examples);
        // each run has another seed: a failed one is not repeated bit for bit
        let seed = 1 + self.store.runs(Some(specialist), 1_000).await?.len() as u64;
        let (options, specialist) = (training.train(seed), specialist.to_owned());
        Ok(Run {
            specialist,
            objective,
            examples,
            anchors,
            options,
            training,
            canary: true,
            source: "log",
            on_progress: Box::new(|_| {}),
        })
    }

    /// Ends a canary: promotes it if it was better, else retires it.
    ///
    /// # Errors
    /// When phoebe or a device does not answer.
    pub(super) async fn end_canary(
        &self,
        specialist: &str,
        adapter: &str,
        better: bool,
        metrics: Value,
    ) -> Result<(), NyxError> {
        // promoted before the canary is cleared: after a crash in between, the active generation
        // shows the result
        let status = if better {
            self.adapters.promote(adapter, "better than the live one as a canary").await?;
            self.adapters.clear_canary(specialist).await?;
            RunStatus::Promoted
        } else {
            self.adapters.clear_canary(specialist).await?;
            self.adapters.retire(adapter).await?;
            RunStatus::Refused
        };
        let runs = self.store.runs(Some(specialist), 100).await?;
        if let Some(run) = runs.into_iter().find(|run| run.adapter_id.as_deref() == Some(adapter)) {
            let mut updated = run.metrics.clone();
            updated["canary"] = metrics.clone();
            self.store.note_run(&run.id, status, &updated, Some(adapter), None).await?;
            let step = CellStep::Training {
                run: run.id,
                status: status.as_str(),
                metrics: json!({ "canary": metrics }),
            };
            self.cells.publish(None, Some(specialist), step);
        }
        Ok(())
    }
}

/// Likelihood of choices, QRPO for rated texts, SFT for corrections: whichever fits most examples.
fn suited(examples: &[TrainingExample]) -> Objective {
    let count =
        |is: &dyn Fn(&Label) -> bool| examples.iter().filter(|example| is(&example.label)).count();
    let choices = count(&|label| matches!(label, Label::Choice(_) | Label::Rated { .. }));
    let rated = count(&|label| matches!(label, Label::Generated { .. }));
    let texts = count(&|label| matches!(label, Label::Text { .. }));
    if choices >= rated && choices >= texts {
        Objective::Choice
    } else if rated >= texts {
        Objective::Qrpo
    } else {
        Objective::Sft
    }
}

/// The callers' context texts, whose likelihood the adapter should keep.
pub(super) fn anchors_of(examples: &[TrainingExample]) -> Vec<String> {
    examples
        .iter()
        .filter_map(|example| example.question.inputs.context.clone())
        .filter(|text| text.len() > 300)
        .collect()
}
