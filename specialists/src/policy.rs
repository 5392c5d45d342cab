//! The policy of one specialist: its prompt, retrieval, answer form and reward rule.

use crate::prompt::PromptContext;
use crate::reward::Outcome;
use crate::time::Quality;
use crate::{SpecialistError, probability, prompt, reward};

/// The source of a specialist's evidence.
#[derive(Debug, Clone, PartialEq)]
pub enum Retrieval {
    None,
    /// The vector memory.
    Memory {
        k: usize,
        min_score: f32,
    },
    /// Rows of registered tables, and memories in addition.
    Tables {
        k: usize,
        memories: usize,
        min_score: f32,
    },
}

/// The expected form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerForm {
    Text,
    /// Text that states a probability.
    Probability,
}

/// The rule of the automatic reward, with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RewardRule {
    Support,
    /// Scored by [`reward::brier_reward`] when the outcome arrives.
    Probability,
    Timeliness {
        penalty: f64,
    },
    /// User ratings, when they arrive.
    Rating,
}

/// One specialist, as described by its file in `config/specialists/`.
#[derive(Debug, Clone)]
pub struct SpecialistPolicy {
    /// Lower-case name: of the model `nyx/NAME`, of the actor, of the trait weight.
    pub name: String,
    /// One-line description for the master model.
    pub purpose: String,
    /// Example questions: a question is routed to the specialist whose examples it is most similar
    /// to.
    pub examples: Vec<String>,
    /// The adapter's folder; `None` uses the base model alone.
    pub adapter: Option<String>,
    /// The replica of the pool that it is pinned to.
    pub replica: Option<usize>,
    pub retrieval: Retrieval,
    /// Expected quality of full and short answers, for planning by the remaining time.
    pub timing: Option<Quality>,
    /// Sampling defaults for requests that set none.
    pub temperature: f32,
    pub top_p: f32,
    pub repetition_penalty: f32,
    pub max_tokens: usize,
    /// Number of answers sampled in parallel and pooled to a forecast; the first one is returned.
    pub samples: usize,
    pub(crate) fixed: String,
    /// The minijinja template of the rest of the system prompt.
    pub(crate) context: String,
    pub(crate) answer: AnswerForm,
    pub(crate) reward: RewardRule,
}

/// The result of a specialist's reward rule for one answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AutomaticReward {
    /// Trait activation in [0, 1].
    pub activation: f64,
    /// The automatic reward in [-1, 1].
    pub reward: f64,
    /// The rule that computed it, for the record.
    pub rule: String,
}

impl SpecialistPolicy {
    /// The texts that a question is compared with: the examples, or the purpose if there are none.
    pub fn routed_by(&self) -> &[String] {
        if self.examples.is_empty() { std::slice::from_ref(&self.purpose) } else { &self.examples }
    }

    /// The constant part of the system prompt (kept in the prefix cache).
    pub fn fixed_prompt(&self) -> &str {
        &self.fixed
    }

    /// The whole system prompt: `fixed_prompt`, then the part that depends on the context
    /// (evidence, current time, deadline).
    ///
    /// # Errors
    /// [`SpecialistError::BadPrompt`] when the context template fails in this context.
    pub fn system_prompt(&self, situation: &PromptContext<'_>) -> Result<String, SpecialistError> {
        let context = prompt::render(&self.context, situation)
            .map_err(|reason| SpecialistError::BadPrompt { name: self.name.clone(), reason: format!("prompt.context: {reason}") })?;
        let context = context.trim();
        Ok(if context.is_empty() { self.fixed.clone() } else { format!("{}\n\n{context}", self.fixed) })
    }

    /// The penalty in [0, 1] of an answer that takes all of its time; 0 where time is not rewarded.
    pub fn delay_penalty(&self) -> f64 {
        match self.reward {
            RewardRule::Timeliness { penalty } => penalty,
            _ => 0.0,
        }
    }

    /// The probability in [0, 1] that an answer states, where the answer form expects one and the
    /// text contains one.
    pub fn read(&self, answer: &str) -> Option<f64> {
        match self.answer {
            AnswerForm::Text => None,
            AnswerForm::Probability => probability::read_probability(answer),
        }
    }

    /// Whether an outcome determines its trait activation.
    pub fn is_scored_by_outcomes(&self) -> bool {
        self.reward == RewardRule::Probability
    }

    /// Whether user ratings determine its trait activation.
    pub fn is_rated_by_people(&self) -> bool {
        self.reward == RewardRule::Rating
    }

    /// Whether it forecasts: its answers state probabilities.
    pub fn forecasts(&self) -> bool {
        self.answer == AnswerForm::Probability
    }

    /// The automatic reward, or `None` where only user feedback or an outcome can determine it.
    pub fn automatic_reward(&self, outcome: &Outcome<'_>) -> Option<AutomaticReward> {
        let (rule, activation) = match self.reward {
            RewardRule::Support => ("support", reward::support(outcome.answer, outcome.evidence)),
            RewardRule::Timeliness { penalty } => ("timeliness", Some(reward::timeliness(outcome, penalty))),
            RewardRule::Probability | RewardRule::Rating => return None,
        };
        let activation = activation?;
        Some(AutomaticReward { activation, reward: reward::reward_of(activation), rule: rule.into() })
    }
}

#[cfg(test)]
mod tests;
