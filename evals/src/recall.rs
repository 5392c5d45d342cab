//! Mnemosyne's suite: recall of the evidence turns, and token F1 of the answers.

use std::collections::BTreeMap;

use nyx_actors::NyxError;
use nyx_actors::memory::messages::NewMemory;
use nyx_domain::{ChatMessage, MemoryFilter, Question, Role, Target};
use nyx_specialists::without_citations;
use serde::Serialize;
use uuid::Uuid;

use crate::environment::{EvalEnvironment, bar, today};
use crate::stats::{recall_at, reciprocal_rank, token_f1};
use crate::{MemoryTurn, RecallCase};

/// Memories stored in one request.
const STORED_AT_ONCE: usize = 500;
/// Number of results requested.
const DEPTH: usize = 10;
/// Maximum tokens of an answer: reference answers have a few words.
const ANSWER_TOKENS: usize = 32;

/// The turn of each stored memory, by id.
pub type Turns = BTreeMap<Uuid, (String, String)>;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecallReport {
    /// Questions with evidence.
    pub count: usize,
    pub memories: usize,
    pub recall_at_5: f64,
    pub recall_at_10: f64,
    /// Mean reciprocal rank of the first evidence turn, 0 below rank 10.
    pub mrr: f64,
    /// Mean token F1 of the answers over all questions; absent when answers were not requested.
    pub f1: Option<f64>,
    /// Recall at 5, by the case's category.
    pub recall_at_5_by_category: BTreeMap<String, f64>,
    pub seconds: f64,
}

/// Stores the conversations.
///
/// # Errors
/// When a memory cannot be stored.
pub async fn remember(
    environment: &EvalEnvironment,
    turns: Vec<MemoryTurn>,
) -> Result<Turns, NyxError> {
    let bar = bar("mnemosyne: remembering", turns.len() as u64);
    let mut known = Turns::new();
    for batch in turns.chunks(STORED_AT_ONCE) {
        let new = batch.iter().map(|turn| NewMemory {
            // an image without text is stored with its caption
            text: if turn.text.trim().is_empty() {
                turn.caption.clone().unwrap_or_default()
            } else {
                turn.text.clone()
            },
            speaker: Some(turn.speaker.clone()),
            when: turn.time(),
            conversation: Some(turn.conversation.clone()),
            caption: turn.caption.clone(),
        });
        let kept =
            environment.nyx.memories.remember_many(environment.context()?, new.collect()).await?;
        let names = batch.iter().map(|turn| (turn.conversation.clone(), turn.turn.clone()));
        known.extend(kept.into_iter().map(|memory| memory.id).zip(names));
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(known)
}

/// Searches for every question, and also answers it if `answers` is set.
///
/// # Errors
/// The first question whose search or answer failed.
pub async fn run(
    environment: &EvalEnvironment,
    turns: Vec<MemoryTurn>,
    questions: Vec<RecallCase>,
    answers: bool,
) -> Result<RecallReport, NyxError> {
    let started = std::time::Instant::now();
    let memories = turns.len();
    let known = remember(environment, turns).await?;
    let found = environment
        .each("mnemosyne: recalling", &questions, |case| async {
            let filter = MemoryFilter::of(Some(case.conversation.clone()));
            let hits = environment
                .nyx
                .memories
                .recall(environment.context()?, case.question.clone(), DEPTH, filter)
                .await?;
            Ok(hits
                .iter()
                .filter_map(|hit| Some(known.get(&hit.memory.id)?.1.clone()))
                .collect::<Vec<String>>())
        })
        .await?;
    let with_evidence =
        || questions.iter().zip(&found).filter(|(case, _)| !case.evidence.is_empty());
    let count = with_evidence().count();
    let mean = |score: &dyn Fn(&[String], &[String]) -> f64| {
        with_evidence().map(|(case, found)| score(found, &case.evidence)).sum::<f64>()
            / count.max(1) as f64
    };
    let mut categories: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (case, found) in with_evidence() {
        categories.entry(case.category.to_string()).or_default().push(recall_at(
            found,
            &case.evidence,
            5,
        ));
    }
    let f1 = if answers { Some(answered(environment, &questions).await?) } else { None };
    Ok(RecallReport {
        count,
        memories,
        recall_at_5: mean(&|found, evidence| recall_at(found, evidence, 5)),
        recall_at_10: mean(&|found, evidence| recall_at(found, evidence, 10)),
        mrr: mean(&reciprocal_rank),
        f1,
        recall_at_5_by_category: categories
            .into_iter()
            .map(|(name, scores)| (name, scores.iter().sum::<f64>() / scores.len() as f64))
            .collect(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Mean token F1 of Mnemosyne's answers.
async fn answered(
    environment: &EvalEnvironment,
    questions: &[RecallCase],
) -> Result<f64, NyxError> {
    let scores = environment
        .each("mnemosyne: answering", questions, |case| async {
            let asked = vec![ChatMessage::new(Role::User, case.question.clone())];
            let mut question = Question::new(asked, Target::Specialist("mnemosyne".into()), "eval");
            question.inputs.memory = MemoryFilter::of(Some(case.conversation.clone()));
            question.sampling.max_tokens = Some(ANSWER_TOKENS);
            question.sampling.temperature = Some(0.0);
            question.inputs.now = Some(today());
            question.sampling.seed = Some(environment.seed);
            let decision = environment.ask(question).await?;
            // reference answers have no citations
            Ok(token_f1(without_citations(decision.answer()).trim(), &case.answer_text()))
        })
        .await?;
    Ok(scores.iter().sum::<f64>() / scores.len().max(1) as f64)
}
