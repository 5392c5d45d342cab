//! `GET /v1/decisions[/{id}]`: the recorded decisions, and the JSON types that all routes use for a
//! decision.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use nyx_actors::Nyx;
use nyx_actors::phoebe::messages::ListDecisions;
use nyx_domain::{
    AdapterVersion, Answer, Decision, Evidence, RequestInputs, Status, Timings, TokenUsage,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::extract::{Query, parsed};
use super::feedback::FeedbackItem;
use crate::http::trace::trace_object;

/// One piece of evidence that the specialist used.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct EvidenceItem {
    /// Unique: a memory's id, or `memory:UUID` and `table:NAME#ROW` when both kinds occur.
    pub id: String,
    pub text: String,
    /// Higher is better; for memories the probability that it answers the question, or the cosine
    /// similarity if they were not re-ranked.
    pub score: f64,
    /// `memory`, or the table's name.
    pub source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speaker: Option<String>,
    /// When it happened, as given by the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub when: Option<DateTime<Utc>>,
    /// Neighbouring turns that were shown with it, such as the question that a memory answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<String>,
}

impl From<Evidence> for EvidenceItem {
    fn from(evidence: Evidence) -> Self {
        let Evidence { id, text, score, source, speaker, when, context } = evidence;
        Self { id, text, score, source, speaker, when, context }
    }
}

/// The adapter that was active for the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AdapterItem {
    pub name: String,
    /// SHA-256 of configuration, weights and base.
    pub id: String,
    pub generation: u64,
}

impl From<AdapterVersion> for AdapterItem {
    fn from(AdapterVersion { name, id, generation }: AdapterVersion) -> Self {
        Self { name, id, generation }
    }
}

/// Latency breakdown, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct TimingsItem {
    /// Routing.
    pub decide_ms: f64,
    pub retrieve_ms: f64,
    /// Time in a device's queue.
    pub queue_ms: f64,
    pub prefill_ms: f64,
    pub decode_ms: f64,
    /// From the request to the first token; null when there was none.
    pub first_token_ms: Option<f64>,
    /// From the request to the end of the answer.
    pub total_ms: f64,
}

impl From<Timings> for TimingsItem {
    fn from(timings: Timings) -> Self {
        let Timings {
            decide_ms,
            retrieve_ms,
            queue_ms,
            prefill_ms,
            decode_ms,
            first_token_ms,
            total_ms,
        } = timings;
        Self { decide_ms, retrieve_ms, queue_ms, prefill_ms, decode_ms, first_token_ms, total_ms }
    }
}

/// Tokens of the whole decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct UsageItem {
    pub prompt_tokens: u64,
    /// Prompt tokens read from the prefix cache.
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    pub total_tokens: u64,
}

impl From<TokenUsage> for UsageItem {
    fn from(usage: TokenUsage) -> Self {
        let TokenUsage { prompt_tokens, cached_tokens, completion_tokens, total_tokens } = usage;
        Self { prompt_tokens, cached_tokens, completion_tokens, total_tokens }
    }
}

/// One message of the question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MessageItem {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    pub content: String,
}

/// One of the `n` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AnswerItem {
    pub text: String,
    /// `stop`, `length`, `deadline`, `cancelled`, `choice`, or `content_filter`.
    pub finish_reason: String,
}

impl From<Answer> for AnswerItem {
    fn from(Answer { text, finish_reason }: Answer) -> Self {
        Self { text, finish_reason }
    }
}

/// One decision as recorded.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DecisionRecord {
    /// UUID v7, so that ids sort by time.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    #[schema(value_type = String, format = "date-time")]
    pub asked_at: DateTime<Utc>,
    /// The Nyx process that answered.
    pub instance: String,
    pub conversation: Option<String>,
    /// The endpoint of the request.
    pub endpoint: String,
    /// The requested model: `nyx`, `nyx/NAME` or `nyx/base`.
    pub requested: String,
    pub messages: Vec<MessageItem>,
    /// The client's other inputs: `context`, `prior`, `now`, `remember`.
    #[schema(value_type = Object)]
    pub inputs: RequestInputs,
    /// The last user message: the input of routing and retrieval.
    pub question: String,
    /// The specialist that answered.
    pub specialist: String,
    /// The base model's score of each candidate; empty when the client chose the specialist, and
    /// when scoring was too late.
    pub scores: BTreeMap<String, f64>,
    /// Similarity of the question to each candidate's examples: the mean of the best two cosines.
    /// Empty when only the scores were used.
    pub similarities: BTreeMap<String, f64>,
    /// `routing.similarity_scale` times the similarity (or the score, without a similarity), plus
    /// the trait weight; the propensities are computed from these.
    pub logits: BTreeMap<String, f64>,
    /// The probability of drawing each candidate; they add up to 1.
    pub propensities: BTreeMap<String, f64>,
    pub trait_weights: BTreeMap<String, f64>,
    /// The propensity of the specialist that answered; 1 when the client chose it.
    pub propensity: f64,
    pub evidence: Vec<EvidenceItem>,
    /// The first answer's text.
    pub answer: String,
    pub answers: Vec<AnswerItem>,
    pub choices: Option<Vec<String>>,
    /// In the order of `choices`.
    pub choice_probabilities: Option<Vec<f64>>,
    /// A forecast's probability.
    pub probability: Option<f64>,
    pub confidence: Option<f64>,
    /// Trait activation in [0, 1].
    pub activation: Option<f64>,
    /// Sum of the rewards so far.
    pub reward: f64,
    pub adapter: Option<AdapterItem>,
    pub base_sha256: String,
    /// The sampling parameters, seed included.
    #[schema(value_type = Object)]
    pub sampling: serde_json::Value,
    pub usage: UsageItem,
    pub timings: TimingsItem,
    /// Intermediate results and reasons of the answer, by name.
    #[schema(value_type = Object)]
    pub trace: serde_json::Map<String, serde_json::Value>,
    /// `answered`, `partial` (ended by the deadline), `cancelled` (the client disconnected) or
    /// `failed`.
    #[schema(value_type = String)]
    pub status: Status,
    pub error: Option<String>,
}

