//! One specialist: what it is told, where it looks, what is read out of its answer and how the answer is rewarded.

use crate::prompt::PromptContext;
use crate::reward::Outcome;
use crate::time::Quality;
use crate::{SpecialistError, probability, prompt, reward};

/// Where a specialist looks before it answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Retrieval {
    None,
    /// The vector memory.
    Memory {
        k: usize,
        min_score: f32,
    },
    /// Rows of registered tables, and memories beside them.
    Tables {
        k: usize,
        memories: usize,
        min_score: f32,
    },
}

/// What an answer is expected to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerForm {
    Text,
    /// Text that states a probability.
    Probability,
}

/// The rule of the automatic reward, with its weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RewardRule {
    Support,
    /// Scored by [`reward::brier_reward`] when the outcome arrives.
    Probability,
    Timeliness {
        penalty: f64,
    },
    /// People's ratings, when they arrive.
    Rating,
}

/// One specialist, as its file in `config/specialists/` describes it.
#[derive(Debug, Clone)]
pub struct SpecialistPolicy {
    /// Lower-case name: of the model `nyx/NAME`, of the actor, of the trait weight.
    pub name: String,
    /// One line for the master.
    pub purpose: String,
    /// What is ordinarily asked of it: a question goes to the specialist whose examples it is like.
    pub examples: Vec<String>,
    /// The adapter's folder; `None` speaks through the base alone.
    pub adapter: Option<String>,
    /// The replica of the pool it is pinned to.
    pub replica: Option<usize>,
    pub retrieval: Retrieval,
    /// Answers are planned by the time that is left: what a full and a short one are worth.
    pub timing: Option<Quality>,
    /// Defaults where the caller says nothing.
    pub temperature: f32,
    pub top_p: f32,
    pub repetition_penalty: f32,
    pub max_tokens: usize,
    /// Answers that a forecast is pooled from, sampled side by side; the first one is told.
    pub samples: usize,
    pub(crate) fixed: String,
    /// The template of the rest of the system prompt, in minijinja's language.
    pub(crate) context: String,
    pub(crate) answer: AnswerForm,
    pub(crate) reward: RewardRule,
}

/// How well the specialist's own quality showed.
#[derive(Debug, Clone, PartialEq)]
pub struct AutomaticReward {
    /// Trait activation in [0, 1].
    pub activation: f64,
    /// The automatic reward in [-1, 1].
    pub reward: f64,
    /// The rule that gave it, for the record.
    pub rule: String,
}

impl SpecialistPolicy {
    /// The texts that a question is compared with: the examples, or the purpose where there are none.
    pub fn routed_by(&self) -> &[String] {
        if self.examples.is_empty() { std::slice::from_ref(&self.purpose) } else { &self.examples }
    }

    /// The part of the system prompt that is the same for every request (what the prefix cache keeps).
    pub fn fixed_prompt(&self) -> &str {
        &self.fixed
    }

    /// The whole system prompt: `fixed_prompt` and then what depends on the situation (evidence, the present, the deadline).
    ///
    /// # Errors
    /// [`SpecialistError::BadPrompt`] when the context template fails on this situation.
    pub fn system_prompt(&self, situation: &PromptContext<'_>) -> Result<String, SpecialistError> {
        let context = prompt::render(&self.context, situation)
            .map_err(|reason| SpecialistError::BadPrompt { name: self.name.clone(), reason: format!("prompt.context: {reason}") })?;
        let context = context.trim();
        Ok(if context.is_empty() { self.fixed.clone() } else { format!("{}\n\n{context}", self.fixed) })
    }

    /// What an answer loses that takes all of its time, in [0, 1]: 0 where time is not rewarded.
    pub fn delay_penalty(&self) -> f64 {
        match self.reward {
            RewardRule::Timeliness { penalty } => penalty,
            _ => 0.0,
        }
    }

    /// The probability in [0, 1] that an answer states, where the answer form asks for one and the text holds one.
    pub fn read(&self, answer: &str) -> Option<f64> {
        match self.answer {
            AnswerForm::Text => None,
            AnswerForm::Probability => probability::read_probability(answer),
        }
    }

    /// Whether an outcome tells how well its quality showed.
    pub fn is_scored_by_outcomes(&self) -> bool {
        self.reward == RewardRule::Probability
    }

    /// Whether people's ratings do.
    pub fn is_rated_by_people(&self) -> bool {
        self.reward == RewardRule::Rating
    }

    /// Whether it forecasts: its answers state probabilities.
    pub fn forecasts(&self) -> bool {
        self.answer == AnswerForm::Probability
    }

    /// The automatic reward, or `None` where only people or the future can tell.
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
