//! A specialist's prompt: its fixed part first (the same for every request, so that its keys and
//! values stay cached), then the rendered context, then the caller's messages.

use std::sync::Arc;

use nyx_domain::{ChatMessage, Evidence, Question, Role};
use nyx_engine::Text;
use nyx_specialists::{PromptContext, SpecialistPolicy};

use super::state::SpecialistState;
use crate::validation::ValidQuestion;
use crate::{NyxError, RequestContext};

/// Upper bound of an answer of the base model in tokens, where the caller gives none.
pub(super) const BASE_MAX_TOKENS: usize = 256;
/// Characters below which evidence that does not fit is left out rather than truncated again.
const LEAST_EVIDENCE: usize = 200;

/// A prompt in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub tokens: Vec<u32>,
    /// Number of leading tokens that are shared by all prompts of this specialist.
    pub cacheable_prefix: usize,
}

/// Writes prompts for a specialist, or (`policy` is `None`) for the base model.
pub struct PromptWriter<'a> {
    pub text: &'a Text,
    pub policy: Option<&'a SpecialistPolicy>,
}

impl PromptWriter<'_> {
    pub fn write(
        &self,
        question: &Question,
        context: &PromptContext<'_>,
    ) -> Result<Prompt, NyxError> {
        let mut messages = Vec::with_capacity(question.messages.len() + 1);
        if let Some(policy) = self.policy {
            // the caller's system messages are appended to the specialist's: templates know one
            // system turn, the first
            let mut system = policy
                .system_prompt(context)
                .map_err(|error| NyxError::Internal(error.to_string()))?;
            for message in question.messages.iter().filter(|message| message.role == Role::System) {
                system.push_str("\n\n");
                system.push_str(&message.content);
            }
            messages.push(ChatMessage::new(Role::System, system));
            messages.extend(
                question.messages.iter().filter(|message| message.role != Role::System).cloned(),
            );
        } else {
            messages.extend(question.messages.iter().cloned());
        }
        if let (Some(context), Some(last)) = (
            &question.inputs.context,
            messages.iter_mut().rfind(|message| message.role == Role::User),
        ) {
            last.content = format!("{context}\n\n{}", last.content);
        }
        if let (Some(choices), Some(last)) =
            (&question.choices, messages.iter_mut().rfind(|message| message.role == Role::User))
        {
            last.content.push_str("\n\nAnswer with one of:");
            for choice in choices {
                last.content.push_str("\n- ");
                last.content.push_str(choice);
            }
        }
        let tokens = self.text.encode_chat(&messages, true)?;
        let cacheable_prefix = match self.policy {
            Some(policy) => common_prefix(
                &tokens,
                &self
                    .text
                    .encode_chat(&[ChatMessage::new(Role::System, policy.fixed_prompt())], false)?,
            ),
            None => 0,
        };
        Ok(Prompt { tokens, cacheable_prefix })
    }
}

/// A prompt that leaves enough tokens for an answer, and the evidence in it.
pub(super) struct Written {
    pub(super) prompt: Prompt,
    pub(super) evidence: Vec<Evidence>,
    /// The choices in tokens, if there are any.
    pub(super) choices: Vec<Vec<u32>>,
}

impl SpecialistState {
    /// Writes the prompt on a blocking thread: tokenising a long one takes a while, and the actors
    /// share theirs.
    pub(super) async fn write_prompt(
        self: &Arc<Self>,
        context: &RequestContext,
        question: &ValidQuestion,
        evidence: Vec<Evidence>,
        deadline_ms: u64,
    ) -> Result<Written, NyxError> {
        let (state, question) = (Arc::clone(self), question.clone());
        let writing =
            tokio::task::spawn_blocking(move || state.write(&question, evidence, deadline_ms));
        let written =
            async { writing.await.map_err(|error| NyxError::Internal(error.to_string()))? };
        context.bound("the prompt was written", written).await
    }

    /// Writes the prompt; where it leaves too few tokens for an answer, with less evidence: the
    /// worst is left out first, the best one truncated.
    fn write(
        &self,
        question: &Question,
        mut evidence: Vec<Evidence>,
        deadline_ms: u64,
    ) -> Result<Written, NyxError> {
        let asked = question.last_user_message();
        let choices = question
            .choices
            .iter()
            .flatten()
            .map(|choice| self.setup.text.encode(choice))
            .collect::<Result<Vec<_>, _>>()?;
        let usual = self
            .setup
            .policy
            .as_ref()
            .map_or(BASE_MAX_TOKENS, |policy| policy.max_tokens)
            .min(self.setup.context_length / 4);
        let answer_tokens = choices
            .iter()
            .map(Vec::len)
            .max()
            .unwrap_or_else(|| question.sampling.max_tokens.unwrap_or(usual));
        let now = question.now();
        loop {
            let prompt_context =
                PromptContext { now, deadline_ms, evidence: &evidence, question: &asked };
            let prompt =
                PromptWriter { text: &self.setup.text, policy: self.setup.policy.as_ref() }
                    .write(question, &prompt_context)?;
            let fits = prompt.tokens.len() + answer_tokens <= self.setup.context_length;
            match evidence.last_mut() {
                Some(worst) if !fits => {
                    let chars = worst.text.chars().count();
                    if evidence.len() > 1 || chars < LEAST_EVIDENCE {
                        evidence.pop();
                    } else if let Some(only) = evidence.last_mut() {
                        only.text = only.text.chars().take(chars / 2).chain(['\u{2026}']).collect();
                    }
                }
                _ => return Ok(Written { prompt, evidence, choices }),
            }
        }
    }
}

/// Number of leading tokens that both have; at least one token of `tokens` is left to be computed.
pub(crate) fn common_prefix(tokens: &[u32], fixed: &[u32]) -> usize {
    let common = tokens.iter().zip(fixed).take_while(|(a, b)| a == b).count();
    common.min(tokens.len().saturating_sub(1))
}
