//! Requests of OpenAI's clients: the supported fields, and errors for the others.

use std::collections::BTreeMap;
use std::fmt;

use nyx_domain::{ChatMessage, Question, RequestInputs, Role, SamplingOverrides};
use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::ToSchema;

use crate::http::error::ApiError;
use crate::http::extract::Strings;
use crate::http::models::target_of_model;

/// A chat to answer. Fields that only concern OpenAI's own service (`user`, `metadata`, `store`,
/// ...) are ignored; fields that request unsupported features (`tools`, audio, JSON schemas) are
/// rejected.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatRequest {
    /// `nyx` (the master model routes), `nyx/NAME` (a specialist) or `nyx/base` (the base model
    /// alone).
    #[schema(example = "nyx")]
    model: String,
    #[schema(min_items = 1)]
    messages: Vec<MessageParam>,
    /// Stream the answer as server-sent events.
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Number of answers.
    #[schema(minimum = 1, maximum = 8)]
    n: Option<usize>,
    /// Up to 4 strings that end the answer; they are not part of it.
    #[schema(value_type = Option<Vec<String>>)]
    stop: Option<Strings>,
    /// The same seed, model and adapters give the same answer.
    seed: Option<i64>,
    /// Return the log-probability of each token.
    logprobs: Option<bool>,
    /// Also return those of the most likely alternatives; needs `logprobs`.
    #[schema(maximum = 20)]
    top_logprobs: Option<usize>,
    /// The older name of `max_completion_tokens`.
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    #[schema(maximum = 1)]
    top_p: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// Maps token ids, as strings, to a bias in [-100, 100] that is added to their logits.
    logit_bias: Option<BTreeMap<String, f32>>,
    /// Sample among this many most likely tokens; 0 is all. An extension.
    top_k: Option<usize>,
    /// Sample among tokens with at least this fraction of the most likely one's probability. An
    /// extension.
    min_p: Option<f32>,
    /// An extension; 1 is off.
    repetition_penalty: Option<f32>,
    /// Answer within this time; at the deadline the answer so far is returned. An extension.
    deadline_ms: Option<u64>,
    /// The conversation that this request belongs to. An extension.
    conversation: Option<String>,
    /// Store the question and the answer as memories of the conversation; their ids, or a warning,
    /// are in `nyx.trace.remembered`. An extension.
    remember: Option<bool>,

    #[schema(ignore)]
    tools: Option<Value>,
    #[schema(ignore)]
    functions: Option<Value>,
    #[schema(ignore)]
    audio: Option<Value>,
    #[schema(ignore)]
    web_search_options: Option<Value>,
    #[schema(ignore)]
    modalities: Option<Vec<String>>,
    #[schema(ignore)]
    response_format: Option<ResponseFormat>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct StreamOptions {
    /// End the stream with a chunk that has the usage.
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

/// The role of a message's author; `developer` is treated as `system`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleParam {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

impl From<RoleParam> for Role {
    fn from(role: RoleParam) -> Self {
        match role {
            RoleParam::System | RoleParam::Developer => Self::System,
            RoleParam::User => Self::User,
            RoleParam::Assistant => Self::Assistant,
            RoleParam::Tool => Self::Tool,
        }
    }
}

/// One message.
#[derive(Debug, Deserialize, ToSchema)]
pub struct MessageParam {
    role: RoleParam,
    /// A text, or a list of `{"type": "text", "text": ...}`.
    #[schema(value_type = String)]
    content: Option<Content>,
}

/// A message's text; several text parts are joined by line breaks.
#[derive(Debug, PartialEq, Eq)]
struct Content(String);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;
        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of text parts")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
                let mut texts = Vec::new();
                while let Some(TextPart(text)) = parts.next_element()? {
                    texts.push(text);
                }
                Ok(Content(texts.join("\n")))
            }
        }
        deserializer.deserialize_any(TextOrParts)
    }
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "AnyPart")]
struct TextPart(String);

#[derive(Debug, Deserialize)]
struct AnyPart {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    // their content may be megabytes: not stored
    #[serde(rename = "image_url")]
    _image: Option<IgnoredAny>,
    #[serde(rename = "input_audio")]
    _audio: Option<IgnoredAny>,
    #[serde(rename = "file")]
    _file: Option<IgnoredAny>,
}

impl TryFrom<AnyPart> for TextPart {
    type Error = String;
    fn try_from(part: AnyPart) -> Result<Self, String> {
        match (part.kind.as_str(), part.text) {
            ("text", Some(text)) => Ok(Self(text)),
            ("text", None) => Err("missing field `text`".into()),
            (kind, _) => {
                Err(format!("content of type {kind:?} is not supported, expected \"text\""))
            }
        }
    }
}

