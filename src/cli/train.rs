//! `nyx train`: the specialists' adapters, and the small learned parts.

mod adapter;

use std::path::PathBuf;

use clap::Args;
use nyx_actors::NyxError;

use super::{CommandError, make_data_dir, output};
use crate::settings::Settings;
use nyx_evals::{Dataset, EvalEnvironment, PARTS, fit_part};

/// Train a specialist's adapter, or learn how sure an answer is.
#[derive(Debug, Args)]
pub(super) struct Train {
    /// Specialists whose adapters to train, or `confidence`, to fit it on evaluation data
    #[arg(required = true, value_name = "PART|SPECIALIST")]
    parts: Vec<String>,
    #[command(flatten)]
    adapter: adapter::Lessons,
    /// Learn specialists' adapters from the decisions on record instead of evaluation data. What is learned is put to use only if it is better on what was held
    /// back
    #[arg(long, conflicts_with_all = ["evals", "split", "limit"])]
    from_log: bool,
    /// The folder of evaluation data sets [default: $NYX_EVALS, else ../shared/trials]
    #[arg(long, value_name = "DIR")]
    evals: Option<PathBuf>,
    /// Which split: NAME.SPLIT.jsonl is read
    #[arg(long, value_name = "SPLIT", default_value = "train")]
    split: String,
    /// Questions of a suite at most, drawn by the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// The same seed and dataset, the same parameters
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where PART.json or the adapter's folder SPECIALIST goes; a server reads DATA_DIR/learned when it starts [default: DATA_DIR/learned]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Train {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        let out = self.out.clone().unwrap_or_else(|| settings.data_dir.join("learned"));
        let dataset = Dataset { dir: self.evals.clone().unwrap_or_else(Dataset::default_dir), split: self.split.clone() };
        let policies = settings.nyx_options()?.specialists;
        let is_specialist = |name: &String| policies.iter().any(|policy| policy.name == *name);
        if let Some(other) = self.parts.iter().find(|name| !PARTS.contains(&name.as_str()) && !is_specialist(name)) {
            return Err(nyx_evals::EvalError::UnknownPart { name: other.clone() }.into());
        }
        let recorded = self.from_log || self.adapter.from_memory || self.adapter.dataset.is_some();
        if let Some(part) = self.parts.iter().find(|part| recorded && !is_specialist(part)) {
            let reason = format!("{part:?} is learned from dataset, expected specialists");
            return Err(NyxError::invalid("--from-log", reason).into());
        }
        for part in &self.parts {
            if is_specialist(part) {
                Box::pin(self.train_adapter(&settings, part, &dataset)).await?;
                continue;
            }
            // each anew: a part that was just learned serves the next
            let environment =
                EvalEnvironment::start(settings.nyx_options()?, self.seed, self.limit.map(|limit| limit as usize), Some(part)).await?;
            let fitted = fit_part(&environment, &dataset, part).await;
            environment.shutdown().await;
            let fitted = fitted?;
            let path = out.join(format!("{part}.json"));
            std::fs::create_dir_all(&out)
                .and_then(|()| std::fs::write(&path, &fitted.file))
                .map_err(|source| CommandError::Write { path: path.clone(), source })?;
            for line in &fitted.lines {
                output::line(line)?;
            }
            output::note(&format!("written to {}", path.display()));
        }
        Ok(())
    }
}
