//! Learning the small parts from trials with known answers, through the same program that later uses them.

use nyx_actors::NyxError;
use nyx_actors::confidence::signals_of;
use nyx_actors::memory::MemoryFilter;
use nyx_actors::trainer::{Lesson as TrainerLesson, Truth};
use nyx_specialists::confidence::{ConfidenceRow, Quality, fit};
use nyx_specialists::facts::{self, FactTable, Statement};
use nyx_specialists::fairness::{Blinded, Lexicon, Reader, ReaderExample};
use nyx_specialists::forecast::{self, ForecastExample, Forecaster, yes_of};
use nyx_specialists::gate::held_back;
use nyx_specialists::learn::{LearnedFile, LearnedPart, TrainedOn};
use nyx_specialists::recall::{RecallExample, RecallRanker};
use nyx_specialists::time::{SHIPPED_TIMING, Timing, TimingExample};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;

use super::choices::play;
use super::evaluate::CHOICES;
use super::stage::{Stage, bar, question};
use super::{ChoiceTrial, EvalError, MemoryTurn, RecallTrial, Trials, aletheia, mnemosyne};

/// Texts embedded in one message.
const EMBEDDED_AT_ONCE: usize = 128;
/// Characters of a context that tell one event, story or scene from another.
const GROUP_CHARS: usize = 200;
/// Other turns of a conversation that stand beside a question's evidence.
const OTHERS: usize = 60;

/// The parts that can be learned, in the order in which later ones build on earlier ones.
pub const PARTS: [&str; 6] = ["recall", "timing", "forecast", "facts", "account", "confidence"];

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
        "recall" => recall(stage, trials).await,
        "timing" => timing(stage, trials).await,
        "forecast" => forecast(stage, trials).await,
        "facts" => facts(trials),
        "account" => account(stage, trials).await,
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

async fn recall(stage: &Stage, trials: &Trials) -> Result<Lesson, EvalError> {
    let known = mnemosyne::remember(stage, trials.memories()?).await?;
    let questions: Vec<_> = stage.sample(trials.questions()?).into_iter().filter(|trial| !trial.evidence.is_empty()).collect();
    let examples = stage
        .each("recall: searching", &questions, |trial| async {
            let filter = MemoryFilter::of(Some(trial.conversation.clone()));
            let candidates = stage.nyx.recall_candidates(stage.context()?, trial.question.clone(), filter).await?;
            let is_evidence = |id| known.get(id).is_some_and(|(_, turn)| trial.evidence.contains(turn));
            let evidence = candidates.iter().map(|candidate| is_evidence(&candidate.memory.id)).collect();
            Ok(RecallExample {
                question: trial.question.clone(),
                turns: candidates.into_iter().map(|candidate| candidate.turn).collect(),
                evidence,
            })
        })
        .await?;
    let ranker = RecallRanker::fit(&examples).ok_or_else(|| too_few("recall"))?;
    let trained_on = TrainedOn::of(questions.iter().map(|trial| ("mnemosyne", trial.id.as_str())));
    let lines = vec![format!("recall: learned from {} searches", examples.len())];
    lesson(&LearnedFile::new(trained_on, None, ranker), lines)
}

/// How fast memories fade: evidence against what else was said, by its likeness to the question and its age when the conversation ended.
async fn timing(stage: &Stage, trials: &Trials) -> Result<Lesson, EvalError> {
    let turns = trials.memories()?;
    let questions: Vec<RecallTrial> = stage.sample(trials.questions()?).into_iter().filter(|trial| !trial.evidence.is_empty()).collect();
    let said = |turn: &MemoryTurn| {
        let caption = turn.caption.as_ref().map_or_else(String::new, |caption| format!(" [shares {caption}]"));
        format!("{}: {}{caption}", turn.speaker, turn.text)
    };
    let turn_vectors = embedded(stage, &turns.iter().map(said).collect::<Vec<_>>()).await?;
    let question_vectors = embedded(stage, &questions.iter().map(|trial| trial.question.clone()).collect::<Vec<_>>()).await?;
    let mut random = StdRng::seed_from_u64(stage.seed);
    let mut examples = Vec::new();
    for (trial, asked) in questions.iter().zip(&question_vectors) {
        let own: Vec<(&MemoryTurn, &Vec<f32>)> =
            turns.iter().zip(&turn_vectors).filter(|(turn, _)| turn.conversation == trial.conversation).collect();
        let Some(end) = own.iter().filter_map(|(turn, _)| turn.time()).max() else { continue };
        let (evidence, mut others): (Vec<_>, Vec<_>) = own.into_iter().partition(|(turn, _)| trial.evidence.contains(&turn.turn));
        others.shuffle(&mut random);
        others.truncate(OTHERS);
        for (useful, (turn, vector)) in evidence.into_iter().map(|pair| (true, pair)).chain(others.into_iter().map(|pair| (false, pair))) {
            let Some(when) = turn.time() else { continue };
            let relevance = asked.iter().zip(vector).map(|(a, b)| f64::from(a * b)).sum();
            examples.push(TimingExample { relevance, age_s: (end - when).num_seconds().max(0) as f64, useful });
        }
    }
    let shipped = LearnedFile::<Timing>::parse(SHIPPED_TIMING).map_err(NyxError::Internal)?.parameters;
    let timing = Timing::fit(&examples, &shipped).ok_or_else(|| too_few("timing"))?;
    let trained_on = TrainedOn::of(questions.iter().map(|trial| ("mnemosyne", trial.id.as_str())));
    let lines = vec![format!("timing: half-life {:.0} days, from {} memories", timing.half_life_s / 86_400.0, examples.len())];
    lesson(&LearnedFile::new(trained_on, None, timing), lines)
}

