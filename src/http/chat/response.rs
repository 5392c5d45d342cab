//! The response of OpenAI's endpoint, plus the field `nyx`.

use std::collections::BTreeMap;

use nyx_domain::{Decision, Status, StreamEvent, TokenLogprob, TokenUsage};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::http::decisions::{AdapterItem, EvidenceItem, TimingsItem};
use crate::http::trace::trace_object;

/// Fields common to the answer and all chunks of one decision.
#[derive(Debug, Clone)]
pub struct Heading {
    pub id: String,
    pub created: i64,
    pub model: String,
    pub system_fingerprint: String,
}

impl Heading {
    pub fn new(decision: Uuid, model: String, base_sha256: &str, created: i64) -> Self {
        Self {
            id: format!("chatcmpl-{decision}"),
            created,
            model,
            system_fingerprint: base_sha256.chars().take(12).collect(),
        }
    }
}

/// A complete answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// `chatcmpl-` and the decision's id.
    pub id: String,
    #[schema(example = "chat.completion")]
    pub object: &'static str,
    pub created: i64,
    pub model: String,
    /// The first 12 digits of the base model's SHA-256.
    pub system_fingerprint: String,
    pub choices: Vec<Choice>,
    pub usage: Usage,
    pub nyx: NyxField,
}

/// One of the `n` answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Choice {
    pub index: usize,
    pub message: Message,
    pub logprobs: Option<Logprobs>,
    #[schema(example = "stop")]
    pub finish_reason: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Message {
    #[schema(example = "assistant")]
    pub role: &'static str,
    pub content: String,
    /// Always null; clients expect it.
    pub refusal: Option<String>,
}

/// Log-probabilities, one entry per token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Logprobs {
    pub content: Vec<TokenEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TokenEntry {
    /// The token's text; bytes of an incomplete character are replaced by replacement characters.
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
    pub top_logprobs: Vec<TopEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TopEntry {
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}

impl From<TokenLogprob> for TokenEntry {
    fn from(chosen: TokenLogprob) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let top = chosen.top.into_iter().map(|(_, bytes, logprob)| TopEntry {
            token: text(&bytes),
            logprob,
            bytes,
        });
        Self {
            token: text(&chosen.bytes),
            logprob: chosen.logprob,
            top_logprobs: top.collect(),
            bytes: chosen.bytes,
        }
    }
}

/// Log-probabilities collected from the stream, by answer.
#[derive(Debug, Default)]
pub struct LogprobsByIndex(BTreeMap<usize, Logprobs>);

impl LogprobsByIndex {
    pub fn collect(&mut self, event: StreamEvent) {
        if let StreamEvent::Token { index, logprobs, .. } = event {
            self.0
                .entry(index)
                .or_default()
                .content
                .extend(logprobs.into_iter().map(TokenEntry::from));
        }
    }
}

/// Tokens used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
    pub prompt_tokens_details: PromptTokensDetails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens read from the prefix cache.
    pub cached_tokens: u64,
}

impl From<TokenUsage> for Usage {
    fn from(usage: TokenUsage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
        }
    }
}

/// How the answer was made: what OpenAI's response has no fields for.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct NyxField {
    /// The id for `/v1/decisions/{id}`.
    #[schema(value_type = String, format = "uuid")]
    pub decision_id: Uuid,
    /// The specialist that answered.
    pub specialist: String,
    /// The base model's score of each candidate; empty when the client chose the specialist, and
    /// when scoring was too late.
    pub scores: BTreeMap<String, f64>,
    /// Similarity of the question to each candidate's examples: the mean of the best two cosines.
    /// Empty when only the scores were used.
    pub similarities: BTreeMap<String, f64>,
    /// `routing.similarity_scale` times the similarity (or the score, without a similarity), plus
    /// the trait weight.
    pub logits: BTreeMap<String, f64>,
    /// The probability of drawing each candidate; they add up to 1.
    pub propensities: BTreeMap<String, f64>,
    pub trait_weights: BTreeMap<String, f64>,
    /// Calibrated, in [0, 1]; null until a calibrator is fitted.
    pub confidence: Option<f64>,
    pub evidence: Vec<EvidenceItem>,
    pub adapter: Option<AdapterItem>,
    pub timings: TimingsItem,
    /// A forecast's probability.
    pub probability: Option<f64>,
    /// Trait activation in [0, 1].
    pub activation: Option<f64>,
    /// Sum of the rewards so far, each in [-1, 1].
    pub reward: f64,
    /// Intermediate results and reasons of the answer, by name; empty when there are none.
    #[schema(value_type = Object)]
    pub trace: serde_json::Map<String, serde_json::Value>,
    /// `answered`, or `partial` when the deadline ended it.
    #[schema(value_type = String)]
    pub status: Status,
}

