//! What a caller asks, and what streams back while it is answered.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use nyx_engine::{ChatMessage, Role, TokenLogprob};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::adapters::AdapterChoice;
use crate::memory::MemoryFilter;

/// Whom the caller wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The master chooses.
    Master,
    Specialist(String),
    /// The base model with no prompt, retrieval or adapter.
    Base,
}

impl Target {
    /// The model's name on the OpenAI door.
    pub fn model(&self) -> String {
        match self {
            Self::Master => "nyx".into(),
            Self::Specialist(name) => format!("nyx/{name}"),
            Self::Base => "nyx/base".into(),
        }
    }
}

/// Sampling settings the caller gave; what is `None` comes from the specialist's file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingOverrides {
    pub temperature: Option<f32>,
    pub top_k: Option<usize>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    pub presence_penalty: Option<f32>,
    pub frequency_penalty: Option<f32>,
    pub logit_bias: BTreeMap<u32, f32>,
    pub seed: Option<u64>,
    pub logprobs: Option<usize>,
    pub max_tokens: Option<usize>,
    pub stop: Vec<String>,
}

/// What else the caller gives beside the messages. Kept with the decision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestInputs {
    /// A text to answer from: read by whoever speaks, and neither routed nor retrieved for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The probability, in [0, 1], that others (such as a market) give: that it happens, or with two choices that the first comes true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior: Option<f64>,
    /// The caller's present; the clock's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<DateTime<Utc>>,
    /// Which memories may be recalled for it.
    #[serde(skip_serializing_if = "MemoryFilter::is_open")]
    pub memory: MemoryFilter,
    /// Keep what was asked and answered as memories.
    pub remember: bool,
    /// The answer may come later, to be fetched by the decision's id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_defer: bool,
    /// The caller's own name for it, by which outcomes and feedback may call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_key: Option<String>,
}

/// One request, parsed: what may be wrong with its values is checked by [`Nyx::ask`](crate::Nyx::ask).
#[derive(Debug, Clone)]
pub struct Question {
    pub messages: Vec<ChatMessage>,
    pub target: Target,
    /// With choices nothing is generated: the answer is the likeliest of them.
    pub choices: Option<Vec<String>>,
    pub sampling: SamplingOverrides,
    /// Answers wanted, 1..=8.
    pub n: usize,
    pub conversation: Option<String>,
    /// The door it came through.
    pub endpoint: &'static str,
    pub inputs: RequestInputs,
    /// Through what it is asked, whatever is live: for gates and trials. No door takes it from a caller.
    pub adapter: Option<AdapterChoice>,
}

impl Question {
    /// A question with nothing but messages.
    pub fn new(messages: Vec<ChatMessage>, target: Target, endpoint: &'static str) -> Self {
        let (sampling, inputs) = (SamplingOverrides::default(), RequestInputs::default());
        Self { messages, target, choices: None, sampling, n: 1, conversation: None, endpoint, inputs, adapter: None }
    }

    /// The caller's present.
    pub fn now(&self) -> DateTime<Utc> {
        self.inputs.now.unwrap_or_else(Utc::now)
    }

    /// The text of the last user message: it is what is routed and retrieved for. Empty if there is none.
    pub fn last_user_message(&self) -> String {
        self.messages.iter().rfind(|message| message.role == Role::User).map(|message| message.content.clone()).unwrap_or_default()
    }
}

/// What streams while a question is being answered. The channel is bounded; when its receiver is dropped, the work stops.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamEvent {
    /// Who will answer. Always first.
    Decided { decision: Uuid, specialist: String },
    /// More text of answer `index` (of `n`).
    Token { index: usize, text: String, logprobs: Vec<TokenLogprob> },
    /// Answer `index` is complete, for `finish_reason` as in [`Answer`](crate::decision::Answer).
    Finished { index: usize, finish_reason: String },
}

/// The last `chars` characters of a text, all of it when it is shorter: of a long question, where the asking is.
pub(crate) fn ending(text: &str, chars: usize) -> &str {
    let start = text.char_indices().rev().nth(chars.saturating_sub(1)).map_or(0, |(at, _)| at);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_is_cut_between_characters() {
        for (text, chars, expected) in
            [("héllo", 3, "llo"), ("héllo", 4, "éllo"), ("héllo", 5, "héllo"), ("héllo", 9, "héllo"), ("", 2, "")]
        {
            assert_eq!(ending(text, chars), expected);
        }
    }
}
