//! One specialist, as described by its file.

use std::sync::Arc;

use crate::SpecialistError;
use crate::prompt::{PromptContext, PromptTemplate};
use crate::strategy::Strategy;

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
    /// How it answers.
    pub strategy: Arc<dyn Strategy>,
    /// Sampling settings, where the caller gives none.
    pub temperature: f32,
    /// Probability mass to sample from, in (0, 1].
    pub top_p: f32,
    /// Divides the logits of earlier tokens; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Upper bound of an answer, in tokens.
    pub max_tokens: usize,
    pub(crate) prompt: PromptTemplate,
}

impl SpecialistPolicy {
    /// The texts that a question is compared with for routing: the examples, or without any the
    /// purpose.
    pub fn routed_by(&self) -> &[String] {
        if self.examples.is_empty() { std::slice::from_ref(&self.purpose) } else { &self.examples }
    }

    /// The part of the system prompt that never changes, with which every prompt begins.
    pub fn fixed_prompt(&self) -> &str {
        &self.prompt.fixed
    }

    /// The whole system prompt in this context.
    ///
    /// # Errors
    /// [`SpecialistError::BadPrompt`]: the template cannot be rendered in this context.
    pub fn system_prompt(&self, context: &PromptContext<'_>) -> Result<String, SpecialistError> {
        let bad = |reason| SpecialistError::BadPrompt { name: self.name.clone(), reason };
        self.strategy.prompt(&self.prompt, context).map_err(bad)
    }
}

#[cfg(test)]
mod tests;