/// A validated request.
#[derive(Debug)]
pub struct Understood {
    pub question: Question,
    pub stream: bool,
    pub include_usage: bool,
    pub deadline_ms: Option<u64>,
}

impl ChatRequest {
    /// Validates the request. The engine checks the ranges of sampling parameters.
    ///
    /// # Errors
    /// The first field that is unsupported or invalid.
    pub fn understood(self, specialists: &[&str]) -> Result<Understood, ApiError> {
        self.refuse_unsupported()?;
        let target = target_of_model(specialists, &self.model)?;
        let n = self.n.unwrap_or(1);
        let stop = self.stop.unwrap_or_default().0;
        let logprobs = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, top) => Some(top.unwrap_or(0)),
            (false, None | Some(0)) => None,
            (false, Some(top)) => {
                let message = format!(
                    "top_logprobs is {top} while logprobs is not true, expected \"logprobs\": true beside it"
                );
                return Err(ApiError::invalid("top_logprobs", message));
            }
        };
        if let Some(top) = logprobs.filter(|top| *top > 20) {
            return Err(ApiError::invalid(
                "top_logprobs",
                format!("top_logprobs is {top}, expected 0 to 20"),
            ));
        }
        let logit_bias = self.logit_bias.unwrap_or_default().into_iter().map(|(token, bias)| {
            match token.parse() {
                Ok(id) => Ok((id, bias)),
                Err(_) => Err(ApiError::invalid(
                    "logit_bias",
                    format!("logit_bias has the key {token:?}, expected a token id such as \"42\""),
                )),
            }
        });
        let sampling = SamplingOverrides {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: logit_bias.collect::<Result<_, _>>()?,
            // any 64 bits seed equally well
            seed: self.seed.map(i64::cast_unsigned),
            logprobs,
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            stop,
        };
        let messages = understood_messages(self.messages)?;
        let inputs =
            RequestInputs { remember: self.remember.unwrap_or(false), ..RequestInputs::default() };
        let question = Question {
            sampling,
            n,
            conversation: self.conversation,
            inputs,
            ..Question::new(messages, target, "/v1/chat/completions")
        };
        let include_usage =
            self.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
        Ok(Understood {
            question,
            stream: self.stream.unwrap_or(false),
            include_usage,
            deadline_ms: self.deadline_ms,
        })
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let unsupported = |field: &str, expected: &str| {
            Err(ApiError::invalid(field, format!("{field} is not supported: {expected}")))
        };
        let is_empty =
            |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        for (field, value) in [
            ("tools", &self.tools),
            ("functions", &self.functions),
            ("audio", &self.audio),
            ("web_search_options", &self.web_search_options),
        ] {
            if value.as_ref().is_some_and(|value| !is_empty(value)) {
                return unsupported(field, "leave it out");
            }
        }
        if self.modalities.as_ref().is_some_and(|kinds| kinds.iter().any(|kind| kind != "text")) {
            return unsupported("modalities", "expected [\"text\"]");
        }
        match &self.response_format {
            Some(format) if format.kind != "text" => {
                unsupported("response_format", "expected {\"type\": \"text\"}")
            }
            _ => Ok(()),
        }
    }
}

