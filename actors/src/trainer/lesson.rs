//! One piece of evidence: a question, and what is known of its answer.

use std::collections::BTreeMap;

use nyx_engine::train::{Aim, Example, Objective};
use nyx_specialists::bandit::best;
use nyx_specialists::gate::template;
use nyx_specialists::quadratic_reward;

use crate::question::Question;
use crate::specialist::Presented;
use crate::verdict::Verdict;
use crate::{Decision, Nyx, NyxError};

/// What is known of a question's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Truth {
    /// Which choice is right.
    Choice(usize),
    /// What of the choices was answered, and its reward in [-1, 1].
    Rated { chosen: usize, reward: f64 },
    /// A text that is right, and one that was said instead, if any.
    Text { right: String, instead: Option<String> },
    /// A text that was said, its reward, and the quantile of that among the specialist's own.
    Said { text: String, reward: f64, quantile: f64 },
}

/// A question with what is known of its answer.
#[derive(Debug, Clone)]
pub struct Lesson {
    pub question: Question,
    /// What it has in common with others that were made the same way.
    pub template: String,
    pub truth: Truth,
}

/// What is read of a question: its context, then what is asked.
fn read(question: &Question) -> String {
    let asked = crate::orchestrator::last_question(question);
    question.given.context.as_ref().map_or_else(|| asked.clone(), |context| format!("{context} {asked}"))
}

impl Lesson {
    pub fn new(question: Question, truth: Truth) -> Self {
        Self { template: template(&read(&question)), question, truth }
    }

    /// The texts that are to be shown after the prompt, where there are no choices.
    fn answers(&self) -> Vec<String> {
        match &self.truth {
            Truth::Choice(_) | Truth::Rated { .. } => Vec::new(),
            Truth::Text { right, instead } => std::iter::once(right.clone()).chain(instead.clone()).collect(),
            Truth::Said { text, .. } => vec![text.clone()],
        }
    }

    /// What the trainer is given, as the specialist reads it; nothing where the objective has no use for this truth.
    ///
    /// # Errors
    /// When the question cannot be read.
    pub async fn examples(&self, nyx: &Nyx, specialist: &str, objective: Objective) -> Result<Vec<Example>, NyxError> {
        let context = nyx.context(None)?;
        let shown = nyx.presented(context, specialist, self.question.clone(), self.answers()).await?;
        Ok(self.taught(&shown, objective))
    }

    fn taught(&self, shown: &Presented, objective: Objective) -> Vec<Example> {
        let all = &shown.continuations;
        let one = |at: usize, aim: Aim| all.get(at).map(|said| (vec![said.clone()], aim)).into_iter().collect::<Vec<_>>();
        let whole = |aim: Aim| vec![(all.clone(), aim)];
        let by = |choice: usize, hit: f64, miss: f64| (0..all.len()).map(|at| if at == choice { hit } else { miss }).collect::<Vec<f64>>();
        let pairs = |right: usize| {
            let others = all.iter().enumerate().filter(move |(at, _)| *at != right);
            all.get(right).into_iter().flat_map(move |said| others.clone().map(|(_, other)| (vec![said.clone(), other.clone()], Aim::Pair)))
        };
        let taught: Vec<(Vec<Vec<u32>>, Aim)> = match (&self.truth, objective) {
            (Truth::Choice(right), Objective::Choice) => whole(Aim::Shares(by(*right, 1.0, 0.0))),
            (Truth::Choice(right), Objective::Qrpo) => whole(Aim::Rewards(by(*right, 1.0, -1.0))),
            (Truth::Choice(right), Objective::Grpo) => whole(Aim::Group(by(*right, 1.0, 0.0))),
            (Truth::Choice(right), Objective::Sft) => one(*right, Aim::Answer),
            (Truth::Choice(right), Objective::Dpo) => pairs(*right).collect(),
            (Truth::Choice(right), Objective::Kto) => (0..all.len()).flat_map(|at| one(at, Aim::Thumb(at == *right))).collect(),
            // the others' rewards are not known: 0 is neither praise nor blame
            (Truth::Rated { chosen, reward }, Objective::Qrpo) => whole(Aim::Rewards(by(*chosen, *reward, 0.0))),
            (Truth::Rated { chosen, reward }, Objective::Choice) if *reward > 0.0 => whole(Aim::Shares(by(*chosen, 1.0, 0.0))),
            // the right one is among the others
            (Truth::Rated { chosen, reward }, Objective::Choice) if *reward < 0.0 => {
                whole(Aim::Among((0..all.len()).map(|at| at != *chosen).collect()))
            }
            (Truth::Rated { chosen, reward }, Objective::Sft) if *reward > 0.0 => one(*chosen, Aim::Answer),
            (Truth::Rated { chosen, reward }, Objective::Kto) if *reward != 0.0 => one(*chosen, Aim::Thumb(*reward > 0.0)),
            (Truth::Text { .. }, Objective::Sft) => one(0, Aim::Answer),
            (Truth::Text { instead: Some(_), .. }, Objective::Dpo) => whole(Aim::Pair),
            (Truth::Text { instead, .. }, Objective::Kto) => {
                let worse = instead.as_ref().map(|_| one(1, Aim::Thumb(false))).unwrap_or_default();
                one(0, Aim::Thumb(true)).into_iter().chain(worse).collect()
            }
            (Truth::Said { quantile, .. }, Objective::Qrpo) => one(0, Aim::Quantile(*quantile)),
            (Truth::Said { reward, .. }, Objective::Kto) if *reward != 0.0 => one(0, Aim::Thumb(*reward > 0.0)),
            (Truth::Said { reward, .. }, Objective::Sft) if *reward > 0.0 => one(0, Aim::Answer),
            _ => Vec::new(),
        };
        taught.into_iter().map(|(continuations, aim)| Example { prompt: shown.prompt.clone(), continuations, aim }).collect()
    }

