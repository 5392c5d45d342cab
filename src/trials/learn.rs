//! Learning the small parts from trials with known answers, through the same program that later uses them.

use chrono::TimeDelta;
use nyx_actors::NyxError;
use nyx_actors::confidence::signals_of;
use nyx_specialists::confidence::{ConfidenceRow, Quality, fit};
use nyx_specialists::learn::{LearnedFile, LearnedPart, TrainedOn};
use nyx_specialists::master::{self, MasterHead, RoutingExample};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::choices::play;
use super::evaluate::CHOICES;
use super::stage::{Stage, bar, today};
use super::{ChoiceTrial, EvalError, Trials, aletheia};

/// Texts embedded in one message.
const EMBEDDED_AT_ONCE: usize = 128;
/// Characters of a context that tell one event, story or scene from another.
const GROUP_CHARS: usize = 200;
/// The presents in which routing is learned: two years around the trials' day, in minutes, and times to answer.
const MINUTES: i64 = 365 * 24 * 60;
const SHORTEST_MS: f64 = 1e3;
const LONGEST_MS: f64 = 6e5;

/// The parts that can be learned, in the order in which later ones build on earlier ones.
pub const PARTS: [&str; 2] = ["master", "confidence"];

/// A learned part's file, and what there is to say of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Lesson {
    pub file: String,
    pub lines: Vec<String>,
}

/// Learns `part` from the split's trials.
///
/// # Errors
/// A trial that cannot be read, a question that cannot be asked, or too few examples.
pub async fn learn(stage: &Stage, trials: &Trials, part: &str) -> Result<Lesson, EvalError> {
    match part {
        "master" => master(stage, trials).await,
        "confidence" => confidence(stage, trials).await,
        _ => Err(EvalError::UnknownPart { name: part.to_owned() }),
    }
}

fn too_few(part: &str) -> EvalError {
    EvalError::TooFew { part: part.to_owned() }
}

fn lesson<T: LearnedPart + Serialize>(file: &LearnedFile<T>, lines: Vec<String>) -> Result<Lesson, EvalError> {
    file.parameters.check().map_err(|reason| NyxError::Internal(format!("what was learned is unsound: {reason}")))?;
    let file = file.write().map_err(|error| NyxError::Internal(error.to_string()))?;
    Ok(Lesson { file, lines })
}

/// One vector a text, in their order.
async fn embedded(stage: &Stage, texts: &[String]) -> Result<Vec<Vec<f32>>, NyxError> {
    let bar = bar("embedding", texts.len() as u64);
    let mut vectors = Vec::with_capacity(texts.len());
    for batch in texts.chunks(EMBEDDED_AT_ONCE) {
        vectors.extend(stage.nyx.embed(stage.context()?, batch.to_vec()).await?.vectors);
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(vectors)
}

/// What a trial shares with those that ask about the same thing.
fn group(trial: &ChoiceTrial) -> String {
    match &trial.table {
        Some(table) => table.clone(),
        None if trial.context.trim().is_empty() => trial.id.clone(),
        None => trial.context.chars().take(GROUP_CHARS).collect(),
    }
}

async fn master(stage: &Stage, trials: &Trials) -> Result<Lesson, EvalError> {
    let mut examples: Vec<RoutingExample> = Vec::new();
    let mut random = StdRng::seed_from_u64(stage.seed);
    let mut add = |question: String, specialist: &str, group: String, utterance: bool| {
        // trials have no time of day: any will do, and the same for nobody
        let now = today() + TimeDelta::minutes(random.random_range(-MINUTES..MINUTES));
        let deadline_ms = f64::exp(random.random_range(SHORTEST_MS.ln()..LONGEST_MS.ln())) as u64;
        let (specialist, embedding) = (specialist.to_owned(), Vec::new());
        examples.push(RoutingExample { question, specialist, embedding, now, deadline_ms, group, utterance });
    };
    for name in ["kairos", "eleos", "aletheia", "moira"] {
        stage.sample(trials.choices(name)?).into_iter().for_each(|trial| add(trial.question.clone(), name, group(&trial), false));
    }
    stage.sample(trials.questions()?).into_iter().for_each(|trial| add(trial.question, "mnemosyne", trial.conversation, false));
    master::utterances().for_each(|(name, text)| add(text.to_owned(), name, text.to_owned(), true));
    let texts: Vec<String> = examples.iter().map(|example| example.question.clone()).chain([master::PROBE.to_owned()]).collect();
    let mut vectors = embedded(stage, &texts).await?;
    let probe = vectors.pop().unwrap_or_default();
    examples.iter_mut().zip(vectors).for_each(|(example, vector)| example.embedding = vector);
    let (head, report): (MasterHead, _) =
        master::fit(&examples, &probe, stage.master_temperature).map_err(|reason| EvalError::Unfit { part: "master".into(), reason })?;
    let trained_on = TrainedOn::of(examples.iter().map(|example| (example.specialist.as_str(), example.question.as_str())));
    let recalls: Vec<String> = report.recalls.iter().map(|(name, share)| format!("{name} {share:.3}")).collect();
    let lines = vec![
        format!("master: accuracy {:.3} on folds that it did not learn from, log loss {:.3}", report.accuracy, report.log_loss),
        format!("master: {}", recalls.join(", ")),
    ];
    lesson(&LearnedFile::new(trained_on, None, head), lines)
}

/// Plays the choice suites and learns how sure each specialist may be.
async fn confidence(stage: &Stage, trials: &Trials) -> Result<Lesson, EvalError> {
    let (mut rows, mut ids) = (Vec::new(), Vec::new());
    for name in CHOICES {
        if name == "aletheia" {
            aletheia::register(stage, trials.tables()?).await?;
        }
        for answer in play(stage, name, stage.sample(trials.choices(name)?)).await? {
            let Some(signals) = signals_of(&answer.decision) else { continue };
            let specialist = answer.trial.specialist.clone();
            rows.push(ConfidenceRow { specialist: specialist.clone(), signals, right: answer.right(), group: group(&answer.trial) });
            ids.push((specialist, answer.trial.id));
        }
    }
    let (confidences, report) = fit(&rows);
    if confidences.names().next().is_none() {
        return Err(too_few("confidence"));
    }
    let number = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3}"));
    let line = |name: &str, quality: &Quality| {
        let (ece, skill, auroc) = (number(quality.ece), number(quality.brier_skill), number(quality.auroc));
        format!(
            "confidence: {name} ECE {ece}, Brier skill {skill}, AUROC {auroc} on folds that it did not learn from ({} answers)",
            quality.rows
        )
    };
    let mut lines: Vec<String> = report.specialists.iter().map(|(name, quality)| line(name, quality)).collect();
    lines.push(line("all", &report.pooled));
    let trained_on = TrainedOn::of(ids.iter().map(|(name, id)| (name.as_str(), id.as_str())));
    lesson(&LearnedFile::new(trained_on, Some(stage.nyx.model.sha256.clone()), confidences), lines)
}