/// Converts messages; each has a text.
pub fn understood_messages(messages: Vec<MessageParam>) -> Result<Vec<ChatMessage>, ApiError> {
    let understood = messages.into_iter().enumerate().map(|(at, message)| match message.content {
        Some(Content(text)) => Ok(ChatMessage::new(message.role.into(), text)),
        None => Err(ApiError::invalid(
            &format!("messages[{at}].content"),
            "content is missing, expected a string or a list of text parts",
        )),
    });
    understood.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::extract::parse;
    use crate::http::extract::tests::valid;
    use nyx_domain::Target;
    use serde_json::json;

    fn understood(body: Value) -> Result<Understood, ApiError> {
        let understood = parse::<ChatRequest>(body.to_string().as_bytes())?
            .understood(&["mnemosyne", "moira"])?;
        valid(&understood.question)?;
        Ok(understood)
    }

    fn with(field: &str, value: Value) -> Value {
        let mut body = json!({"model": "nyx", "messages": [{"role": "user", "content": "Hello"}]});
        body[field] = value;
        body
    }

    #[test]
    fn everything_a_client_may_set_arrives() {
        let asked = understood(json!({
            "model": "nyx/moira", "stream": true, "stream_options": {"include_usage": true}, "n": 2, "stop": ["\n", "END"], "seed": -1,
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Will it"}, {"type": "text", "text": "rain?"}], "name": "ann"},
            ],
            "logprobs": true, "top_logprobs": 3, "max_tokens": 9, "max_completion_tokens": 5, "temperature": 0.5, "top_p": 0.9,
            "presence_penalty": 0.1, "frequency_penalty": 0.2, "logit_bias": {"42": -100.0}, "top_k": 40, "min_p": 0.05,
            "repetition_penalty": 1.1, "deadline_ms": 2000, "conversation": "c", "user": "u", "metadata": {"a": "b"}, "store": true,
            "tools": [], "response_format": {"type": "text"}, "parallel_tool_calls": true, "modalities": ["text"]
        }))
        .unwrap();
        assert!(asked.stream && asked.include_usage);
        assert_eq!(asked.deadline_ms, Some(2000));
        let question = asked.question;
        assert_eq!(question.target, Target::Specialist("moira".into()));
        assert_eq!(question.n, 2);
        assert_eq!(question.conversation.as_deref(), Some("c"));
        assert_eq!(question.messages[0], ChatMessage::new(Role::System, "Be brief."));
        assert_eq!(question.messages[1], ChatMessage::new(Role::User, "Will it\nrain?"));
        let expected = SamplingOverrides {
            temperature: Some(0.5),
            top_k: Some(40),
            top_p: Some(0.9),
            min_p: Some(0.05),
            repetition_penalty: Some(1.1),
            presence_penalty: Some(0.1),
            frequency_penalty: Some(0.2),
            logit_bias: BTreeMap::from([(42, -100.0)]),
            seed: Some(u64::MAX),
            logprobs: Some(3),
            max_tokens: Some(5),
            stop: vec!["\n".into(), "END".into()],
        };
        assert_eq!(question.sampling, expected);
    }

    #[test]
    fn null_is_the_same_as_absent() {
        let nulls = json!({"model": "nyx", "messages": [{"role": "user", "content": "Hi"}], "stream": null, "n": null, "stop": null, "tools": null,
            "logit_bias": null, "temperature": null, "seed": null, "response_format": null, "stream_options": null});
        let asked = understood(nulls).unwrap();
        assert!(
            !asked.stream
                && asked.question.n == 1
                && asked.question.sampling == SamplingOverrides::default()
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let image = json!([{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:x"}}]}]);
        for (body, param, says) in [
            (with("messages", json!([])), "messages", "at least one"),
            (with("messages", json!("hello")), "messages", "expected a sequence"),
            (with("messages", image), "messages[0].content[1]", "\"image_url\" is not supported"),
            (
                with("messages", json!([{"role": "god", "content": "x"}])),
                "messages[0].role",
                "unknown variant `god`",
            ),
            (
                with("messages", json!([{"role": "user", "content": 7}])),
                "messages[0].content",
                "a string or a list of text parts",
            ),
            (
                with("messages", json!([{"role": "user", "content": "  "}])),
                "messages[0].content",
                "empty",
            ),
            (with("messages", json!([{"role": "user"}])), "messages[0].content", "missing"),
            (with("messages", json!([{"role": "system", "content": "x"}])), "messages", "\"user\""),
            (with("messages", json!([{"content": "x"}])), "messages[0].role", "missing field"),
            (with("n", json!(9)), "n", "1 to 8"),
            (with("n", json!(-1)), "n", "invalid value"),
            (with("temperature", json!("hot")), "temperature", "expected f32"),
            (with("stop", json!(["a", "b", "c", "d", "e"])), "stop", "at most 4"),
            (with("stop", json!([""])), "stop", "empty string"),
            (with("stop", json!({})), "stop", "a string or a list of strings"),
            (with("top_logprobs", json!(2)), "top_logprobs", "logprobs"),
            (with("logit_bias", json!({"word": 1})), "logit_bias", "\"word\""),
            (with("tools", json!([{"type": "function"}])), "tools", "not supported"),
            (with("audio", json!({"active_adapter": "x"})), "audio", "not supported"),
            (
                with("response_format", json!({"type": "json_object"})),
                "response_format",
                "not supported",
            ),
            (with("model", json!(5)), "model", "expected a string"),
        ] {
            let error = understood(body.clone()).unwrap_err();
            assert_eq!(error.status, 400, "{body}");
            assert_eq!(error.detail.param.as_deref(), Some(param), "{}", error.detail.message);
            assert!(error.detail.message.contains(says), "{}", error.detail.message);
        }
        assert_eq!(understood(with("model", json!("gpt-4o"))).unwrap_err().status, 404);
        assert_eq!(
            parse::<ChatRequest>(b"{\"model\": \"nyx\"}").unwrap_err().detail.param.as_deref(),
            Some("messages")
        );
    }
}
