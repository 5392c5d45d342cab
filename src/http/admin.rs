//! `/admin`: actor status, actor restarts and trait weights.

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use nyx_actors::observe::{ActorReport, ActorState, Failure};
use nyx_actors::{Nyx, NyxError};
use nyx_domain::TraitWeightChange;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::extract::{Json, Query, parsed};

/// One actor.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActorItem {
    #[schema(example = "worker-cpu")]
    pub name: String,
    /// `orchestrator`, `specialist`, `gpu_pool`, `gpu_worker`, `memory_keeper` or `phoebe`.
    pub kind: &'static str,
    /// `starting`, `running`, `restarting`, `quarantined` (needs a manual restart) or `stopped`.
    #[schema(value_type = String)]
    pub state: ActorState,
    /// The device that a GPU worker owns.
    pub device: Option<String>,
    /// Messages in the mailbox.
    pub mailbox: u64,
    /// Work queued outside the mailbox, such as for a device.
    pub queue_depth: u64,
    /// Messages being processed.
    pub in_flight: u64,
    pub processed: u64,
    pub failed: u64,
    pub restarts: u64,
    pub last_failure: Option<FailureItem>,
    /// The id of its active adapter.
    pub adapter: Option<String>,
    /// Milliseconds since this instance started.
    pub uptime_ms: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FailureItem {
    #[schema(value_type = String, format = "date-time")]
    pub at: DateTime<Utc>,
    pub reason: String,
}

impl From<ActorReport> for ActorItem {
    fn from(report: ActorReport) -> Self {
        Self {
            name: report.name,
            kind: report.kind,
            state: report.state,
            device: report.device,
            mailbox: report.mailbox,
            queue_depth: report.queue_depth,
            in_flight: report.in_flight,
            processed: report.processed,
            failed: report.failed,
            restarts: report.restarts,
            last_failure: report
                .last_failure
                .map(|Failure { at, reason }| FailureItem { at, reason }),
            adapter: report.adapter,
            uptime_ms: report.uptime_ms,
        }
    }
}

/// Sorted by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActorList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<ActorItem>,
}

/// A trait weight to set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// Within ± `routing.max_trait_weight`.
    weight: f64,
    /// Stored in the history; `admin` when absent.
    reason: Option<String>,
}

/// A change of a trait weight.
#[derive(Debug, Serialize, ToSchema)]
pub struct WeightChange {
    pub name: String,
    pub from: f64,
    pub to: f64,
    /// `admin` or the operator's reason, `feedback` or `outcome`.
    pub reason: String,
    /// The reward that caused a learned change; for a corrected feedback, the difference.
    pub reward: Option<f64>,
    #[schema(value_type = Option<String>, format = "uuid")]
    pub decision: Option<Uuid>,
    #[schema(value_type = String, format = "date-time")]
    pub at: DateTime<Utc>,
}

impl From<TraitWeightChange> for WeightChange {
    fn from(
        TraitWeightChange { name, from, to, reason, reward, decision, at }: TraitWeightChange,
    ) -> Self {
        Self { name, from, to, reason, reward, decision, at }
    }
}

fn no_actor(nyx: &Nyx, name: &str) -> ApiError {
    let known: Vec<String> = nyx.registry.reports().into_iter().map(|report| report.name).collect();
    let mut error = ApiError::from(NyxError::NotFound { what: "actor", id: name.to_owned() });
    error.detail.message = format!("no actor {name:?}; there are {}", known.join(", "));
    error
}

/// Every actor. Reads their published metrics without a message to them, so it responds while all
/// of them are busy.
#[utoipa::path(get, path = "/admin/actors", tag = "admin", responses((status = 200, body = ActorList)))]
pub async fn actors(nyx: web::Data<Nyx>) -> HttpResponse {
    HttpResponse::Ok().json(ActorList {
        object: "list",
        data: nyx.registry.reports().into_iter().map(Into::into).collect(),
    })
}

/// One actor.
#[utoipa::path(get, path = "/admin/actors/{name}", tag = "admin", params(("name" = String, Path)),
    responses((status = 200, body = ActorItem), (status = 404, description = "no such actor", body = ErrorBody)))]
pub async fn actor(nyx: web::Data<Nyx>, name: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let metrics = nyx.registry.get(&name).ok_or_else(|| no_actor(&nyx, &name))?;
    Ok(HttpResponse::Ok().json(ActorItem::from(metrics.report())))
}

/// Stops an actor's instance and starts a new one, also if it is quarantined. Returns at once;
/// `uptime_ms` resets when the new instance runs.
#[utoipa::path(post, path = "/admin/actors/{name}/restart", tag = "admin", params(("name" = String, Path)),
    responses((status = 202, body = ActorItem), (status = 404, description = "no such actor", body = ErrorBody)))]
pub async fn restart(
    nyx: web::Data<Nyx>,
    name: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let metrics = nyx.registry.get(&name).ok_or_else(|| no_actor(&nyx, &name))?;
    nyx.registry.restart(&name)?;
    Ok(HttpResponse::Accepted().json(ActorItem::from(metrics.report())))
}

/// Every specialist's trait weight.
#[utoipa::path(get, path = "/admin/traits", tag = "admin", responses((status = 200, body = HashMap<String, f64>)))]
pub async fn traits(nyx: web::Data<Nyx>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(nyx.feedback.trait_weights().await?))
}

/// The number of changes to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryParams {
    /// 1 to 1000; 20 when absent.
    #[param(value_type = Option<u64>, minimum = 1, maximum = 1000)]
    limit: Option<String>,
}

/// Newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct WeightHistory {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<WeightChange>,
}

/// The history of a specialist's trait weight: each change with its reward and decision, newest
/// first.
#[utoipa::path(get, path = "/admin/traits/{name}", tag = "admin", params(("name" = String, Path), HistoryParams),
    responses((status = 200, body = WeightHistory)))]
pub async fn trait_history(
    nyx: web::Data<Nyx>,
    name: web::Path<String>,
    query: Query<HistoryParams>,
) -> Result<HttpResponse, ApiError> {
    let limit = parsed("limit", query.0.limit.as_deref(), "1 to 1000")?.unwrap_or(20);
    let data = nyx
        .feedback
        .trait_weight_changes(&name, limit)
        .await?
        .into_iter()
        .map(WeightChange::from)
        .collect();
    Ok(HttpResponse::Ok().json(WeightHistory { object: "list", data }))
}

/// Sets a specialist's trait weight; the history keeps the previous value.
#[utoipa::path(post, path = "/admin/traits/{name}", tag = "admin", params(("name" = String, Path)), request_body = WeightRequest,
    responses((status = 200, body = WeightChange), (status = 404, description = "no such specialist", body = ErrorBody)))]
pub async fn set_trait(
    nyx: web::Data<Nyx>,
    name: web::Path<String>,
    body: Json<WeightRequest>,
) -> Result<HttpResponse, ApiError> {
    let WeightRequest { weight, reason } = body.0;
    let change = nyx
        .feedback
        .set_trait_weight(&name, weight, reason.unwrap_or_else(|| "admin".into()))
        .await?;
    Ok(HttpResponse::Ok().json(WeightChange::from(change)))
}
