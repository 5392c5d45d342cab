//! `nyx train`: the small learned parts, from trials.

use std::path::PathBuf;

use clap::Args;

use super::{CommandError, make_data_dir, output};
use crate::settings::Settings;
use crate::trials::{PARTS, Stage, Trials, learn};

/// Learn a small part (how the master chooses, how memories are ranked, ...) from trials.
#[derive(Debug, Args)]
pub(super) struct Train {
    /// What to learn
    #[arg(required = true, value_parser = PARTS)]
    parts: Vec<String>,
    /// The folder of trials [default: $NYX_TRIALS, else ../shared/trials]
    #[arg(long, value_name = "DIR")]
    trials: Option<PathBuf>,
    /// Which part of the trials: NAME.SPLIT.jsonl is read
    #[arg(long, value_name = "SPLIT", default_value = "train")]
    split: String,
    /// Questions of a suite at most, drawn by the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// The same seed and trials, the same parameters
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where PART.json goes; a server reads DATA_DIR/learned when it starts [default: DATA_DIR/learned]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Train {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        let out = self.out.clone().unwrap_or_else(|| settings.data_dir.join("learned"));
        let trials = Trials { dir: self.trials.clone().unwrap_or_else(Trials::default_dir), split: self.split.clone() };
        for part in &self.parts {
            // each anew: a part that was just learned serves the next
            let stage = Stage::set(settings.nyx_options()?, self.seed, self.limit.map(|limit| limit as usize), Some(part)).await?;
            let lesson = learn(&stage, &trials, part).await;
            stage.strike().await;
            let lesson = lesson?;
            let path = out.join(format!("{part}.json"));
            std::fs::create_dir_all(&out)
                .and_then(|()| std::fs::write(&path, &lesson.file))
                .map_err(|source| CommandError::Write { path: path.clone(), source })?;
            for line in &lesson.lines {
                output::line(line)?;
            }
            output::note(&format!("written to {}", path.display()));
        }
        Ok(())
    }
}
