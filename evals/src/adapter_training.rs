//! Trains a specialist's adapter on cases with choices, through the serving code path, with the
//! same tokens as at inference.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use nyx_actors::trainer::{GateReport, Label, Run, RunStatus, TrainingExample, TrainingOptions};
use nyx_domain::{AdapterChoice, ChatMessage, Question, Role, Target};
use nyx_engine::train::{Objective, Progress};
use nyx_specialists::gate::{Pair, compare};
use nyx_specialists::quadratic_reward;
use serde::Serialize;

use crate::choices::{Answered, FairnessReport, unknown_choices};
use crate::environment::{EvalEnvironment, question};
use crate::{ChoiceCase, Dataset, EvalError, verification};

/// Replaces a question that is hidden from the model.
const PLACEHOLDER_QUESTION: &str = "Which one?";

/// A case without context and question, to measure how far the choices alone identify the answer.
pub fn without_question(case: &ChoiceCase) -> ChoiceCase {
    ChoiceCase {
        context: String::new(),
        question: PLACEHOLDER_QUESTION.into(),
        prior: None,
        asked: None,
        table: None,
        ..case.clone()
    }
}

/// Converts cases to training examples; those about the same table have the same template.
pub fn to_examples(cases: &[ChoiceCase], seed: u64) -> Vec<TrainingExample> {
    let example = |case: &ChoiceCase| {
        let example = TrainingExample::new(question(case, seed), Label::Choice(case.answer));
        match &case.table {
            Some(table) => TrainingExample { template: table.clone(), ..example },
            None => example,
        }
    };
    cases.iter().map(example).collect()
}

/// Reads chats, JSON lines of `{"messages": [{"role", "content"}, ...]}`, the last message being
/// the answer to learn.
///
/// # Errors
/// An invalid line, by its number.
pub fn read_dataset(path: &Path, specialist: &str) -> Result<Vec<TrainingExample>, EvalError> {
    #[derive(serde::Deserialize)]
    struct Line {
        messages: Vec<ChatMessage>,
    }
    let unreadable =
        |reason: String| EvalError::Dataset { path: path.display().to_string(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let mut examples = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line)
            .map_err(|error| unreadable(format!("line {}: {error}", number + 1)))?;
        let mut messages = line.messages;
        let answer = messages
            .pop()
            .filter(|last| last.role == Role::Assistant && !last.content.trim().is_empty());
        let Some(answer) =
            answer.filter(|_| messages.iter().any(|message| message.role == Role::User))
        else {
            return Err(unreadable(format!(
                "line {}: expected at least one user message and, last, an assistant message",
                number + 1
            )));
        };
        let question =
            Question::new(messages, Target::Specialist(specialist.to_owned()), "trainer");
        examples.push(TrainingExample::new(
            question,
            Label::Text { correct: answer.content, rejected: None },
        ));
    }
    if examples.is_empty() {
        return Err(unreadable("it has no chat".into()));
    }
    Ok(examples)
}

/// A progress bar with loss, margin, tokens/s and time left; log lines if stderr is not a terminal.
pub fn progress_bar(what: &str) -> Box<dyn FnMut(&Progress) + Send> {
    let style = ProgressStyle::with_template("{prefix:<20} {wide_bar} {pos}/{len} {msg} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let (bar, what) =
        (ProgressBar::new(0).with_style(style).with_prefix(what.to_owned()), what.to_owned());
    let (mut tokens, mut last) = (0, Duration::ZERO);
    Box::new(move |progress| {
        tokens += progress.tokens;
        bar.set_length(progress.steps);
        bar.set_position(progress.step);
        let margin =
            progress.margin.map_or_else(String::new, |margin| format!(", margin {margin:.2}"));
        let seconds = progress.elapsed.as_secs_f64();
        let pace = tokens as f64 / seconds;
        bar.set_message(format!("loss {:.3}{margin}, {pace:.0} tokens/s", progress.loss));
        let done = progress.step == progress.steps;
        if bar.is_hidden() && (progress.elapsed.saturating_sub(last).as_secs() >= 20 || done) {
            last = progress.elapsed;
            let (step, steps) = (progress.step, progress.steps);
            let left = seconds / step as f64 * (steps - step) as f64;
            tracing::info!(
                "{what}: step {step} of {steps}, loss {:.3}{margin}, {pace:.0} tokens/s, about {left:.0} s left",
                progress.loss
            );
        }
        if done {
            bar.finish_and_clear();
        }
    })
}

/// Results on dev of a specialist's adapter, of the base model, and of an adapter trained without
/// context and question.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterReport {
    /// Accuracy of the base model; for forecasts, the mean quadratic score.
    pub before: f64,
    /// Accuracy of what is active afterwards: the adapter if it passed the gate, else the base
    /// model.
    pub after: f64,
    /// Accuracy of the adapter, whether or not it passed the gate.
    pub adapter: f64,
    pub blind: f64,
    /// 95 % interval of the paired difference between the adapter and the blind one.
    pub over_blind: [f64; 2],
    pub over_before: [f64; 2],
    pub verdict: RunStatus,
    pub gate: Option<GateReport>,
    /// Accuracies and BBQ bias scores, without and with the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fairness: Option<[FairnessReport; 2]>,
    pub tokens_per_second: f64,
    pub seconds: f64,
}

/// Answers cases with one adapter.
async fn answers_of(
    environment: &EvalEnvironment,
    what: &str,
    cases: &[ChoiceCase],
    adapter: &AdapterChoice,
) -> Result<Vec<Answered>, EvalError> {
    let ask = |case: ChoiceCase| async move {
        let asked =
            Question { adapter: Some(adapter.clone()), ..question(&case, environment.seed) };
        Ok(Answered { decision: environment.ask(asked).await?, case })
    };
    Ok(environment.each(what, cases.to_vec(), ask).await?)
}