impl From<Decision> for DecisionRecord {
    fn from(decision: Decision) -> Self {
        let answer = decision.answer().to_owned();
        Self {
            id: decision.id,
            asked_at: decision.asked_at,
            instance: decision.instance,
            conversation: decision.conversation,
            endpoint: decision.endpoint,
            requested: decision.requested,
            messages: decision
                .messages
                .into_iter()
                .map(|said| MessageItem { role: said.role.as_str(), content: said.content })
                .collect(),
            inputs: decision.inputs,
            question: decision.question,
            specialist: decision.specialist,
            scores: decision.scores,
            similarities: decision.similarities,
            logits: decision.logits,
            propensities: decision.propensities,
            trait_weights: decision.trait_weights,
            propensity: decision.propensity,
            evidence: decision.evidence.into_iter().map(Into::into).collect(),
            answer,
            answers: decision.answers.into_iter().map(Into::into).collect(),
            choices: decision.choices,
            choice_probabilities: decision.choice_probabilities,
            probability: decision.probability,
            confidence: decision.confidence,
            activation: decision.activation,
            reward: decision.reward,
            adapter: decision.adapter.map(Into::into),
            base_sha256: decision.base_sha256,
            sampling: decision.sampling,
            usage: decision.usage.into(),
            timings: decision.timings.into(),
            trace: trace_object(&decision.trace),
            status: decision.status,
            error: decision.error,
        }
    }
}

/// One decision with all its feedback.
#[derive(Debug, Serialize, ToSchema)]
pub struct DecisionStory {
    #[serde(flatten)]
    pub decision: DecisionRecord,
    /// Outcomes and feedback on it, oldest first. The last of each kind counts.
    pub feedback: Vec<FeedbackItem>,
}

/// Decisions, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct DecisionList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<DecisionRecord>,
}

/// Which decisions to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// 1 to 1000; 20 when absent.
    #[param(value_type = Option<u64>, minimum = 1, maximum = 1000)]
    limit: Option<String>,
    /// Only decisions older than the one of this id.
    #[param(value_type = Option<String>, format = "uuid")]
    before: Option<String>,
    /// Only those that this specialist answered.
    specialist: Option<String>,
    conversation: Option<String>,
}

/// Lists decisions, newest first.
#[utoipa::path(get, path = "/v1/decisions", tag = "record", params(ListParams), responses((status = 200, body = DecisionList)))]
pub async fn list(nyx: web::Data<Nyx>, query: Query<ListParams>) -> Result<HttpResponse, ApiError> {
    let query = query.0;
    let limit = parsed("limit", query.limit.as_deref(), "1 to 1000")?.unwrap_or(20);
    if !(1..=1000).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("limit is {limit}, expected 1 to 1000")));
    }
    let before = parsed("before", query.before.as_deref(), "a decision's id (UUID)")?;
    let query = ListDecisions {
        specialist: query.specialist,
        conversation: query.conversation,
        before,
        limit,
    };
    let data = nyx.decisions.list(query).await?.into_iter().map(Into::into).collect();
    Ok(HttpResponse::Ok().json(DecisionList { object: "list", data }))
}

/// One decision with all its feedback.
#[utoipa::path(get, path = "/v1/decisions/{id}", tag = "record", params(("id" = String, Path, description = "the decision's id, with or without the prefix `chatcmpl-`")),
    responses((status = 200, body = DecisionStory), (status = 404, description = "no such decision", body = ErrorBody)))]
pub async fn get(nyx: web::Data<Nyx>, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let id = id.into_inner();
    let bare = id.strip_prefix("chatcmpl-").unwrap_or(&id);
    let uuid = parsed("id", Some(bare), "a decision's id (UUID)")?.unwrap_or_default();
    let decision = nyx.decisions.get(uuid).await?.into();
    let feedback = nyx.feedback.list(uuid).await?.into_iter().map(Into::into).collect();
    Ok(HttpResponse::Ok().json(DecisionStory { decision, feedback }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A decision with every field set, for the shapes of all routes.
    pub fn decision() -> Decision {
        serde_json::from_str(include_str!("../../tests/it/decision.json")).unwrap()
    }

    #[test]
    fn the_record_shows_every_field_of_a_decision() {
        let decision = decision();
        let kept = serde_json::to_value(&decision).unwrap();
        let shown = serde_json::to_value(DecisionRecord::from(decision)).unwrap();
        for (field, value) in kept.as_object().unwrap() {
            assert_eq!(&shown[field], value, "{field}");
        }
        assert_eq!(shown["answer"], "She is called Ada.");
    }
}
