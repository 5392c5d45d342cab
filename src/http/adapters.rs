//! `/admin/adapters`: lists, promotes and rolls back adapters.

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use nyx_actors::adapters::{AdapterReport, Generation};
use nyx_actors::{Nyx, NyxError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::extract::Json;

/// An adapter and its state.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdapterEntry {
    /// SHA-256 of configuration, weights and base.
    pub id: String,
    pub specialist: String,
    pub base_sha256: String,
    /// The generation of its last promotion; 0: never promoted.
    pub generation: u64,
    pub bytes: u64,
    /// `candidate`, `canary`, `live`, `retired` or `bad` (its files do not match their checksum).
    pub status: &'static str,
    pub training_run: Option<String>,
    /// Whether its files are on disk, and whether it is loaded on the devices of this process.
    pub kept: bool,
    pub loaded: bool,
    #[schema(value_type = String, format = "date-time")]
    pub created_at: DateTime<Utc>,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub promoted_at: Option<DateTime<Utc>>,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub retired_at: Option<DateTime<Utc>>,
}

impl From<AdapterReport> for AdapterEntry {
    fn from(AdapterReport { record, kept, loaded }: AdapterReport) -> Self {
        Self {
            id: record.id,
            specialist: record.specialist,
            base_sha256: record.base_sha256,
            generation: record.generation,
            bytes: record.bytes,
            status: record.status.as_str(),
            training_run: record.training_run,
            kept,
            loaded,
            created_at: record.created_at,
            promoted_at: record.promoted_at,
            retired_at: record.retired_at,
        }
    }
}

/// Oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AdapterList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<AdapterEntry>,
}

/// A generation of a specialist: the adapter that is active from then on.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerationItem {
    pub specialist: String,
    pub generation: u64,
    /// `null` is the base model.
    pub adapter: Option<String>,
    /// `configured`, `promoted` or `rolled_back`.
    pub kind: &'static str,
    pub reason: String,
    #[schema(value_type = String, format = "date-time")]
    pub at: DateTime<Utc>,
}

impl From<Generation> for GenerationItem {
    fn from(made: Generation) -> Self {
        let Generation { specialist, generation, adapter, kind, reason, at } = made;
        Self { specialist, generation, adapter, kind: kind.as_str(), reason, at }
    }
}

/// The reason for a promotion or a rollback.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonRequest {
    /// Stored with the generation.
    reason: Option<String>,
}

impl ReasonRequest {
    fn reason_or_default(body: Json<Self>) -> String {
        body.0.reason.map_or_else(|| BY_HAND.to_owned(), |reason| format!("{BY_HAND}: {reason}"))
    }
}

/// No gate has tested it; the operator with the key is responsible.
const BY_HAND: &str = "by hand, over HTTP";

/// Runs a swap in a task of its own, so that a disconnected client or a passed deadline does not
/// interrupt it.
async fn to_its_end(
    swap: impl Future<Output = Result<Generation, NyxError>> + 'static,
) -> Result<HttpResponse, ApiError> {
    let made = actix_web::rt::spawn(swap)
        .await
        .map_err(|error| NyxError::Internal(error.to_string()))??;
    Ok(HttpResponse::Ok().json(GenerationItem::from(made)))
}

/// Every adapter on record.
#[utoipa::path(get, path = "/admin/adapters", tag = "admin", responses((status = 200, body = AdapterList)))]
pub async fn adapters(nyx: web::Data<Nyx>) -> Result<HttpResponse, ApiError> {
    let data = nyx.adapters.list().await?.into_iter().map(Into::into).collect();
    Ok(HttpResponse::Ok().json(AdapterList { object: "list", data }))
}

/// Makes an adapter its specialist's next generation without the gate; the recorded reason begins
/// with "by hand". Requests in flight finish on their own generation.
#[utoipa::path(post, path = "/admin/adapters/{id}/promote", tag = "admin", params(("id" = String, Path)), request_body = ReasonRequest,
    responses((status = 200, body = GenerationItem), (status = 404, description = "no such adapter", body = ErrorBody),
        (status = 409, description = "its files are missing or changed", body = ErrorBody)))]
pub async fn promote(
    nyx: web::Data<Nyx>,
    id: web::Path<String>,
    body: Json<ReasonRequest>,
) -> Result<HttpResponse, ApiError> {
    let reason = ReasonRequest::reason_or_default(body);
    to_its_end(async move { nyx.adapters.promote(&id, &reason).await }).await
}

/// Rolls back to the adapter before the live one, else to the base model, under a new generation
/// number.
#[utoipa::path(post, path = "/admin/adapters/rollback/{specialist}", tag = "admin", params(("specialist" = String, Path)),
    request_body = ReasonRequest,
    responses((status = 200, body = GenerationItem), (status = 404, description = "no such specialist", body = ErrorBody),
        (status = 409, description = "the base model is already active", body = ErrorBody)))]
pub async fn rollback(
    nyx: web::Data<Nyx>,
    specialist: web::Path<String>,
    body: Json<ReasonRequest>,
) -> Result<HttpResponse, ApiError> {
    let reason = ReasonRequest::reason_or_default(body);
    to_its_end(async move { nyx.adapters.rollback(&specialist, &reason).await }).await
}
