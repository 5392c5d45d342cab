//! `POST /infer`: Nyx's native endpoint.

use std::collections::BTreeMap;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use nyx_actors::Nyx;
use nyx_domain::{
    ChatMessage, Decision, MemoryFilter, Question, RequestInputs, Role, SamplingOverrides, Status,
    StreamEvent,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use uuid::Uuid;

use super::chat::request::{MessageParam, understood_messages};
use super::decisions::{AdapterItem, EvidenceItem, TimingsItem, UsageItem};
use super::error::{ApiError, ErrorBody};
use super::extract::{Admitted, Strings};
use super::models::{specialist_names, target_of_specialist};
use super::sse::{self, Answering, EVENTS, Frames};
use crate::http::trace::trace_object;

/// A question. One of `prompt` and `messages` is required; all other fields are optional.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InferRequest {
    #[schema(example = "What did I tell you about my sister?")]
    prompt: Option<String>,
    messages: Option<Vec<MessageParam>>,
    /// The specialist that answers, by name, or `base`. The master model routes when absent.
    #[schema(example = "mnemosyne")]
    specialist: Option<String>,
    /// Answer with the most likely of these (2 to 64 different texts) instead of generating.
    choices: Option<Vec<String>>,
    /// Maximum number of tokens of the answer; the specialist file's value when absent.
    max_tokens: Option<usize>,
    /// Answer within this time; at the deadline the answer so far is returned.
    deadline_ms: Option<u64>,
    /// Stream the answer as server-sent events.
    stream: Option<bool>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// The same seed, model and adapters give the same answer.
    seed: Option<i64>,
    /// Up to 4 strings that end the answer; they are not part of it.
    #[schema(value_type = Option<Vec<String>>)]
    stop: Option<Strings>,
    /// The conversation that this request belongs to.
    conversation: Option<String>,
    /// A text to answer from. It is added to the prompt, and not used for routing or retrieval.
    context: Option<String>,
    /// A probability from another source, such as a market: that the event happens, or with two
    /// choices that the first comes true. It is weighted equally with the model's.
    #[schema(minimum = 0, maximum = 1)]
    prior: Option<f64>,
    /// The client's current time (RFC 3339); the server's clock when absent.
    #[schema(value_type = Option<String>, format = "date-time")]
    now: Option<DateTime<Utc>>,
    /// Recall only memories of this `conversation`, of this `speaker`, from `after` on, `before` a
    /// time (RFC 3339).
    #[schema(value_type = Option<Object>)]
    memory: Option<MemoryFilter>,
    /// Store the question and the answer as memories of the conversation; their ids, or a warning,
    /// are in `trace.remembered`.
    remember: Option<bool>,
    /// The answer may be deferred if that is worth more than a fast answer: then the status is
    /// `deferred`, with 202, and `GET /v1/decisions/{id}` has the answer after `retry_after_s`. Not
    /// with `stream`.
    allow_defer: Option<bool>,
    /// The client's name for this decision, which outcomes and feedback may refer to.
    external_key: Option<String>,
}

impl InferRequest {
    fn question(self, specialists: &[&str]) -> Result<Question, ApiError> {
        let target = target_of_specialist(specialists, self.specialist.as_deref())?;
        let messages = match (self.prompt, self.messages) {
            (Some(prompt), None) if prompt.trim().is_empty() => {
                return Err(ApiError::invalid(
                    "prompt",
                    format!("prompt is {prompt:?}, expected a question"),
                ));
            }
            (Some(prompt), None) => vec![ChatMessage::new(Role::User, prompt)],
            (None, Some(messages)) => understood_messages(messages)?,
            (None, None) => {
                return Err(ApiError::invalid(
                    "prompt",
                    "prompt is missing, expected \"prompt\" or \"messages\"",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid(
                    "prompt",
                    "both prompt and messages are given, expected one of them",
                ));
            }
        };
        let stop = self.stop.unwrap_or_default().0;
        let sampling = SamplingOverrides {
            temperature: self.temperature,
            seed: self.seed.map(i64::cast_unsigned),
            max_tokens: self.max_tokens,
            stop,
            ..SamplingOverrides::default()
        };
        let inputs = RequestInputs {
            context: self.context,
            prior: self.prior,
            now: self.now,
            memory: self.memory.unwrap_or_default(),
            remember: self.remember.unwrap_or(false),
            external_key: self.external_key,
            allow_defer: self.allow_defer.unwrap_or(false),
        };
        let question = Question::new(messages, target, "/infer");
        Ok(Question {
            choices: self.choices,
            sampling,
            conversation: self.conversation,
            inputs,
            ..question
        })
    }
}

/// The response of `/infer`, and the `decision` event of its stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct InferResponse {
    /// UUID v7: the decision's id in the record.
    #[schema(value_type = String, format = "uuid")]
    pub decision_id: Uuid,
    /// The specialist that answered.
    pub specialist: String,
    pub answer: String,
    /// Calibrated, in [0, 1]; null until a calibrator is fitted.
    pub confidence: Option<f64>,
    /// A forecast's probability, where the specialist gives one.
    pub probability: Option<f64>,
    /// Each choice's probability; they add up to 1. Only with `choices`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice_probabilities: Option<BTreeMap<String, f64>>,
    pub decision: Choice,
    /// The evidence that the specialist used, best first.
    pub evidence: Vec<EvidenceItem>,
    pub adapter: Option<AdapterItem>,
    pub usage: UsageItem,
    pub timings: TimingsItem,
    /// Intermediate results and reasons of the answer, by name; empty when there are none.
    #[schema(value_type = Object)]
    pub trace: serde_json::Map<String, serde_json::Value>,
    /// For a deferred answer, the seconds to wait before `GET /v1/decisions/{id}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// `answered`, `partial` when the deadline ended it, or `deferred`.
    #[schema(value_type = String)]
    pub status: Status,
    /// `stop`, `length`, `deadline`, `choice`, or `content_filter` if screening ended or blocked
    /// it.
    pub finish_reason: String,
}

