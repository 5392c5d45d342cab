//! Training examples: a question and its label.

use std::collections::BTreeMap;

use nyx_domain::{Decision, Feedback, Question};
use nyx_engine::train::{Example, Objective, TrainingTarget};
use nyx_specialists::bandit::best;
use nyx_specialists::gate::template;
use nyx_specialists::quadratic_reward;

use super::service::TrainingService;
use crate::NyxError;
use crate::specialist::Presented;

/// The supervision signal of an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// The right choice.
    Choice(usize),
    /// The chosen one and its reward in [-1, 1].
    Rated { chosen: usize, reward: f64 },
    /// A correct text, and a rejected one, if any.
    Text { correct: String, rejected: Option<String> },
    /// A generated text, its reward, and the quantile of that reward among all rewards of the
    /// specialist.
    Generated { text: String, reward: f64, quantile: f64 },
}

/// A question with its label.
#[derive(Debug, Clone)]
pub struct TrainingExample {
    pub question: Question,
    /// The template that it shares with similar questions.
    pub template: String,
    pub label: Label,
}

/// The text of a question: its context and the last user message.
fn question_text(question: &Question) -> String {
    let asked = question.last_user_message();
    question
        .inputs
        .context
        .as_ref()
        .map_or_else(|| asked.clone(), |context| format!("{context} {asked}"))
}

impl TrainingExample {
    pub fn new(question: Question, label: Label) -> Self {
        Self { template: template(&question_text(&question)), question, label }
    }

    /// The answers to be presented after the prompt, where there are no choices.
    fn answers(&self) -> Vec<String> {
        match &self.label {
            Label::Choice(_) | Label::Rated { .. } => Vec::new(),
            Label::Text { correct, rejected } => {
                std::iter::once(correct.clone()).chain(rejected.clone()).collect()
            }
            Label::Generated { text, .. } => vec![text.clone()],
        }
    }

    /// The tokens for the trainer, as the specialist presents them; empty where the objective
    /// cannot use this label.
    ///
    /// # Errors
    /// The question is invalid.
    pub async fn examples(
        &self,
        service: &TrainingService,
        specialist: &str,
        objective: Objective,
    ) -> Result<Vec<Example>, NyxError> {
        let context = service.admission.context(None)?;
        let shown =
            service.presented(context, specialist, self.question.clone(), self.answers()).await?;
        Ok(self.tokenised(&shown, objective))
    }

    fn tokenised(&self, shown: &Presented, objective: Objective) -> Vec<Example> {
        let all = &shown.continuations;
        let one = |at: usize, target: TrainingTarget| {
            all.get(at).map(|tokens| (vec![tokens.clone()], target)).into_iter().collect::<Vec<_>>()
        };
        let whole = |target: TrainingTarget| vec![(all.clone(), target)];
        let by = |choice: usize, hit: f64, miss: f64| {
            (0..all.len()).map(|at| if at == choice { hit } else { miss }).collect::<Vec<f64>>()
        };
        let pairs = |right: usize| {
            let others = all.iter().enumerate().filter(move |(at, _)| *at != right);
            all.get(right).into_iter().flat_map(move |tokens| {
                others
                    .clone()
                    .map(|(_, other)| (vec![tokens.clone(), other.clone()], TrainingTarget::Pair))
            })
        };
        let continuations: Vec<(Vec<Vec<u32>>, TrainingTarget)> = match (&self.label, objective) {
            (Label::Choice(right), Objective::Choice) => {
                whole(TrainingTarget::Distribution(by(*right, 1.0, 0.0)))
            }
            (Label::Choice(right), Objective::Qrpo) => {
                whole(TrainingTarget::Rewards(by(*right, 1.0, -1.0)))
            }
            (Label::Choice(right), Objective::Grpo) => {
                whole(TrainingTarget::Group(by(*right, 1.0, 0.0)))
            }
            (Label::Choice(right), Objective::Sft) => one(*right, TrainingTarget::Answer),
            (Label::Choice(right), Objective::Dpo) => pairs(*right).collect(),
            (Label::Choice(right), Objective::Kto) => (0..all.len())
                .flat_map(|at| one(at, TrainingTarget::Desirable(at == *right)))
                .collect(),
            // the rewards of the other choices are not known: 0 is neutral
            (Label::Rated { chosen, reward }, Objective::Qrpo) => {
                whole(TrainingTarget::Rewards(by(*chosen, *reward, 0.0)))
            }
            (Label::Rated { chosen, reward }, Objective::Choice) if *reward > 0.0 => {
                whole(TrainingTarget::Distribution(by(*chosen, 1.0, 0.0)))
            }
            // the right one is among the other choices
            (Label::Rated { chosen, reward }, Objective::Choice) if *reward < 0.0 => {
                whole(TrainingTarget::AnyOf((0..all.len()).map(|at| at != *chosen).collect()))
            }
            (Label::Rated { chosen, reward }, Objective::Sft) if *reward > 0.0 => {
                one(*chosen, TrainingTarget::Answer)
            }
            (Label::Rated { chosen, reward }, Objective::Kto) if *reward != 0.0 => {
                one(*chosen, TrainingTarget::Desirable(*reward > 0.0))
            }
            (Label::Text { .. }, Objective::Sft) => one(0, TrainingTarget::Answer),
            (Label::Text { rejected: Some(_), .. }, Objective::Dpo) => whole(TrainingTarget::Pair),
            (Label::Text { rejected, .. }, Objective::Kto) => {
                let worse = rejected
                    .as_ref()
                    .map(|_| one(1, TrainingTarget::Desirable(false)))
                    .unwrap_or_default();
                one(0, TrainingTarget::Desirable(true)).into_iter().chain(worse).collect()
            }
            (Label::Generated { quantile, .. }, Objective::Qrpo) => {
                one(0, TrainingTarget::Quantile(*quantile))
            }
            (Label::Generated { reward, .. }, Objective::Kto) if *reward != 0.0 => {
                one(0, TrainingTarget::Desirable(*reward > 0.0))
            }
            (Label::Generated { reward, .. }, Objective::Sft) if *reward > 0.0 => {
                one(0, TrainingTarget::Answer)
            }
            _ => Vec::new(),
        };
        continuations
            .into_iter()
            .map(|(continuations, target)| Example {
                prompt: shown.prompt.clone(),
                continuations,
                target,
            })
            .collect()
    }