async fn forecast(stage: &Stage, trials: &Trials) -> Result<Lesson, EvalError> {
    let questions: Vec<ChoiceTrial> = stage.sample(trials.choices("moira")?).into_iter().filter(|trial| trial.asked.is_some()).collect();
    let texts: Vec<String> = questions.iter().map(|trial| trial.question.clone()).collect();
    let vectors = embedded(stage, &texts).await?;
    let likelihoods = stage
        .each("forecast: asking", &questions, |trial| async {
            let decision = stage.ask(question(&ChoiceTrial { prior: None, ..trial.clone() }, stage.seed)).await?;
            Ok(decision.notes.get("forecast").and_then(|note| note["choice"].as_f64()))
        })
        .await?;
    let examples: Vec<ForecastExample> = questions
        .iter()
        .zip(vectors)
        .zip(likelihoods)
        .filter_map(|((trial, embedding), choice)| {
            let (asked, yes) = (trial.asked?, yes_of(&trial.choices)?);
            let (question, context, prior) = (trial.question.clone(), trial.context.clone(), trial.prior);
            Some(ForecastExample { question, context, asked, embedding, prior, choice, chains: Vec::new(), happened: trial.answer == yes })
        })
        .collect();
    let fit = forecast::fit(&examples).ok_or_else(|| too_few("forecast"))?;
    let base = fit.forecaster.reads_language_model().then(|| stage.nyx.model.sha256.clone());
    let trained_on = TrainedOn::of(questions.iter().map(|trial| ("moira", trial.id.as_str())));
    let scores = fit.brier.iter().map(|(name, score)| format!("forecast: Brier {score:.4} of {name}, on folds that it did not learn from"));
    let lines = scores.chain([format!("forecast: {} events, penalty {}", fit.groups, fit.penalty)]).collect();
    lesson::<Forecaster>(&LearnedFile::new(trained_on, base, fit.forecaster), lines)
}

fn facts(trials: &Trials) -> Result<Lesson, EvalError> {
    let tables = trials.tables()?;
    let tables: Vec<FactTable> =
        tables.into_iter().map(|table| FactTable::new(table.table, table.caption, &table.columns, table.rows)).collect();
    let statements: Vec<Statement> = trials
        .choices("aletheia")?
        .into_iter()
        .filter_map(|trial| {
            let supported = trial.choices.get(trial.answer)? == "supported";
            Some(Statement { id: trial.id, text: trial.question, table: trial.table?, supported })
        })
        .collect();
    let (file, fit) = facts::learn(&tables, &statements);
    lesson(
        &file,
        vec![
            format!("facts: accuracy {:.3} on tables that it did not learn from", fit.accuracy),
            format!("facts: a query decides {:.3} of the statements, {:.3} of them right", fit.decided, fit.decided_accuracy),
        ],
    )
}

/// Whom of two people a question means, by what the text says of each.
async fn account(stage: &Stage, trials: &Trials) -> Result<Lesson, EvalError> {
    let lexicon = Lexicon::shipped().map_err(NyxError::Internal)?;
    let (mut accounts, mut ids) = (Vec::new(), Vec::new());
    for trial in stage.sample(trials.choices("eleos")?) {
        let Some(blinded) = Blinded::find(&lexicon, &trial.context, &trial.question, &trial.choices) else { continue };
        let (a, b) = blinded.people.pair;
        let means = [a, b].iter().position(|choice| *choice == trial.answer);
        if let (Some(account), Some(means)) = (blinded.account, means) {
            // what the gate sets aside of these trials is not learned from here either
            let lesson = TrainerLesson::new(question(&trial, stage.seed), Truth::Choice(trial.answer));
            accounts.push((account, means == 0, held_back(&lesson.template)));
            ids.push(trial.id);
        }
    }
    let probes = embedded(stage, &Reader::probes()).await?;
    let texts: Vec<String> = accounts.iter().flat_map(|(account, ..)| account.texts()).collect();
    let mut vectors = embedded(stage, &texts).await?.into_iter();
    let (mut learned, mut tried, mut learned_ids) = (Vec::new(), Vec::new(), Vec::new());
    for ((account, first, set_aside), id) in accounts.into_iter().zip(&ids) {
        let example = ReaderExample { vectors: vectors.by_ref().take(account.texts().len()).collect(), account, first };
        if set_aside {
            tried.push(example);
        } else {
            learned.push(example);
            learned_ids.push(id.as_str());
        }
    }
    let reader = Reader::fit(&probes, &learned).ok_or_else(|| too_few("account"))?;
    let right = |examples: &[ReaderExample]| {
        let right =
            examples.iter().filter(|example| reader.first(&example.account, &example.vectors).is_some_and(|p| (p > 0.5) == example.first));
        format!("{} of {}", right.count(), examples.len())
    };
    let lines = vec![format!("account: {} right of what it learned from, {} of the templates set aside", right(&learned), right(&tried))];
    let trained_on = TrainedOn::of(learned_ids.into_iter().map(|id| ("eleos", id)));
    lesson(&LearnedFile::new(trained_on, None, reader), lines)
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
