//! Training a specialist's adapter on trials with choices: through the same program that will be asked, on the tokens that it will be shown.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use nyx_actors::NyxError;
use nyx_engine::ModelFiles;
use nyx_engine::train::{Aim, Example, Objective, Progress, Summary, TrainOptions, Trainer};

use super::stage::{Stage, question};
use super::{ChoiceTrial, EvalError};

/// What stands in the place of a question that must not be seen.
const UNSEEN: &str = "Which one?";

/// A trial without its context and question: what is left is what the choices alone give away.
pub fn blind(trial: &ChoiceTrial) -> ChoiceTrial {
    ChoiceTrial { context: String::new(), question: UNSEEN.into(), prior: None, asked: None, table: None, ..trial.clone() }
}

/// What a trial is to teach, by the objective.
///
/// # Errors
/// [`EvalError::Unfit`] for an objective that needs what trials do not have.
fn aims(
    objective: Objective,
    trial: &ChoiceTrial,
    stands_for: &[usize],
    continuations: &[Vec<u32>],
) -> Result<Vec<(Vec<Vec<u32>>, Aim)>, EvalError> {
    let is_right = |at: usize| stands_for.get(at) == Some(&trial.answer);
    let all = continuations.to_vec();
    let by_right = |right: f64, wrong: f64| (0..all.len()).map(|at| if is_right(at) { right } else { wrong }).collect::<Vec<_>>();
    let right = (0..all.len()).find(|at| is_right(*at));
    let each = |make: &dyn Fn(usize) -> Option<(Vec<Vec<u32>>, Aim)>| (0..all.len()).filter_map(make).collect();
    Ok(match objective {
        Objective::Choice => vec![(all.clone(), Aim::Shares(by_right(1.0, 0.0)))],
        Objective::Sft => right.map(|at| (vec![all[at].clone()], Aim::Answer)).into_iter().collect(),
        Objective::Qrpo => vec![(all.clone(), Aim::Rewards(by_right(1.0, -1.0)))],
        Objective::Grpo => vec![(all.clone(), Aim::Group(by_right(1.0, 0.0)))],
        Objective::Kto => each(&|at| Some((vec![all[at].clone()], Aim::Thumb(is_right(at))))),
        Objective::Dpo => {
            each(&|at| right.filter(|right| *right != at).map(|right| (vec![all[right].clone(), all[at].clone()], Aim::Pair)))
        }
    })
}

/// Examples of trials as their specialist reads them; each trial's own.
///
/// # Errors
/// The first that cannot be read.
pub async fn examples(stage: &Stage, trials: &[ChoiceTrial], objective: Objective) -> Result<Vec<Vec<Example>>, EvalError> {
    let shown = stage
        .each("reading", trials, |trial| async move {
            stage.nyx.presented(stage.context()?, &trial.specialist, question(trial, stage.seed), Vec::new()).await
        })
        .await?;
    let mut all = Vec::with_capacity(trials.len());
    for (trial, readings) in trials.iter().zip(shown) {
        let mut own = Vec::new();
        for reading in readings {
            let aims = aims(objective, trial, &reading.stands_for, &reading.continuations)?;
            own.extend(aims.into_iter().map(|(continuations, aim)| Example { prompt: reading.prompt.clone(), continuations, aim }));
        }
        all.push(own);
    }
    Ok(all)
}

/// Where a run keeps its state, and where its adapter goes.
#[derive(Debug, Clone)]
pub struct Places {
    pub adapter: PathBuf,
    pub state: PathBuf,
}

/// Trains on a thread of its own, with a bar of loss, margin, pace and time left.
///
/// # Errors
/// What the trainer refuses.
pub async fn train(
    what: &str,
    files: &Arc<ModelFiles>,
    options: TrainOptions,
    examples: Vec<Example>,
    places: Places,
) -> Result<Summary, EvalError> {
    let (files, what) = (Arc::clone(files), what.to_owned());
    let work = move || -> Result<Summary, nyx_engine::EngineError> {
        let mut trainer = Trainer::new(&files, options)?;
        let style = ProgressStyle::with_template("{prefix:<20} {wide_bar} {pos}/{len} {msg} {eta}");
        let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_prefix(what.clone());
        let (mut tokens, mut last) = (0, std::time::Duration::ZERO);
        let mut told = |progress: &Progress| {
            tokens += progress.tokens;
            bar.set_length(progress.steps);
            bar.set_position(progress.step);
            let margin = progress.margin.map_or_else(String::new, |margin| format!(", margin {margin:.2}"));
            let pace = tokens as f64 / progress.elapsed.as_secs_f64();
            bar.set_message(format!("loss {:.3}{margin}, {pace:.0} tokens/s", progress.loss));
            // a log has no bar
            if bar.is_hidden() && (progress.elapsed.saturating_sub(last).as_secs() >= 10 || progress.step == progress.steps) {
                last = progress.elapsed;
                let left = progress.elapsed.as_secs_f64() / tokens.max(1) as f64
                    * progress.tokens as f64
                    * (progress.steps - progress.step) as f64;
                tracing::info!(
                    "{what}: step {} of {}, loss {:.3}{margin}, {pace:.0} tokens/s, about {left:.0} s left",
                    progress.step,
                    progress.steps,
                    progress.loss
                );
            }
            ControlFlow::Continue(())
        };
        let summary = trainer.run(&examples, Some(&places.state), &mut told)?;
        bar.finish_and_clear();
        trainer.save(&places.adapter)?;
        Ok(summary)
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| NyxError::Internal(error.to_string()))?;
    Ok(done.map_err(NyxError::from)?)
}

/// Examples as JSON lines of a chat: `{"messages": [{"role", "content"}, ...]}`, the last one the answer that is to be learned.
///
/// # Errors
/// A line that is none, by its number.
pub fn read_dataset(path: &Path) -> Result<Vec<Vec<nyx_engine::ChatMessage>>, EvalError> {
    #[derive(serde::Deserialize)]
    struct Line {
        messages: Vec<nyx_engine::ChatMessage>,
    }
    let unreadable = |reason: String| EvalError::Dataset { path: path.display().to_string(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let mut chats = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line).map_err(|error| unreadable(format!("line {}: {error}", number + 1)))?;
        let answered = line.messages.last().is_some_and(|last| last.role == nyx_engine::Role::Assistant && !last.content.trim().is_empty());
        if !answered || line.messages.len() < 2 {
            return Err(unreadable(format!("line {}: expected at least a user's message and, last, the assistant's answer", number + 1)));
        }
        chats.push(line.messages);
    }
    if chats.is_empty() {
        return Err(unreadable("it holds no chat".into()));
    }
    Ok(chats)
}
