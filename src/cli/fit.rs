//! `nyx fit PART`: fits small artifacts, such as the confidence calibrators, on evaluation data.

use std::path::PathBuf;

use clap::Args;
use nyx_evals::{Dataset, EvalEnvironment, PARTS, fit_part};

use super::error::{CommandError, make_data_dir};
use super::output;
use crate::settings::Settings;

/// Fit the confidence calibrators on evaluation data.
#[derive(Debug, Args)]
pub(super) struct Fit {
    /// What to fit
    #[arg(required = true, value_name = "PART", value_parser = PARTS)]
    parts: Vec<String>,
    /// The folder of evaluation data sets [default: $NYX_EVALS, else ../shared/trials]
    #[arg(long, value_name = "DIR")]
    evals: Option<PathBuf>,
    /// The split: NAME.SPLIT.jsonl is read
    #[arg(long, value_name = "SPLIT", default_value = "train")]
    split: String,
    /// Maximum number of questions per suite, sampled with the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Seed: with the same seed and data the parameters are the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The folder for PART.json; a server reads DATA_DIR/artifacts at startup
    /// [default: DATA_DIR/artifacts]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Fit {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        let out = self.out.unwrap_or_else(|| settings.data_dir.join("artifacts"));
        let dataset =
            Dataset { dir: self.evals.unwrap_or_else(Dataset::default_dir), split: self.split };
        for part in &self.parts {
            // a new environment for each: a part that was just fitted is used when fitting the next
            let environment = EvalEnvironment::start(
                settings.nyx_options()?,
                self.seed,
                self.limit.map(|limit| limit as usize),
                Some(part),
            )
            .await?;
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
