//! `nyx eval`: evaluates each specialist on evaluation data sets.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nyx_actors::NyxError;
use nyx_actors::routing::{ChoosingLog, PolicyReport, PolicySpec};
use nyx_evals::{
    Dataset, EvalEnvironment, EvalError, EvalPlan, Report, SUITES, evaluate, html_report,
    read_routing, run_routing,
};
use nyx_specialists::bandit::{Estimate, OffPolicy};

use super::error::{CommandError, make_data_dir};
use super::output;
use super::reproduce::Reproduce;
use crate::settings::Settings;

#[derive(Debug, Subcommand)]
enum EvalCommand {
    /// Train on evaluation data through the gate, run the feedback loop, and report dev results
    Reproduce(Reproduce),
}

/// Evaluate each specialist on evaluation data sets.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Eval {
    #[command(subcommand)]
    command: Option<EvalCommand>,
    /// Estimate another routing policy's mean reward from the recorded rewarded decisions: uniform,
    /// best, current or specialist=NAME; repeatable. Options follow after commas: temperature=T,
    /// epsilon=E, weights=none
    #[arg(long, value_name = "POLICY", conflicts_with_all = ["evals", "suite", "limit", "adapter", "no_answers", "out"])]
    policy: Vec<String>,
    /// Measure only routing accuracy, on this file of JSON lines: {"lang": "de", "request": "...",
    /// "specialist": "kairos"}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["policy", "evals", "suite", "adapter", "no_answers", "out"])]
    routing: Option<PathBuf>,
    /// The folder of evaluation data sets [default: $NYX_EVALS, else ../shared/trials]
    #[arg(long, value_name = "DIR")]
    evals: Option<PathBuf>,
    /// The split: NAME.SPLIT.jsonl is read
    #[arg(long, value_name = "SPLIT", default_value = "dev")]
    split: String,
    /// Only this suite; repeatable [default: all that exist]
    #[arg(long, value_name = "NAME", value_parser = SUITES)]
    suite: Vec<String>,
    /// Maximum number of questions per suite, sampled with the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// "none", or SPECIALIST=FOLDER, repeatable [default: the adapters of the settings]
    #[arg(long, value_name = "ADAPTER")]
    adapter: Vec<String>,
    /// Seed, for repeatable evaluations
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Evaluate only Mnemosyne's recall, not its answers
    #[arg(long)]
    no_answers: bool,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
    /// The folder of the report, SPLIT.json and SPLIT.html [default: DATA_DIR/eval]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Eval {
    pub(super) async fn run(mut self, settings: Settings) -> Result<(), CommandError> {
        if let Some(EvalCommand::Reproduce(reproduce)) = self.command.take() {
            return Box::pin(reproduce.run(settings)).await;
        }
        make_data_dir(&settings)?;
        if !self.policy.is_empty() {
            return self.policies(&settings).await;
        }
        if let Some(file) = &self.routing {
            return Box::pin(self.routing(&settings, file)).await;
        }
        let mut options = settings.nyx_options()?;
        for adapter in &self.adapter {
            if adapter == "none" {
                options.specialists.iter_mut().for_each(|policy| policy.adapter = None);
                continue;
            }
            let bad = || {
                NyxError::invalid(
                    "--adapter",
                    format!("--adapter is {adapter:?}, expected \"none\" or SPECIALIST=FOLDER"),
                )
            };
            let (name, folder) = adapter.split_once('=').ok_or_else(bad)?;
            let policy = options
                .specialists
                .iter_mut()
                .find(|policy| policy.name == name)
                .ok_or_else(bad)?;
            policy.adapter = Some(folder.to_owned());
        }
        let out = self.out.clone().unwrap_or_else(|| settings.data_dir.join("eval"));
        let dataset = Dataset {
            dir: self.evals.clone().unwrap_or_else(Dataset::default_dir),
            split: self.split.clone(),
        };
        let plan = EvalPlan { dataset, suites: self.suite.clone(), answers: !self.no_answers };
        let environment = EvalEnvironment::start(
            options,
            self.seed,
            self.limit.map(|limit| limit as usize),
            None,
        )
        .await?;
        let report = evaluate(&environment, &plan).await;
        environment.shutdown().await;
        self.write_report(&report?, &out)
    }

    async fn policies(&self, settings: &Settings) -> Result<(), CommandError> {
        let read = |text: &String| {
            text.parse::<PolicySpec>().map_err(|error| NyxError::invalid("--policy", error))
        };
        let specs = self.policy.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let log = ChoosingLog::open(&settings.nyx_options()?).await?;
        let mut reports = Vec::with_capacity(specs.len());
        for (name, spec) in self.policy.iter().zip(&specs) {
            reports.push(log.evaluate(name, spec)?);
        }
        if self.json {
            let json = match reports.as_slice() {
                [report] => serde_json::to_string_pretty(report),
                reports => serde_json::to_string_pretty(reports),
            };
            output::line(&json.map_err(|error| NyxError::Internal(error.to_string()))?)?;
            return Ok(());
        }
        output::line(&format!(
            "{} sampled decisions with a reward; mean reward per decision, 95 % intervals",
            log.len()
        ))?;
        let heads = ["as logged", "IPS", "self-normalised IPS", "doubly robust"]
            .map(|head| format!("{head:<23}"));
        output::line(&format!("{:<24} {} effective", "policy", heads.join(" ")))?;
        for PolicyReport { policy, estimates } in &reports {
            let OffPolicy { logged, ips, snips, doubly_robust, effective_decisions, .. } =
                estimates;
            let cells = [logged, ips, snips, doubly_robust].map(
                |Estimate { value, interval: [low, high], .. }| {
                    let cell = format!("{value:.3} [{low:.3}, {high:.3}]");
                    format!("{cell:<23}")
                },
            );
            output::line(&format!("{policy:<24} {} {effective_decisions:.0}", cells.join(" ")))?;
        }
        Ok(())
    }

    async fn routing(&self, settings: &Settings, file: &Path) -> Result<(), CommandError> {
        let options = settings.nyx_options()?;
        let names: Vec<&str> =
            options.specialists.iter().map(|policy| policy.name.as_str()).collect();
        let cases = read_routing(file, &names).map_err(EvalError::from)?;
        let environment = EvalEnvironment::start(
            options,
            self.seed,
            self.limit.map(|limit| limit as usize),
            None,
        )
        .await?;
        let report = run_routing(&environment, &environment.sample(cases)).await;
        environment.shutdown().await;
        let report = report?;
        if self.json {
            let json = serde_json::to_string_pretty(&report)
                .map_err(|error| NyxError::Internal(error.to_string()))?;
            return Ok(output::line(&json)?);
        }
        report.lines().iter().try_for_each(|line| output::line(line))?;
        Ok(())
    }

    fn write_report(&self, report: &Report, out: &Path) -> Result<(), CommandError> {
        let json = serde_json::to_string_pretty(report)
            .map_err(|error| NyxError::Internal(error.to_string()))?;
        let write = |name: String, text: &str| {
            let path = out.join(name);
            std::fs::create_dir_all(out)
                .and_then(|()| std::fs::write(&path, text))
                .map_err(|source| CommandError::Write { path: path.clone(), source })?;
            Ok::<_, CommandError>(path)
        };
        write(format!("{}.json", self.split), &json)?;
        let page = write(format!("{}.html", self.split), &html_report(report))?;
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
