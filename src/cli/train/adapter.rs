//! `nyx train SPECIALIST`: trains an adapter on evaluation data, a data set, memories or the log,
//! and gates it.

use std::collections::BTreeSet;
use std::time::Duration;

use nyx_actors::adapters::AdapterLibrary;
use nyx_actors::phoebe::PhoebeStore;
use nyx_actors::trainer::{Run, RunReport, RunStatus, TrainingExample, TrainingOptions};
use nyx_actors::{Nyx, NyxBuilder, NyxError};
use nyx_engine::train::Objective;
use nyx_evals::{
    Dataset, EvalEnvironment, EvalError, progress_bar, read_dataset, to_examples, without_question,
};

use super::arguments::Train;
use crate::cli::error::CommandError;
use crate::cli::{adapters, output};
use crate::settings::Settings;

const GRACE: Duration = Duration::from_secs(5);

/// The inputs of training on evaluation data, and the library that stores a passing adapter.
struct EvalTraining<'a> {
    library: &'a AdapterLibrary,
    settings: &'a Settings,
    specialist: &'a str,
    dataset: &'a Dataset,
    training: TrainingOptions,
}

impl Train {
    pub(super) async fn train_adapter(
        &self,
        settings: &Settings,
        specialist: &str,
        dataset: &Dataset,
    ) -> Result<(), CommandError> {
        let mut training = settings.training.clone();
        if let Some(epochs) = self.adapter.epochs {
            training.epochs = epochs as usize;
        }
        let on_evals =
            !self.from_log && !self.adapter.from_memory && self.adapter.dataset.is_none();
        if on_evals {
            return Box::pin(self.train_on_evals(settings, specialist, dataset, training)).await;
        }
        let nyx = NyxBuilder::new(settings.nyx_options()?).start().await?;
        let done = self.train_on_record(&nyx, specialist, training).await;
        nyx.shutdown(GRACE).await;
        done
    }

    async fn train_on_record(
        &self,
        nyx: &Nyx,
        specialist: &str,
        training: TrainingOptions,
    ) -> Result<(), CommandError> {
        let mut run =
            nyx.training.service.run_from_log(specialist, self.adapter.objective, training).await?;
        run.canary = false;
        let given = match &self.adapter.dataset {
            Some(path) => Some(("dataset", read_dataset(path, specialist)?)),
            None if self.adapter.from_memory => {
                Some(("memory", nyx.training.service.evidence_of_memory(specialist).await?))
            }
            None => None,
        };
        if let Some((source, examples)) = given {
            run = Run {
                objective: self.adapter.objective.unwrap_or(Objective::Sft),
                examples,
                source,
                ..run
            };
        }
        self.train_or_export(nyx, run).await.map(drop)
    }

    /// Trains, or writes the training examples to a file.
    async fn train_or_export(
        &self,
        nyx: &Nyx,
        run: Run,
    ) -> Result<Option<RunReport>, CommandError> {
        if let Some(path) = &self.adapter.examples_to {
            let examples = nyx
                .training
                .service
                .training_examples(&run.specialist, run.objective, &run.examples)
                .await?;
            let text = serde_json::to_vec(&examples)
                .map_err(|error| NyxError::Internal(error.to_string()))?;
            std::fs::write(path, text)
                .map_err(|source| CommandError::Write { path: path.clone(), source })?;
            output::note(&format!("{} examples, at {}", examples.len(), path.display()));
            return Ok(None);
        }
        let run = Run { on_progress: progress_bar(&run.specialist), ..run };
        let report = nyx.training.service.train(run).await?;
        let RunReport { specialist, status, trained, tried, tokens_per_second, seconds, .. } =
            &report;
        output::line(&format!(
            "{specialist}: {trained} training examples in {seconds:.0} s ({tokens_per_second:.0} tokens/s), evaluated on {tried}"
        ))?;
        if let Some(gate) = &report.gate {
            let [low, high] = gate.compared.interval;
            let ([ours, base], (candidate, live)) =
                (gate.perplexity, (gate.compared.candidate, gate.compared.live));
            output::line(&format!(
                "gate: {candidate:.3} against {live:.3}, difference [{low:.3}, {high:.3}]; perplexity {ours:.2}, base {base:.2}"
            ))?;
            gate.reasons.iter().try_for_each(|reason| output::line(&format!("  {reason}")))?;
        }
        output::line(&format!(
            "{}{}",
            status.as_str(),
            report.adapter.as_deref().map_or_else(String::new, |id| format!(": {id}"))
        ))?;
        Ok(Some(report))
    }