fn scores(answers: &[Answered], forecasts: bool) -> Vec<f64> {
    let score = |answer: &Answered| {
        let probability = answer.probabilities().get(answer.case.answer).copied().unwrap_or(0.0);
        if forecasts {
            quadratic_reward(probability, 1.0)
        } else {
            f64::from(u8::from(answer.right()))
        }
    };
    answers.iter().map(score).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The same training examples without their questions, with the same split.
fn blind_examples(train: &[ChoiceCase], seed: u64) -> Vec<TrainingExample> {
    let unseen: Vec<ChoiceCase> = train.iter().map(without_question).collect();
    let mut examples = to_examples(&unseen, seed);
    for (blind, seen) in examples.iter_mut().zip(to_examples(train, seed)) {
        blind.template = seen.template;
    }
    examples
}

/// The interval of the mean difference between two lists of scores.
fn paired_interval(candidate: &[f64], other: &[f64], seed: u64) -> [f64; 2] {
    let pairs: Vec<Pair> = (candidate.iter().zip(other).enumerate())
        .map(|(at, (candidate, live))| Pair {
            template: at.to_string(),
            candidate: *candidate,
            live: *live,
        })
        .collect();
    compare(&pairs, 0.05, seed).interval
}

/// Trains a suite's adapter and a blind one on `cases`, and evaluates both on `dev`.
///
/// # Errors
/// A case that cannot be read or answered; too few cases to train on.
pub async fn train_adapter(
    environment: &EvalEnvironment,
    dataset: &Dataset,
    suite: &str,
    training: &TrainingOptions,
) -> Result<AdapterReport, EvalError> {
    let dev = Dataset { split: "dev".into(), ..dataset.clone() };
    let (train, all_dev) = (environment.sample(dataset.choices(suite)?), dev.choices(suite)?);
    let unknown = unknown_choices(&all_dev);
    let dev_trials = environment.sample(all_dev);
    if suite == "aletheia" {
        let tables: BTreeMap<String, super::Table> = dataset
            .tables()?
            .into_iter()
            .chain(dev.tables()?)
            .map(|table| (table.table.clone(), table))
            .collect();
        verification::register(environment, tables.into_values().collect()).await?;
    }
    let forecasts = suite == "moira";
    let base =
        answers_of(environment, &format!("{suite}: before"), &dev_trials, &AdapterChoice::Base)
            .await?;
    let anchors: Vec<String> =
        train.iter().map(|case| case.context.clone()).filter(|text| text.len() > 200).collect();
    let run = |examples: Vec<TrainingExample>, what: &str| Run {
        specialist: suite.to_owned(),
        objective: Objective::Choice,
        examples,
        anchors: anchors.clone(),
        options: training.train(environment.seed),
        training: training.clone(),
        canary: false,
        source: "cases",
        on_progress: progress_bar(what),
    };
    let report = environment
        .nyx
        .training
        .service
        .train(run(to_examples(&train, environment.seed), suite))
        .await?;
    let full = AdapterChoice::Id(report.adapter.clone().unwrap_or_default());
    let with = answers_of(environment, &format!("{suite}: after"), &dev_trials, &full).await?;
    let blind_examples = blind_examples(&train, environment.seed);
    let blind_id = environment
        .nyx
        .training
        .service
        .train_only(run(blind_examples, &format!("{suite}, blind")))
        .await?;
    let unseen: Vec<ChoiceCase> = dev_trials.iter().map(without_question).collect();
    let without =
        answers_of(environment, &format!("{suite}: blind"), &unseen, &AdapterChoice::Id(blind_id))
            .await?;
    let [base_scores, with_scores, blind_scores] =
        [&base, &with, &without].map(|answers| scores(answers, forecasts));
    let paired = |other: &[f64]| paired_interval(&with_scores, other, environment.seed);
    let (before, adapter) = (mean(&base_scores), mean(&with_scores));
    Ok(AdapterReport {
        before,
        after: if report.status == RunStatus::Promoted { adapter } else { before },
        adapter,
        blind: mean(&blind_scores),
        over_blind: paired(&blind_scores),
        over_before: paired(&base_scores),
        verdict: report.status,
        gate: report.gate,
        fairness: (suite == "eleos")
            .then(|| [&base, &with].map(|answers| FairnessReport::of(answers, &unknown))),
        tokens_per_second: report.tokens_per_second,
        seconds: report.seconds,
    })
}

/// A summary line for the terminal.
pub fn summary(suite: &str, examples: &AdapterReport) -> String {
    let AdapterReport { before, after, adapter, blind, over_blind: [low, high], verdict, .. } =
        examples;
    let fair = examples.fairness.as_ref().map_or_else(String::new, |[first, second]| {
        format!(
            "; disambiguated {:.3} to {:.3}, bias {:.3}/{:.3} to {:.3}/{:.3}",
            first.disambig.accuracy,
            second.disambig.accuracy,
            first.bias.ambig,
            first.bias.disambig,
            second.bias.ambig,
            second.bias.disambig
        )
    });
    let why = examples
        .gate
        .as_ref()
        .filter(|gate| !gate.passed)
        .map_or_else(String::new, |gate| format!("; {}", gate.reasons.join("; ")));
    format!(
        "{suite:<9} before {before:.3}, after {after:.3}, adapter {adapter:.3}, blind {blind:.3}, over blind [{low:.3}, {high:.3}]: {}{fair}{why}",
        verdict.as_str()
    )
}
