//! Writing a specialist's prompt: its own words first (the same for every request, so that their keys and values stay cached), then the
//! situation, then the caller's messages.

use nyx_domain::{ChatMessage, Question, Role};
use nyx_engine::Text;
use nyx_specialists::{PromptContext, SpecialistPolicy};

use crate::NyxError;

/// A prompt in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub tokens: Vec<u32>,
    /// Its first tokens, shared by all prompts of this specialist.
    pub cacheable_prefix: usize,
}

/// Writes prompts for a specialist, or (`policy` is `None`) for the base.
pub struct PromptWriter<'a> {
    pub text: &'a Text,
    pub policy: Option<&'a SpecialistPolicy>,
}

impl PromptWriter<'_> {
    pub fn write(&self, question: &Question, situation: &PromptContext<'_>) -> Result<Prompt, NyxError> {
        let mut messages = Vec::with_capacity(question.messages.len() + 1);
        if let Some(policy) = self.policy {
            // the caller's own system messages join the specialist's: templates know one system turn, the first
            let mut system = policy.system_prompt(situation).map_err(|error| NyxError::Internal(error.to_string()))?;
            for message in question.messages.iter().filter(|message| message.role == Role::System) {
                system.push_str("\n\n");
                system.push_str(&message.content);
            }
            messages.push(ChatMessage::new(Role::System, system));
            messages.extend(question.messages.iter().filter(|message| message.role != Role::System).cloned());
        } else {
            messages.extend(question.messages.iter().cloned());
        }
        if let (Some(context), Some(last)) = (&question.inputs.context, messages.iter_mut().rfind(|message| message.role == Role::User)) {
            last.content = format!("{context}\n\n{}", last.content);
        }
        if let (Some(choices), Some(last)) = (&question.choices, messages.iter_mut().rfind(|message| message.role == Role::User)) {
            last.content.push_str("\n\nAnswer with one of:");
            for choice in choices {
                last.content.push_str("\n- ");
                last.content.push_str(choice);
            }
        }
        let tokens = self.text.encode_chat(&messages, true)?;
        let cacheable_prefix = match self.policy {
            Some(policy) => {
                common_prefix(&tokens, &self.text.encode_chat(&[ChatMessage::new(Role::System, policy.fixed_prompt())], false)?)
            }
            None => 0,
        };
        Ok(Prompt { tokens, cacheable_prefix })
    }
}

/// How many tokens both begin with; always leaves one token of `tokens` to be computed anew.
pub(crate) fn common_prefix(tokens: &[u32], fixed: &[u32]) -> usize {
    let common = tokens.iter().zip(fixed).take_while(|(a, b)| a == b).count();
    common.min(tokens.len().saturating_sub(1))
}