/// How the specialist was chosen: each field maps a name to a number. Scores and propensities are
/// empty when the client chose.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MasterChoice)]
pub struct Choice {
    /// The base model's score of each: mean log-likelihood of its name, minus that after a
    /// content-free question. Empty when scoring was too late.
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
}

impl From<Decision> for InferResponse {
    fn from(mut decision: Decision) -> Self {
        let retry_after_s = decision.retry_after().map(|wait| wait.as_secs().max(1));
        let (answer, finish_reason) = match std::mem::take(&mut decision.answers).into_iter().next()
        {
            Some(first) => (first.text, first.finish_reason),
            None if retry_after_s.is_some() => (String::new(), "deferred".to_owned()),
            None => (String::new(), "deadline".to_owned()),
        };
        let Decision {
            scores,
            similarities,
            logits,
            propensities,
            trait_weights,
            choices,
            choice_probabilities,
            ..
        } = decision;
        Self {
            decision_id: decision.id,
            specialist: decision.specialist,
            answer,
            confidence: decision.confidence,
            probability: decision.probability,
            choice_probabilities: choices
                .zip(choice_probabilities)
                .map(|(choices, values)| choices.into_iter().zip(values).collect()),
            decision: Choice { scores, similarities, logits, propensities, trait_weights },
            evidence: decision.evidence.into_iter().map(Into::into).collect(),
            adapter: decision.adapter.map(Into::into),
            usage: decision.usage.into(),
            timings: decision.timings.into(),
            trace: trace_object(&decision.trace),
            retry_after_s,
            status: decision.status,
            finish_reason,
        }
    }
}

/// A piece of the answer: the `token` event.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenPiece<'a> {
    pub text: &'a str,
}

