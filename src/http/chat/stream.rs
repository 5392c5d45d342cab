//! A chat's answer as a stream of chunks.

use std::collections::BTreeSet;

use nyx_domain::{Decision, StreamEvent};
use serde::Serialize;
use utoipa::ToSchema;

use super::response::{Heading, Logprobs, NyxField, Usage, finish_reason};
use crate::http::error::ApiError;
use crate::http::sse::{self, Frames};

/// One chunk of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionChunk)]
pub struct Chunk<'a> {
    /// `chatcmpl-` and the decision's id: the same in every chunk.
    id: &'a str,
    #[schema(example = "chat.completion.chunk")]
    object: &'static str,
    created: i64,
    model: &'a str,
    system_fingerprint: &'a str,
    /// Empty in the chunk that holds the usage.
    choices: Vec<ChunkChoice>,
    /// With `stream_options.include_usage`: null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    /// In the chunk of the last finish reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    nyx: Option<NyxField>,
}

/// The schema of a chunk in `/openapi.json`.
pub type ChunkExample = Chunk<'static>;

#[derive(Debug, Serialize, ToSchema)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct Delta {
    /// Only in the first chunk of each answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Writes chunks. The last finish reason is held until the decision is recorded, because `nyx`
/// comes with it.
#[derive(Debug)]
pub struct ChatFrames {
    heading: Heading,
    n: usize,
    include_usage: bool,
    begun: BTreeSet<usize>,
    finished: BTreeSet<usize>,
    held: Option<(usize, &'static str)>,
}

impl ChatFrames {
    pub fn new(heading: Heading, n: usize, include_usage: bool) -> Self {
        Self {
            heading,
            n,
            include_usage,
            begun: BTreeSet::new(),
            finished: BTreeSet::new(),
            held: None,
        }
    }

    fn chunk(
        &self,
        choices: Vec<ChunkChoice>,
        usage: Option<Usage>,
        nyx: Option<NyxField>,
        out: &mut String,
    ) {
        let Heading { id, created, model, system_fingerprint } = &self.heading;
        let usage = self.include_usage.then_some(usage);
        sse::data(
            &Chunk {
                id,
                object: "chat.completion.chunk",
                created: *created,
                model,
                system_fingerprint,
                choices,
                usage,
                nyx,
            },
            out,
        );
    }

    fn choice(&self, index: usize, delta: Delta, logprobs: Option<Logprobs>, out: &mut String) {
        self.chunk(
            vec![ChunkChoice { index, delta, logprobs, finish_reason: None }],
            None,
            None,
            out,
        );
    }

    fn begin(&mut self, index: usize, out: &mut String) {
        if self.begun.insert(index) {
            self.choice(
                index,
                Delta { role: Some("assistant"), content: Some(String::new()) },
                None,
                out,
            );
        }
    }

    fn text(&mut self, index: usize, text: String, logprobs: Option<Logprobs>, out: &mut String) {
        self.begin(index, out);
        self.choice(index, Delta { role: None, content: Some(text) }, logprobs, out);
    }

    /// Holds this reason and writes the one held before, which is not the last.
    fn finish(&mut self, index: usize, reason: &str, out: &mut String) {
        self.begin(index, out);
        if self.finished.insert(index) {
            self.release(None, out);
            self.held = Some((index, finish_reason(reason)));
        }
    }

    fn release(&mut self, nyx: Option<NyxField>, out: &mut String) {
        if let Some((index, reason)) = self.held.take() {
            let choice = ChunkChoice {
                index,
                delta: Delta::default(),
                logprobs: None,
                finish_reason: Some(reason),
            };
            self.chunk(vec![choice], None, nyx, out);
        }
    }
}

impl Frames for ChatFrames {
    fn event(&mut self, event: StreamEvent, out: &mut String) {
        match event {
            StreamEvent::Decided { .. } => (0..self.n).for_each(|index| self.begin(index, out)),
            StreamEvent::Token { index, text, logprobs } => {
                let logprobs = (!logprobs.is_empty())
                    .then(|| Logprobs { content: logprobs.into_iter().map(Into::into).collect() });
                if !text.is_empty() || logprobs.is_some() {
                    self.text(index, text, logprobs, out);
                }
            }
            StreamEvent::Finished { index, finish_reason } => {
                self.finish(index, &finish_reason, out)
            }
        }
    }