    /// Trains in a temporary Nyx, so that the operator's data stays unchanged; an adapter that
    /// passes is stored and promoted in the operator's.
    async fn train_on_evals(
        &self,
        settings: &Settings,
        specialist: &str,
        dataset: &Dataset,
        training: TrainingOptions,
    ) -> Result<(), CommandError> {
        let store = PhoebeStore::connect(&settings.phoebe, &settings.data_dir).await?;
        let library = AdapterLibrary::new(store.clone(), &settings.adapters, &settings.data_dir);
        let done = Box::pin(self.train_on_evals_into(EvalTraining {
            library: &library,
            settings,
            specialist,
            dataset,
            training,
        }))
        .await;
        store.close().await;
        done
    }

    async fn train_on_evals_into(&self, teaching: EvalTraining<'_>) -> Result<(), CommandError> {
        let EvalTraining { library, settings, specialist, .. } = &teaching;
        let mut options = settings.nyx_options()?;
        // the candidate is compared with the active adapter
        let live =
            library.generations(specialist).await?.last().and_then(|made| made.adapter.clone());
        if let (Some(id), Some(policy)) =
            (live, options.specialists.iter_mut().find(|policy| policy.name == *specialist))
        {
            policy.adapter = Some(library.folder(&id).to_string_lossy().into_owned());
        }
        let environment = EvalEnvironment::start(
            options,
            self.seed,
            self.limit.map(|limit| limit as usize),
            None,
        )
        .await?;
        let done = self.in_environment(&environment, teaching).await;
        environment.shutdown().await;
        done
    }

    async fn in_environment(
        &self,
        environment: &EvalEnvironment,
        teaching: EvalTraining<'_>,
    ) -> Result<(), CommandError> {
        let EvalTraining { library, settings, specialist, dataset, training } = teaching;
        let mut questions =
            environment.sample(dataset.choices(specialist).map_err(EvalError::from)?);
        if specialist == "aletheia" {
            nyx_evals::register(environment, dataset).await?;
        }
        let anchors: Vec<String> = questions
            .iter()
            .map(|case| case.context.clone())
            .filter(|text| text.len() > 200)
            .collect();
        if self.adapter.blind {
            questions = questions.iter().map(without_question).collect();
        }
        let examples: Vec<TrainingExample> = to_examples(&questions, self.seed);
        let run = Run {
            specialist: specialist.to_owned(),
            objective: self.adapter.objective.unwrap_or(Objective::Choice),
            examples,
            anchors,
            options: training.train(self.seed),
            training,
            canary: false,
            source: "evals",
            on_progress: Box::new(|_| {}),
        };
        let Some(report) = self.train_or_export(&environment.nyx, run).await? else {
            return Ok(());
        };
        let (Some(id), RunStatus::Promoted) = (&report.adapter, report.status) else {
            return Ok(());
        };
        let folder = tempfile::tempdir()
            .map_err(|source| CommandError::Write { path: std::env::temp_dir(), source })?;
        let path = folder.path().join("adapter");
        environment.nyx.adapters.export(id, &path).await?;
        let kept = library
            .import(
                specialist,
                &path,
                Some(report.id.clone()),
                &adapters::base(settings)?,
                &BTreeSet::new(),
            )
            .await?;
        let made = library.promote(&kept, "passed the gate on evaluation data").await?;
        Ok(output::line(&format!("{specialist}: promoted as generation {}", made.generation))?)
    }
}
