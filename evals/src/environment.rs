//! A temporary Nyx instance for evaluations, with a database and an index that are deleted
//! afterwards.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use nyx_actors::adapters::AdapterOptions;
use nyx_actors::artifacts::FOLDER;
use nyx_actors::facts::FactOptions;
use nyx_actors::memory::{MemoryOptions, StoreKind};
use nyx_actors::phoebe::PhoebeOptions;
use nyx_actors::{Nyx, NyxBuilder, NyxError, NyxOptions, StartError};
use nyx_domain::{ChatMessage, Decision, Question, Role, Target};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tempfile::TempDir;

use crate::ChoiceCase;

/// Concurrent questions: enough to fill a batch, few enough that none waits long.
const AT_A_TIME: usize = 16;
/// Deadline of a question, in milliseconds.
pub const DEADLINE_MS: u64 = 600_000;
const GRACE: Duration = Duration::from_secs(5);

/// The instance, the seed and the sample size of each suite.
pub struct EvalEnvironment {
    pub nyx: Nyx,
    pub seed: u64,
    pub limit: Option<usize>,
    _data: TempDir,
}

impl EvalEnvironment {
    /// Starts Nyx with `options` on an empty data folder, without the artifact that is being
    /// fitted: the old one may be incompatible.
    ///
    /// # Errors
    /// As [`Nyx::start`].
    pub async fn start(
        options: NyxOptions,
        seed: u64,
        limit: Option<usize>,
        learning: Option<&str>,
    ) -> Result<Self, StartError> {
        let data = tempfile::tempdir().map_err(|error| StartError::Setting {
            key: "TMPDIR",
            value: format!("{} ({error})", std::env::temp_dir().display()),
            expected: "a folder to write in",
        })?;
        // fitted artifacts are evaluated too
        let copied = copy_artifacts(&options.data_dir, data.path(), learning).map_err(|error| {
            StartError::Setting {
                key: "data_dir",
                value: format!("{} ({error})", options.data_dir.display()),
                expected: "a folder whose fitted artifacts can be read",
            }
        });
        copied?;
        // the operator's data is not written to, and tables registered there are not used
        let (data_dir, phoebe) = (data.path().to_owned(), PhoebeOptions::default());
        let memory = MemoryOptions {
            store: StoreKind::Phoebe,
            url: None,
            retention_days: None,
            ..options.memory
        };
        let facts = FactOptions { external: Vec::new(), role: None, ..options.facts };
        let adapters = AdapterOptions { dir: None, ..options.adapters };
        let options = NyxOptions { data_dir, phoebe, memory, adapters, facts, ..options };
        Ok(Self { nyx: NyxBuilder::new(options).start().await?, seed, limit, _data: data })
    }

    pub async fn shutdown(self) {
        self.nyx.shutdown(GRACE).await;
    }

    /// The first `limit` cases of a shuffle with the seed; all cases in order without a limit.
    pub fn sample<T>(&self, mut cases: Vec<T>) -> Vec<T> {
        if let Some(limit) = self.limit.filter(|limit| *limit < cases.len()) {
            cases.shuffle(&mut StdRng::seed_from_u64(self.seed));
            cases.truncate(limit);
        }
        cases
    }

    /// Runs `work` on the items concurrently, with a progress bar; the results are in the items'
    /// order.
    ///
    /// # Errors
    /// The first failure.
    pub async fn each<T, R, F: Future<Output = Result<R, NyxError>>>(
        &self,
        what: &str,
        items: impl IntoIterator<Item = T>,
        work: impl Fn(T) -> F,
    ) -> Result<Vec<R>, NyxError> {
        let items: Vec<T> = items.into_iter().collect();
        let bar = bar(what, items.len() as u64);
        let running = futures_util::stream::iter(items.into_iter().map(work)).buffered(AT_A_TIME);
        let counted = running.inspect(|_| bar.inc(1));
        let done = counted.collect::<Vec<_>>().await.into_iter().collect();
        bar.finish_and_clear();
        done
    }

    /// Answers one question.
    ///
    /// # Errors
    /// As [`Nyx::ask`].
    pub async fn ask(&self, question: Question) -> Result<Decision, NyxError> {
        let _place = self.nyx.admission.admit()?;
        self.nyx.decisions.ask(self.nyx.admission.context(Some(DEADLINE_MS))?, question, None).await
    }

    /// A context for a request of this environment.
    ///
    /// # Errors
    /// Only if the settings do not allow the deadline.
    pub fn context(&self) -> Result<nyx_actors::RequestContext, NyxError> {
        self.nyx.admission.context(Some(DEADLINE_MS))
    }
}

/// A progress bar on stderr, hidden if that is not a terminal.
pub fn bar(what: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<24} {wide_bar} {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style).with_message(what.to_owned())
}

/// The current time for cases without a date: noon of 1 January 2026.
pub fn today() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::hours(24 * 20_454 + 12)
}

/// A case as a client's request to its specialist, at its own date. Cases without a date use a
/// fixed one, because some prompts contain the current date.
pub fn question(case: &ChoiceCase, seed: u64) -> Question {
    let target = Target::Specialist(case.specialist.clone());
    let mut question =
        Question::new(vec![ChatMessage::new(Role::User, case.question.clone())], target, "eval");
    question.choices = Some(case.choices.clone());
    question.sampling.seed = Some(seed);
    question.inputs.context =
        Some(case.context.clone()).filter(|context| !context.trim().is_empty());
    question.inputs.prior = case.prior;
    let asked = case.asked.and_then(|day| day.and_hms_opt(12, 0, 0)).map(|now| now.and_utc());
    question.inputs.now = Some(asked.unwrap_or_else(today));
    question
}

/// Copies the fitted artifacts of one data folder to another, except one.
fn copy_artifacts(from: &Path, to: &Path, but: Option<&str>) -> std::io::Result<()> {
    let (from, to) = (from.join(FOLDER), to.join(FOLDER));
    if !from.is_dir() {
        return Ok(());
    }
    std::fs::create_dir(&to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if but.is_some_and(|part| entry.file_name() == format!("{part}.json").as_str()) {
            continue;
        }
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
