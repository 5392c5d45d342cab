//! `nyx_synthetic_specialist_queries`: the decision log.

use chrono::{DateTime, Utc};
use nyx_domain::{AdapterVersion, Decision, Status, TokenUsage};
use sea_orm::DbErr;
use sea_orm::entity::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "nyx_synthetic_specialist_queries")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub asked_at: DateTime<Utc>,
    pub instance: String,
    pub conversation: Option<String>,
    /// The external key that the caller assigned.
    pub external_key: Option<String>,
    pub endpoint: String,
    pub requested: String,
    pub specialist: String,
    pub question: String,
    #[sea_orm(column_type = "JsonBinary")]
    pub messages: Json,
    #[sea_orm(column_type = "JsonBinary", nullable)]
    pub inputs: Option<Json>,
    #[sea_orm(column_type = "JsonBinary", nullable)]
    pub trace: Option<Json>,
    #[sea_orm(column_type = "JsonBinary")]
    pub scores: Json,
    #[sea_orm(column_type = "JsonBinary", nullable)]
    pub similarities: Option<Json>,
    #[sea_orm(column_type = "JsonBinary", nullable)]
    pub logits: Option<Json>,
    #[sea_orm(column_type = "JsonBinary")]
    pub propensities: Json,
    #[sea_orm(column_type = "JsonBinary")]
    pub trait_weights: Json,
    pub propensity: f64,
    #[sea_orm(column_type = "JsonBinary")]
    pub evidence: Json,
    /// The first of `answers`, for text search.
    pub answer: String,
    #[sea_orm(column_type = "JsonBinary")]
    pub answers: Json,
    #[sea_orm(column_type = "JsonBinary", nullable)]
    pub choices: Option<Json>,
    #[sea_orm(column_type = "JsonBinary", nullable)]
    pub choice_probabilities: Option<Json>,
    pub probability: Option<f64>,
    pub confidence: Option<f64>,
    pub activation: Option<f64>,
    pub reward: f64,
    pub adapter: Option<String>,
    pub adapter_id: Option<String>,
    pub adapter_generation: Option<i64>,
    pub base_sha256: String,
    #[sea_orm(column_type = "JsonBinary")]
    pub sampling: Json,
    pub prompt_tokens: i64,
    pub cached_tokens: i64,
    pub completion_tokens: i64,
    #[sea_orm(column_type = "JsonBinary")]
    pub timings: Json,
    pub total_ms: f64,
    pub status: String,
    pub error: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Parses a UUID.
pub(in crate::phoebe) fn uuid_of(text: &str) -> Result<uuid::Uuid, DbErr> {
    text.parse().map_err(|_| DbErr::Custom(format!("{text:?} is not a UUID")))
}

fn json(value: &impl Serialize) -> Result<Json, DbErr> {
    serde_json::to_value(value).map_err(|error| DbErr::Json(error.to_string()))
}

fn from_json<T: DeserializeOwned>(value: Json) -> Result<T, DbErr> {
    serde_json::from_value(value).map_err(|error| DbErr::Json(error.to_string()))
}

impl TryFrom<&Decision> for Model {
    type Error = DbErr;

    fn try_from(decision: &Decision) -> Result<Self, DbErr> {
        let adapter = decision.adapter.as_ref();
        Ok(Self {
            id: decision.id.to_string(),
            asked_at: decision.asked_at,
            instance: decision.instance.clone(),
            conversation: decision.conversation.clone(),
            external_key: decision.inputs.external_key.clone(),
            endpoint: decision.endpoint.clone(),
            requested: decision.requested.clone(),
            specialist: decision.specialist.clone(),
            question: decision.question.clone(),
            messages: json(&decision.messages)?,
            inputs: Some(json(&decision.inputs)?),
            trace: Some(json(&decision.trace)?),
            scores: json(&decision.scores)?,
            similarities: Some(json(&decision.similarities)?),
            logits: Some(json(&decision.logits)?),
            propensities: json(&decision.propensities)?,
            trait_weights: json(&decision.trait_weights)?,
            propensity: decision.propensity,
            evidence: json(&decision.evidence)?,
            answer: decision.answer().to_owned(),
            answers: json(&decision.answers)?,
            choices: decision.choices.as_ref().map(json).transpose()?,
            choice_probabilities: decision.choice_probabilities.as_ref().map(json).transpose()?,
            probability: decision.probability,
            confidence: decision.confidence,
            activation: decision.activation,
            reward: decision.reward,
            adapter: adapter.map(|adapter| adapter.name.clone()),
            adapter_id: adapter.map(|adapter| adapter.id.clone()),
            adapter_generation: adapter.map(|adapter| adapter.generation.cast_signed()),
            base_sha256: decision.base_sha256.clone(),
            sampling: decision.sampling.clone(),
            prompt_tokens: decision.usage.prompt_tokens.cast_signed(),
            cached_tokens: decision.usage.cached_tokens.cast_signed(),
            completion_tokens: decision.usage.completion_tokens.cast_signed(),
            timings: json(&decision.timings)?,
            total_ms: decision.timings.total_ms,
            status: decision.status.as_str().to_owned(),
            error: decision.error.clone(),
        })
    }
}

impl TryFrom<Model> for Decision {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        let adapter = match (row.adapter, row.adapter_id, row.adapter_generation) {
            (Some(name), Some(id), Some(generation)) => {
                Some(AdapterVersion { name, id, generation: generation.cast_unsigned() })
            }
            _ => None,
        };
        let (prompt_tokens, completion_tokens) =
            (row.prompt_tokens.cast_unsigned(), row.completion_tokens.cast_unsigned());
        let cached_tokens = row.cached_tokens.cast_unsigned();
        Ok(Self {
            id: uuid_of(&row.id)?,
            asked_at: row.asked_at,
            instance: row.instance,
            conversation: row.conversation,
            endpoint: row.endpoint,
            requested: row.requested,
            messages: from_json(row.messages)?,
            // older rows have none
            inputs: row.inputs.map(from_json).transpose()?.unwrap_or_default(),
            trace: row.trace.map(from_json).transpose()?.unwrap_or_default(),
            question: row.question,
            specialist: row.specialist,
            scores: from_json(row.scores)?,
            similarities: row.similarities.map(from_json).transpose()?.unwrap_or_default(),
            logits: row.logits.map(from_json).transpose()?.unwrap_or_default(),
            propensities: from_json(row.propensities)?,
            trait_weights: from_json(row.trait_weights)?,
            propensity: row.propensity,
            evidence: from_json(row.evidence)?,
            answers: from_json(row.answers)?,
            choices: row.choices.map(from_json).transpose()?,
            choice_probabilities: row.choice_probabilities.map(from_json).transpose()?,
            probability: row.probability,
            confidence: row.confidence,
            activation: row.activation,
            reward: row.reward,
            adapter,
            base_sha256: row.base_sha256,
            sampling: row.sampling,
            usage: TokenUsage {
                prompt_tokens,
                cached_tokens,
                completion_tokens,
                total_tokens: prompt_tokens + completion_tokens,
            },
            timings: from_json(row.timings)?,
            status: from_json::<Status>(Json::String(row.status))?,
            error: row.error,
        })
    }
}