    /// How good an answer's probabilities are, more is better: of a truth, whether it was chosen (of a forecast, its quadratic score); of a
    /// rating, what the reward weighs.
    pub(super) fn score_choices(&self, probabilities: &[f64], forecasts: bool) -> f64 {
        let of = |choice: usize| probabilities.get(choice).copied().unwrap_or(0.0);
        match self.truth {
            Truth::Choice(right) if forecasts => quadratic_reward(of(right), 1.0),
            Truth::Choice(right) => f64::from(u8::from(best(probabilities) == Some(right))),
            Truth::Rated { chosen, reward } => reward * of(chosen),
            Truth::Text { .. } | Truth::Said { .. } => 0.0,
        }
    }

    /// What is known from a decision and what was said of it; `None` where that teaches nothing.
    pub fn of_verdict(decision: &Decision, verdict: &Verdict, quantile: f64) -> Option<Self> {
        let answer = decision.answers.first()?;
        let question = asked_again(decision);
        let truth = match &decision.choices {
            Some(choices) => {
                let place = |text: &str| choices.iter().position(|choice| choice == text);
                let chosen = place(&answer.text)?;
                let right = verdict.correction.as_deref().and_then(place).or_else(|| outcome(verdict, choices));
                match right {
                    Some(right) => Truth::Choice(right),
                    None => Truth::Rated { chosen, reward: verdict.value.clamp(-1.0, 1.0) },
                }
            }
            None => match verdict.correction.clone() {
                Some(right) => Truth::Text { right, instead: Some(answer.text.clone()).filter(|text| !text.is_empty()) },
                None if answer.text.trim().is_empty() => return None,
                None => Truth::Said { text: answer.text.clone(), reward: verdict.reward.clamp(-1.0, 1.0), quantile },
            },
        };
        Some(Self::new(question, truth))
    }
}

/// The choice that an outcome names; of two choices, what happened is the first.
fn outcome(verdict: &Verdict, choices: &[String]) -> Option<usize> {
    if verdict.kind != crate::verdict::VerdictKind::Outcome {
        return None;
    }
    match &verdict.told {
        serde_json::Value::String(text) => choices.iter().position(|choice| choice == text),
        serde_json::Value::Bool(happened) if choices.len() == 2 => Some(usize::from(!happened)),
        _ => None,
    }
}

/// The question of a decision, to be asked of its specialist again.
fn asked_again(decision: &Decision) -> Question {
    let target = crate::question::Target::Specialist(decision.specialist.clone());
    let mut question = Question::new(decision.messages.clone(), target, "trainer");
    question.choices.clone_from(&decision.choices);
    question.given = decision.given.clone();
    question.given.now = Some(question.given.now.unwrap_or(decision.asked_at));
    // it is neither remembered nor put off
    (question.given.remember, question.given.allow_defer, question.given.external_key) = (false, false, None);
    question
}

/// Each reward's share of rewards that are no greater: QRPO's quantile, from the specialist's own past.
pub(super) fn quantiles(rewards: &[f64]) -> Vec<f64> {
    let mut sorted = rewards.to_vec();
    sorted.sort_by(f64::total_cmp);
    rewards.iter().map(|reward| sorted.partition_point(|other| other <= reward) as f64 / sorted.len().max(1) as f64).collect()
}

/// The evidence of a specialist's decisions, oldest first.
pub(super) fn of_log(judged: &[(Decision, Verdict)], specialist: &str) -> Vec<Lesson> {
    let own: Vec<&(Decision, Verdict)> = judged.iter().filter(|(decision, _)| decision.specialist == specialist).collect();
    let quantiles = quantiles(&own.iter().map(|(_, verdict)| verdict.reward).collect::<Vec<_>>());
    // the newest verdict on the same question counts
    let mut lessons: BTreeMap<String, Lesson> = BTreeMap::new();
    let mut order = Vec::new();
    for ((decision, verdict), quantile) in own.into_iter().zip(quantiles) {
        let Some(lesson) = Lesson::of_verdict(decision, verdict, quantile) else { continue };
        let key =
            format!("{}\n{:?}\n{}", read(&lesson.question), lesson.question.choices, decision.answers.first().map_or("", |a| &a.text));
        if lessons.insert(key.clone(), lesson).is_none() {
            order.push(key);
        }
    }
    order.into_iter().filter_map(|key| lessons.remove(&key)).collect()
}