    /// The score of an answer's probabilities, more is better: for a label, whether it was chosen
    /// (for a forecast, its quadratic score); for a rating, the weighted reward.
    pub(super) fn score_choices(&self, probabilities: &[f64], forecasts: bool) -> f64 {
        let of = |choice: usize| probabilities.get(choice).copied().unwrap_or(0.0);
        match self.label {
            Label::Choice(right) if forecasts => quadratic_reward(of(right), 1.0),
            Label::Choice(right) => f64::from(u8::from(best(probabilities) == Some(right))),
            Label::Rated { chosen, reward } => reward * of(chosen),
            Label::Text { .. } | Label::Generated { .. } => 0.0,
        }
    }

    /// The label of a decision with feedback; `None` where there is nothing to learn.
    pub fn of_feedback(decision: &Decision, feedback: &Feedback, quantile: f64) -> Option<Self> {
        let answer = decision.answers.first()?;
        let question = replayed_question(decision);
        let label = match &decision.choices {
            Some(choices) => {
                let place = |text: &str| choices.iter().position(|choice| choice == text);
                let chosen = place(&answer.text)?;
                let right = feedback
                    .correction
                    .as_deref()
                    .and_then(place)
                    .or_else(|| outcome(feedback, choices));
                match right {
                    Some(right) => Label::Choice(right),
                    None => Label::Rated { chosen, reward: feedback.value.clamp(-1.0, 1.0) },
                }
            }
            None => match feedback.correction.clone() {
                Some(right) => Label::Text {
                    correct: right,
                    rejected: Some(answer.text.clone()).filter(|text| !text.is_empty()),
                },
                None if answer.text.trim().is_empty() => return None,
                None => Label::Generated {
                    text: answer.text.clone(),
                    reward: feedback.reward.clamp(-1.0, 1.0),
                    quantile,
                },
            },
        };
        Some(Self::new(question, label))
    }
}

/// The index of the observed outcome; for a Boolean outcome over two choices, `true` is the first.
fn outcome(feedback: &Feedback, choices: &[String]) -> Option<usize> {
    if feedback.kind != nyx_domain::FeedbackKind::Outcome {
        return None;
    }
    match &feedback.input {
        serde_json::Value::String(text) => choices.iter().position(|choice| choice == text),
        serde_json::Value::Bool(happened) if choices.len() == 2 => Some(usize::from(!happened)),
        _ => None,
    }
}

/// The question of a decision, for asking it again.
fn replayed_question(decision: &Decision) -> Question {
    let target = nyx_domain::Target::Specialist(decision.specialist.clone());
    let mut question = Question::new(decision.messages.clone(), target, "trainer");
    question.choices.clone_from(&decision.choices);
    question.inputs = decision.inputs.clone();
    question.inputs.now = Some(question.inputs.now.unwrap_or(decision.asked_at));
    // it is neither stored as a memory nor deferred
    (question.inputs.remember, question.inputs.allow_defer, question.inputs.external_key) =
        (false, false, None);
    question
}

/// The fraction of the specialist's rewards that are not greater, for each reward: the quantile of
/// QRPO.
pub(super) fn quantiles(rewards: &[f64]) -> Vec<f64> {
    let mut sorted = rewards.to_vec();
    sorted.sort_by(f64::total_cmp);
    rewards
        .iter()
        .map(|reward| {
            sorted.partition_point(|other| other <= reward) as f64 / sorted.len().max(1) as f64
        })
        .collect()
}

/// The training examples of a specialist's decisions, oldest first.
pub(super) fn of_log(
    decisions_with_feedback: &[(Decision, Feedback)],
    specialist: &str,
) -> Vec<TrainingExample> {
    let own: Vec<&(Decision, Feedback)> = decisions_with_feedback
        .iter()
        .filter(|(decision, _)| decision.specialist == specialist)
        .collect();
    let quantiles = quantiles(&own.iter().map(|(_, feedback)| feedback.reward).collect::<Vec<_>>());
    // the newest feedback on a question counts
    let mut by_question: BTreeMap<String, TrainingExample> = BTreeMap::new();
    let mut order = Vec::new();
    for ((decision, feedback), quantile) in own.into_iter().zip(quantiles) {
        let Some(example) = TrainingExample::of_feedback(decision, feedback, quantile) else {
            continue;
        };
        let key = format!(
            "{}\n{:?}\n{}",
            question_text(&example.question),
            example.question.choices,
            decision.answers.first().map_or("", |a| &a.text)
        );
        if by_question.insert(key.clone(), example).is_none() {
            order.push(key);
        }
    }
    order.into_iter().filter_map(|key| by_question.remove(&key)).collect()
}
