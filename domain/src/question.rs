//! A request for an answer.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::adapter::AdapterChoice;
use crate::memory::MemoryFilter;
use crate::message::{ChatMessage, Role};

/// Who is to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The orchestrator routes.
    Master,
    /// This specialist.
    Specialist(String),
    /// The base model without prompt, retrieval or adapter.
    Base,
}

impl Target {
    /// The model name of the OpenAI API: `nyx`, `nyx/NAME` or `nyx/base`.
    pub fn model(&self) -> String {
        match self {
            Self::Master => "nyx".into(),
            Self::Specialist(name) => format!("nyx/{name}"),
            Self::Base => "nyx/base".into(),
        }
    }
}

/// Sampling settings of the caller; `None` takes the specialist's setting.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingOverrides {
    /// 0 is greedy decoding.
    pub temperature: Option<f32>,
    /// Number of most likely tokens to sample from.
    pub top_k: Option<usize>,
    /// Probability mass of the most likely tokens to sample from, in (0, 1].
    pub top_p: Option<f32>,
    /// Least probability of a token as a fraction of the most likely one's, in [0, 1].
    pub min_p: Option<f32>,
    /// Divides the logits of earlier tokens; 1 changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that occurred.
    pub presence_penalty: Option<f32>,
    /// Subtracted from the logits of tokens once per occurrence.
    pub frequency_penalty: Option<f32>,
    /// Added to the logits, by token id.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Repeats the answer.
    pub seed: Option<u64>,
    /// Number of alternatives to report per token.
    pub logprobs: Option<usize>,
    /// Upper bound of the answer, in tokens.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

/// Inputs beside the messages. Recorded with the decision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestInputs {
    /// A text to answer from: part of the specialist's prompt; not used for routing or retrieval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The probability, in [0, 1], that another source (such as a market) gives: of the event, or
    /// with two choices of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior: Option<f64>,
    /// The caller's current time; the server's clock when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<DateTime<Utc>>,
    /// Restricts the memories that may be retrieved.
    #[serde(skip_serializing_if = "MemoryFilter::is_open")]
    pub memory: MemoryFilter,
    /// Store question and answer as memories.
    pub remember: bool,
    /// The answer may be deferred, to be fetched by the decision's id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_defer: bool,
    /// The caller's own name of the decision, by which outcomes and feedback may refer to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_key: Option<String>,
}

/// A parsed request.
#[derive(Debug, Clone)]
pub struct Question {
    /// The conversation, the last user message included.
    pub messages: Vec<ChatMessage>,
    /// Who is to answer.
    pub target: Target,
    /// With choices nothing is generated: the answer is the likeliest of them.
    pub choices: Option<Vec<String>>,
    /// The caller's sampling settings.
    pub sampling: SamplingOverrides,
    /// Number of answers.
    pub n: usize,
    /// The conversation's id.
    pub conversation: Option<String>,
    /// The endpoint that received the request.
    pub endpoint: &'static str,
    /// Inputs beside the messages.
    pub inputs: RequestInputs,
    /// Overrides the active adapter. No endpoint accepts it from a caller.
    pub adapter: Option<AdapterChoice>,
}

impl Question {
    /// A question with nothing but messages.
    pub fn new(messages: Vec<ChatMessage>, target: Target, endpoint: &'static str) -> Self {
        let (sampling, inputs) = (SamplingOverrides::default(), RequestInputs::default());
        Self {
            messages,
            target,
            choices: None,
            sampling,
            n: 1,
            conversation: None,
            endpoint,
            inputs,
            adapter: None,
        }
    }

    /// The caller's current time.
    pub fn now(&self) -> DateTime<Utc> {
        self.inputs.now.unwrap_or_else(Utc::now)
    }

    /// The text of the last user message, which is used for routing and retrieval. Empty if there
    /// is none.
    pub fn last_user_message(&self) -> String {
        let last = self.messages.iter().rfind(|message| message.role == Role::User);
        last.map(|message| message.content.clone()).unwrap_or_default()
    }
}

/// The last `chars` characters of a text; all of it when it is shorter.
pub fn tail(text: &str, chars: usize) -> &str {
    let start = text.char_indices().rev().nth(chars.saturating_sub(1)).map_or(0, |(at, _)| at);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_cut_between_characters() {
        for (text, chars, expected) in [
            ("héllo", 3, "llo"),
            ("héllo", 4, "éllo"),
            ("héllo", 5, "héllo"),
            ("héllo", 9, "héllo"),
            ("", 2, ""),
        ] {
            assert_eq!(tail(text, chars), expected);
        }
    }
}