    fn ended(&mut self, decision: Decision, out: &mut String) {
        // an answer that did not stream, because the deadline came first, is taken from the record
        for (index, answer) in decision.answers.iter().enumerate() {
            if !self.begun.contains(&index) && !answer.text.is_empty() {
                self.text(index, answer.text.clone(), None, out);
            }
            self.finish(index, &answer.finish_reason, out);
        }
        if self.finished.is_empty() {
            self.finish(0, "length", out);
        }
        let usage = decision.usage.into();
        self.release(Some(decision.into()), out);
        if self.include_usage {
            self.chunk(Vec::new(), Some(usage), None, out);
        }
        sse::done(out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut String) {
        sse::data(&error.body(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::decisions::tests::decision;
    use nyx_actors::NyxError;
    use nyx_domain::{Answer, TokenLogprob};
    use serde_json::{Value, json};
    use uuid::Uuid;

    fn frames(n: usize, include_usage: bool) -> ChatFrames {
        ChatFrames::new(
            Heading::new(Uuid::nil(), "nyx".into(), "b179c9523d0e6a0f", 1),
            n,
            include_usage,
        )
    }

    fn written(
        frames: &mut ChatFrames,
        events: Vec<StreamEvent>,
        decision: Decision,
    ) -> Vec<Value> {
        let mut out = String::new();
        events.into_iter().for_each(|event| frames.event(event, &mut out));
        assert!(
            !out.contains("\"nyx\":"),
            "the field nyx is not sent before the decision is recorded"
        );
        frames.ended(decision, &mut out);
        let mut lines: Vec<&str> = out
            .split("\n\n")
            .filter(|line| !line.is_empty())
            .map(|line| line.strip_prefix("data: ").unwrap())
            .collect();
        assert_eq!(lines.pop(), Some("[DONE]"));
        lines.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn token(index: usize, text: &str) -> StreamEvent {
        StreamEvent::Token { index, text: text.into(), logprobs: Vec::new() }
    }

    fn finished(index: usize, reason: &str) -> StreamEvent {
        StreamEvent::Finished { index, finish_reason: reason.into() }
    }

    fn decided() -> StreamEvent {
        StreamEvent::Decided { decision: Uuid::nil(), specialist: "mnemosyne".into() }
    }

    #[test]
    fn role_then_text_then_reason_with_nyx_then_usage() {
        let events = vec![
            decided(),
            token(0, "She is "),
            token(0, ""),
            token(0, "called Ada."),
            finished(0, "stop"),
        ];
        let chunks = written(&mut frames(1, true), events, decision());
        assert_eq!(chunks.len(), 5);
        assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
        assert_eq!(chunks[1]["choices"][0]["delta"], json!({"content": "She is "}));
        assert_eq!(chunks[1]["usage"], Value::Null);
        assert!(chunks[1].as_object().unwrap().contains_key("usage"));
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], Value::Null);
        assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
        assert_eq!(chunks[3]["choices"][0]["delta"], json!({}));
        assert_eq!(chunks[3]["nyx"]["specialist"], "mnemosyne");
        assert_eq!(chunks[4]["choices"], json!([]));
        assert_eq!(chunks[4]["usage"]["completion_tokens"], 6);
        assert!(
            chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"
                && chunk["id"] == chunks[0]["id"])
        );
    }

    #[test]
    fn the_field_nyx_comes_with_the_last_finish_reason() {
        let mut two = decision();
        two.answers.push(Answer { text: "b".into(), finish_reason: "length".into() });
        let events = vec![
            decided(),
            token(1, "b"),
            finished(1, "length"),
            token(0, "a"),
            finished(0, "stop"),
        ];
        let chunks = written(&mut frames(2, false), events, two);
        let reasons: Vec<_> = chunks
            .iter()
            .filter(|chunk| chunk["choices"][0]["finish_reason"].is_string())
            .collect();
        assert_eq!(reasons.len(), 2);
        assert_eq!(
            (&reasons[0]["choices"][0]["index"], &reasons[0]["choices"][0]["finish_reason"]),
            (&json!(1), &json!("length"))
        );
        assert!(reasons[0].get("nyx").is_none() && reasons[1]["nyx"].is_object());
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    }

    #[test]
    fn an_answer_that_did_not_stream_is_sent_from_the_record() {
        let mut late = decision();
        late.answers[0].finish_reason = "deadline".into();
        let chunks = written(&mut frames(1, false), Vec::new(), late);
        assert_eq!(chunks[1]["choices"][0]["delta"]["content"], "She is called Ada.");
        assert_eq!(chunks[2]["choices"][0]["finish_reason"], "length");
        let mut nothing = decision();
        nothing.answers.clear();
        let chunks = written(&mut frames(1, false), Vec::new(), nothing);
        assert_eq!(chunks[1]["choices"][0]["finish_reason"], "length");
    }

    #[test]
    fn log_probabilities_come_with_their_tokens() {
        let logprobs =
            vec![TokenLogprob { token: 1, bytes: b"Hi".to_vec(), logprob: -0.25, top: Vec::new() }];
        let mut out = String::new();
        frames(1, false)
            .event(StreamEvent::Token { index: 0, text: String::new(), logprobs }, &mut out);
        assert!(
            out.contains(
                r#""content":[{"token":"Hi","logprob":-0.25,"bytes":[72,105],"top_logprobs":[]}]"#
            ),
            "{out}"
        );
    }

    #[test]
    fn a_late_failure_is_an_event_without_done() {
        let mut out = String::new();
        frames(1, false).failed(&NyxError::ShuttingDown.into(), &mut out);
        assert!(
            out.starts_with("data: {\"error\":{\"message\":\"shutting down\"")
                && !out.contains("[DONE]"),
            "{out}"
        );
    }
}