impl From<Decision> for NyxField {
    fn from(decision: Decision) -> Self {
        Self {
            decision_id: decision.id,
            specialist: decision.specialist,
            scores: decision.scores,
            similarities: decision.similarities,
            logits: decision.logits,
            propensities: decision.propensities,
            trait_weights: decision.trait_weights,
            confidence: decision.confidence,
            evidence: decision.evidence.into_iter().map(Into::into).collect(),
            adapter: decision.adapter.map(Into::into),
            timings: decision.timings.into(),
            probability: decision.probability,
            activation: decision.activation,
            reward: decision.reward,
            trace: trace_object(&decision.trace),
            status: decision.status,
        }
    }
}

/// OpenAI has fewer reasons: an answer ended by the deadline is reported as `length`.
pub fn finish_reason(reason: &str) -> &'static str {
    match reason {
        "length" | "deadline" | "cancelled" => "length",
        "content_filter" => "content_filter",
        _ => "stop",
    }
}

impl ChatCompletion {
    pub fn new(
        heading: Heading,
        mut decision: Decision,
        logprobs: Option<LogprobsByIndex>,
    ) -> Self {
        let mut logprobs = logprobs.map(|by_index| by_index.0);
        let answers = std::mem::take(&mut decision.answers).into_iter().enumerate();
        let choices = answers.map(|(index, answer)| Choice {
            index,
            finish_reason: finish_reason(&answer.finish_reason),
            message: Message { role: "assistant", content: answer.text, refusal: None },
            logprobs: logprobs.as_mut().map(|by_index| by_index.remove(&index).unwrap_or_default()),
        });
        Self {
            id: heading.id,
            object: "chat.completion",
            created: heading.created,
            model: heading.model,
            system_fingerprint: heading.system_fingerprint,
            choices: choices.collect(),
            usage: decision.usage.into(),
            nyx: decision.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::decisions::tests::decision;
    use serde_json::{Value, json};

    #[test]
    fn the_answer_has_openai_shape_and_one_field_more() {
        let decision = decision();
        let heading = Heading::new(decision.id, "nyx".into(), &decision.base_sha256, 1_790_000_000);
        let mut logprobs = LogprobsByIndex::default();
        let token = TokenLogprob {
            token: 5,
            bytes: vec![0xc3],
            logprob: -0.5,
            top: vec![(5, vec![0xc3], -0.5), (6, b"b".to_vec(), -1.0)],
        };
        logprobs.collect(StreamEvent::Token {
            index: 0,
            text: String::new(),
            logprobs: vec![token],
        });
        let shown =
            serde_json::to_value(ChatCompletion::new(heading, decision, Some(logprobs))).unwrap();
        assert_eq!(shown["id"], "chatcmpl-01890a5d-ac96-774b-bcce-b302099a8057");
        assert_eq!(shown["object"], "chat.completion");
        assert_eq!(shown["system_fingerprint"], "b179c9523d0e");
        assert_eq!(
            shown["choices"][0]["message"],
            json!({"role": "assistant", "content": "She is called Ada.", "refusal": null})
        );
        assert_eq!(shown["choices"][0]["finish_reason"], "stop");
        let entry = &shown["choices"][0]["logprobs"]["content"][0];
        assert_eq!(entry["token"], "\u{fffd}");
        assert_eq!(entry["bytes"], json!([0xc3]));
        assert_eq!(entry["top_logprobs"][1], json!({"token": "b", "logprob": -1.0, "bytes": [98]}));
        assert_eq!(shown["usage"]["total_tokens"], 46);
        assert_eq!(shown["usage"]["prompt_tokens_details"]["cached_tokens"], 30);
        let nyx = &shown["nyx"];
        assert_eq!(nyx["specialist"], "mnemosyne");
        assert_eq!(
            nyx["evidence"][0],
            json!({"id": "m-1", "text": "My sister is called Ada", "score": 0.7, "source": "memory"})
        );
        assert_eq!(nyx["adapter"]["generation"], 2);
        assert_eq!(nyx["confidence"], Value::Null);
        assert_eq!(nyx["status"], "answered");
        assert!(nyx["timings"].as_object().unwrap().keys().all(|name| name.ends_with("_ms")));
    }

    #[test]
    fn reasons_are_openai_ones() {
        let reasons = ["stop", "length", "deadline", "choice", "content_filter"].map(finish_reason);
        assert_eq!(reasons, ["stop", "length", "length", "stop", "content_filter"]);
    }
}