/// Answers a question: the master model chooses the specialist, unless `specialist` names one.
///
/// With `stream: true` the response is server-sent events: `token` events, one `decision` event
/// with all fields of an unstreamed answer, and `[DONE]` once the decision is recorded. A failure
/// after the first tokens is an `error` event without `[DONE]`.
#[utoipa::path(post, path = "/infer", tag = "nyx", request_body = InferRequest,
    responses((status = 200, content((InferResponse = "application/json"), (TokenPiece<'static> = "text/event-stream"))),
        (status = 202, description = "deferred", body = InferResponse),
        (status = 404, description = "no such specialist", body = ErrorBody)))]
pub async fn infer(
    nyx: web::Data<Nyx>,
    request: Admitted<InferRequest>,
) -> Result<HttpResponse, ApiError> {
    let Admitted { permit, client, body } = request;
    let (stream, deadline_ms) = (body.stream.unwrap_or(false), body.deadline_ms);
    let question = body.question(&specialist_names(&nyx))?;
    let context = nyx.admission.context(deadline_ms)?.of(client);
    let nyx = nyx.get_ref().clone();
    if stream {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let ask = async move { nyx.decisions.ask(context, question, Some(sender)).await };
        return sse::respond(Answering::new(receiver, ask), permit, InferFrames::default()).await;
    }
    let decision = Box::pin(nyx.decisions.ask(context, question, None)).await?;
    drop(permit);
    let answer = InferResponse::from(decision);
    Ok(match answer.retry_after_s {
        Some(seconds) => HttpResponse::Accepted()
            .insert_header((header::RETRY_AFTER, seconds.to_string()))
            .json(answer),
        None => HttpResponse::Ok().json(answer),
    })
}

/// Writes `token` and `decision` events.
#[derive(Debug, Default)]
struct InferFrames {
    any: bool,
}

impl InferFrames {
    fn token(&mut self, text: &str, out: &mut String) {
        if !text.is_empty() {
            self.any = true;
            sse::named("token", &TokenPiece { text }, out);
        }
    }
}

impl Frames for InferFrames {
    fn event(&mut self, event: StreamEvent, out: &mut String) {
        if let StreamEvent::Token { text, .. } = event {
            self.token(&text, out);
        }
    }

    fn ended(&mut self, decision: Decision, out: &mut String) {
        if !self.any {
            // a choice does not stream while its options are scored
            self.token(decision.answer(), out);
        }
        sse::named("decision", &InferResponse::from(decision), out);
        sse::done(out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut String) {
        sse::named("error", &error.body(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::decisions::tests::decision;
    use crate::http::extract::parse;
    use crate::http::extract::tests::valid;
    use nyx_domain::Target;
    use serde_json::{Value, json};

    fn asked(body: Value) -> Result<Question, ApiError> {
        let question = parse::<InferRequest>(body.to_string().as_bytes())?
            .question(&["mnemosyne", "moira"])?;
        valid(&question)?;
        Ok(question)
    }

    #[test]
    fn a_prompt_is_one_user_message() {
        let question =
            asked(json!({"prompt": "Who?", "specialist": "moira", "max_tokens": 7, "stop": "x"}))
                .unwrap();
        assert_eq!(question.messages, [ChatMessage::new(Role::User, "Who?")]);
        assert_eq!(question.target, Target::Specialist("moira".into()));
        assert_eq!(
            (question.sampling.max_tokens, question.sampling.stop),
            (Some(7), vec!["x".to_owned()])
        );
        assert_eq!(
            asked(json!({"messages": [{"role": "user", "content": "Who?"}]})).unwrap().target,
            Target::Master
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, status, param) in [
            (json!({}), 400, "prompt"),
            (json!({"prompt": " "}), 400, "prompt"),
            (json!({"prompt": 5}), 400, "prompt"),
            (json!({"prompt": "a", "messages": []}), 400, "prompt"),
            (json!({"messages": []}), 400, "messages"),
            (json!({"prompt": "a", "specialist": "zeus"}), 404, "specialist"),
            (json!({"prompt": "a", "promt": "b"}), 400, "promt"),
            (json!({"prompt": "a", "choices": "b"}), 400, "choices"),
            (json!({"prompt": "a", "max_tokens": -1}), 400, "max_tokens"),
            (json!({"prompt": "a", "stop": ["1", "2", "3", "4", "5"]}), 400, "stop"),
        ] {
            let error = asked(body.clone()).unwrap_err();
            assert_eq!(
                (error.status.as_u16(), error.detail.param.as_deref()),
                (status, Some(param)),
                "{body}: {error}"
            );
        }
    }

    #[test]
    fn the_answer_has_the_documented_shape() {
        let mut decision = decision();
        decision.choices = Some(vec!["yes".into(), "no".into()]);
        decision.choice_probabilities = Some(vec![0.75, 0.25]);
        let shown = serde_json::to_value(InferResponse::from(decision)).unwrap();
        assert_eq!(shown["answer"], "She is called Ada.");
        assert_eq!(shown["choice_probabilities"], json!({"yes": 0.75, "no": 0.25}));
        assert_eq!(shown["decision"]["propensities"], json!({"mnemosyne": 0.9, "moira": 0.1}));
        assert_eq!(shown["confidence"], Value::Null);
        assert_eq!(shown["evidence"][0]["id"], "m-1");
        assert_eq!(
            (&shown["status"], &shown["finish_reason"]),
            (&json!("answered"), &json!("stop"))
        );
        assert!(shown["timings"].as_object().unwrap().keys().all(|key| key.ends_with("_ms")));
    }

    #[test]
    fn a_stream_is_tokens_then_the_decision_then_done() {
        let token =
            |text: &str| StreamEvent::Token { index: 0, text: text.into(), logprobs: Vec::new() };
        let mut out = String::new();
        let mut frames = InferFrames::default();
        for event in [
            StreamEvent::Decided { decision: Uuid::nil(), specialist: "moira".into() },
            token("She "),
            token(""),
            token("is"),
        ] {
            frames.event(event, &mut out);
        }
        frames.ended(decision(), &mut out);
        let events: Vec<&str> = out.split_terminator("\n\n").collect();
        assert_eq!(events.len(), 4, "{out}");
        assert_eq!(events[0], "event: token\ndata: {\"text\":\"She \"}");
        assert!(events[2].starts_with("event: decision\ndata: {\"decision_id\":"));
        assert_eq!(events[3], "data: [DONE]");

        let mut out = String::new();
        InferFrames::default().ended(decision(), &mut out);
        assert!(out.starts_with("event: token\ndata: {\"text\":\"She is called Ada.\"}"), "{out}");
    }
}
