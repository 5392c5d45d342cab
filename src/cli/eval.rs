//! `nyx eval`: how good each specialist is, on trials.

use std::path::PathBuf;

use clap::Args;
use nyx_actors::NyxError;

use super::{CommandError, make_data_dir, output};
use crate::settings::Settings;
use crate::trials::{Programme, Report, SUITES, Stage, Trials, evaluate, page};

/// Measure each specialist on trials.
#[derive(Debug, Args)]
pub(super) struct Eval {
    /// The folder of trials [default: $NYX_TRIALS, else ../shared/trials]
    #[arg(long, value_name = "DIR")]
    trials: Option<PathBuf>,
    /// Which part of the trials: NAME.SPLIT.jsonl is read
    #[arg(long, value_name = "SPLIT", default_value = "dev")]
    split: String,
    /// Only this suite; may be given again [default: all that are there]
    #[arg(long, value_name = "NAME", value_parser = SUITES)]
    suite: Vec<String>,
    /// Questions of a suite at most, drawn by the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// "none", or SPECIALIST=FOLDER, which may be given again [default: the adapters of the settings]
    #[arg(long, value_name = "ADAPTER")]
    adapter: Vec<String>,
    /// Makes the evaluation repeatable
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Let Mnemosyne recall only, and not answer
    #[arg(long)]
    no_answers: bool,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
    /// Where the report goes, as SPLIT.json and SPLIT.html [default: DATA_DIR/eval]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Eval {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        let mut options = settings.nyx_options()?;
        for adapter in &self.adapter {
            if adapter == "none" {
                options.specialists.iter_mut().for_each(|policy| policy.adapter = None);
                continue;
            }
            let bad = || NyxError::invalid("--adapter", format!("--adapter is {adapter:?}, expected \"none\" or SPECIALIST=FOLDER"));
            let (name, folder) = adapter.split_once('=').ok_or_else(bad)?;
            let policy = options.specialists.iter_mut().find(|policy| policy.name == name).ok_or_else(bad)?;
            policy.adapter = Some(folder.to_owned());
        }
        let out = self.out.clone().unwrap_or_else(|| settings.data_dir.join("eval"));
        let trials = Trials { dir: self.trials.clone().unwrap_or_else(Trials::default_dir), split: self.split.clone() };
        let programme = Programme { trials, suites: self.suite.clone(), answers: !self.no_answers };
        let stage = Stage::set(options, self.seed, self.limit.map(|limit| limit as usize), None).await?;
        let report = evaluate(&stage, &programme).await;
        stage.strike().await;
        self.tell(&report?, &out)
    }

    fn tell(&self, report: &Report, out: &std::path::Path) -> Result<(), CommandError> {
        let json = serde_json::to_string_pretty(report).map_err(|error| NyxError::Internal(error.to_string()))?;
        let write = |name: String, text: &str| {
            let path = out.join(name);
            std::fs::create_dir_all(out)
                .and_then(|()| std::fs::write(&path, text))
                .map_err(|source| CommandError::Write { path: path.clone(), source })?;
            Ok::<_, CommandError>(path)
        };
        write(format!("{}.json", self.split), &json)?;
        let page = write(format!("{}.html", self.split), &page(report))?;
        if self.json {
            output::line(&json)?;
        } else {
            for line in report.lines() {
                output::line(&line)?;
            }
        }
        output::note(&format!("the report: {}", page.display()));
        Ok(())
    }
}
