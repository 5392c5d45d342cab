//! `nyx train SPECIALIST`: an adapter.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use nyx_engine::ModelFiles;
use nyx_engine::train::{Objective, TrainOptions};

use super::Train;
use crate::cli::{CommandError, output};
use crate::settings::Settings;
use crate::trials::{Places, Stage, Trials, blind, examples, train};

/// What an adapter is trained on, and how.
#[derive(Debug, Args)]
pub(super) struct Lessons {
    /// What is to become likelier: sft, choice, qrpo, kto, dpo or grpo [default: choice for trials, sft for texts]
    #[arg(long, value_name = "NAME", value_parser = Objective::parse)]
    objective: Option<Objective>,
    /// Passes over the examples
    #[arg(long, value_name = "N", default_value_t = 2)]
    epochs: u32,
    /// Examples of a step
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: u32,
    /// Of the low-rank pairs
    #[arg(long, value_name = "N", default_value_t = 16)]
    rank: u32,
    /// At the end of the warm-up
    #[arg(long, value_name = "X", default_value_t = 5e-4)]
    learning_rate: f64,
    /// Hide context and question: what is learned then is what the choices alone give away
    #[arg(long)]
    blind: bool,
    /// Write the examples in tokens to this file, and train nothing
    #[arg(long, value_name = "FILE")]
    examples_to: Option<PathBuf>,
}

impl Lessons {
    pub(super) fn options(&self, seed: u64) -> TrainOptions {
        let mut options = TrainOptions { epochs: self.epochs as usize, batch: self.batch as usize, seed, ..TrainOptions::default() };
        (options.lora.rank, options.lora.alpha) = (self.rank as usize, 2.0 * f64::from(self.rank));
        options.optimiser.learning_rate = self.learning_rate;
        options
    }
}

impl Train {
    pub(super) async fn train_adapter(&self, settings: &Settings, specialist: &str, trials: &Trials) -> Result<(), CommandError> {
        let out: PathBuf = self.out.clone().unwrap_or_else(|| settings.data_dir.join("trained")).join(specialist);
        let options = settings.nyx_options()?;
        let files = Arc::new(ModelFiles::open(&options.base_model).map_err(nyx_actors::NyxError::from)?);
        let stage = Stage::set(options, self.seed, self.limit.map(|limit| limit as usize), None).await?;
        let mut questions = stage.sample(trials.choices(specialist).map_err(crate::trials::EvalError::from)?);
        if self.adapter.blind {
            questions = questions.iter().map(blind).collect();
        }
        let shown = examples(&stage, &questions, self.adapter.objective.unwrap_or(Objective::Choice)).await;
        stage.strike().await;
        let places = Places { state: out.with_extension("state"), adapter: out.clone() };
        let examples: Vec<_> = shown?.into_iter().flatten().collect();
        if let Some(path) = &self.adapter.examples_to {
            let text = serde_json::to_vec(&examples).map_err(|error| nyx_actors::NyxError::Internal(error.to_string()))?;
            std::fs::write(path, text).map_err(|source| CommandError::Write { path: path.clone(), source })?;
            return Ok(output::note(&format!("{} examples, at {}", examples.len(), path.display())));
        }
        let summary = train(specialist, &files, self.adapter.options(self.seed), examples, places).await?;
        let pace = summary.tokens as f64 / summary.seconds;
        output::note(&format!(
            "{specialist}: {} steps in {:.0} s, {pace:.0} tokens/s; written to {}",
            summary.steps,
            summary.seconds,
            out.display()
        ));
        Ok(())
    }
}
