//! `/admin/training`: training runs and the trainer's status.

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use nyx_actors::trainer::TrainingRun;
use nyx_actors::{Nyx, NyxError};
use nyx_engine::train::Objective;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, ErrorBody};
use super::extract::{Json, Query};

/// A training run.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrainingItem {
    pub id: String,
    pub specialist: String,
    pub objective: String,
    /// `training`, `gate`, `canary`, `promoted`, `refused` or `failed`.
    pub status: String,
    pub adapter: Option<String>,
    pub error: Option<String>,
    /// Training settings, and a summary of the data.
    #[schema(value_type = Object)]
    pub settings: serde_json::Value,
    /// Results of the gate and the canary.
    #[schema(value_type = Object)]
    pub metrics: serde_json::Value,
    #[schema(value_type = String, format = "date-time")]
    pub started_at: DateTime<Utc>,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub ended_at: Option<DateTime<Utc>>,
}

impl From<TrainingRun> for TrainingItem {
    fn from(run: TrainingRun) -> Self {
        Self {
            id: run.id,
            specialist: run.specialist,
            objective: run.objective,
            status: run.status,
            adapter: run.adapter_id,
            error: run.error,
            settings: run.settings,
            metrics: run.metrics,
            started_at: run.started_at,
            ended_at: run.ended_at,
        }
    }
}

/// Runs, newest first, and the trainer's status.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrainingList {
    #[schema(example = "list")]
    pub object: &'static str,
    /// The specialist in training, the evidence since the last run, and the drift monitor's
    /// statistic relative to its alarm threshold.
    #[schema(value_type = Object)]
    pub standing: serde_json::Value,
    pub data: Vec<TrainingItem>,
}

/// Filter of the list of runs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct TrainingQuery {
    specialist: Option<String>,
    /// 1 to 1000.
    #[serde(default = "usual")]
    limit: u64,
}

fn usual() -> u64 {
    50
}

/// A training request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingRequest {
    specialist: String,
    /// `sft`, `choice`, `qrpo`, `kto`, `dpo` or `grpo`; chosen by the available evidence when
    /// absent.
    objective: Option<String>,
}

/// A started run.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrainingBegun {
    #[schema(example = "training")]
    pub object: &'static str,
    /// Its id in `GET /admin/training`.
    #[schema(value_type = String, format = "uuid")]
    pub run: String,
    pub specialist: String,
}

/// Runs of training on the log, with their results.
#[utoipa::path(get, path = "/admin/training", tag = "admin", params(TrainingQuery), responses((status = 200, body = TrainingList)))]
pub async fn runs(
    nyx: web::Data<Nyx>,
    query: Query<TrainingQuery>,
) -> Result<HttpResponse, ApiError> {
    let data = nyx
        .training
        .runs(query.0.specialist.as_deref(), query.0.limit)
        .await?
        .into_iter()
        .map(Into::into)
        .collect();
    let standing = serde_json::to_value(nyx.training.status().await?)
        .map_err(|error| NyxError::Internal(error.to_string()))?;
    Ok(HttpResponse::Ok().json(TrainingList { object: "list", standing, data }))
}

/// Starts training of a specialist's adapter on the log. The result must pass the gate.
#[utoipa::path(post, path = "/admin/training", tag = "admin", request_body = TrainingRequest,
    responses((status = 202, description = "started: see GET /admin/training", body = TrainingBegun), (status = 404, description = "no such specialist", body = ErrorBody),
        (status = 409, description = "another specialist is being trained", body = ErrorBody)))]
pub async fn train(
    nyx: web::Data<Nyx>,
    body: Json<TrainingRequest>,
) -> Result<HttpResponse, ApiError> {
    let parse = |name: &String| {
        Objective::parse(name)
            .map_err(|reason| NyxError::invalid("objective", format!("objective: {reason}")))
    };
    let objective = body.0.objective.as_ref().map(parse).transpose()?;
    let run = nyx.training.start(&body.0.specialist, objective).await?;
    Ok(HttpResponse::Accepted().json(TrainingBegun {
        object: "training",
        run,
        specialist: body.0.specialist,
    }))
}
