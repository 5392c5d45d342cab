//! `/health/live`, `/health/ready` and `/metrics`, for monitoring.

use std::collections::BTreeMap;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use nyx_actors::{Nyx, Readiness};
use serde::Serialize;
use utoipa::ToSchema;

/// The process is running.
#[derive(Debug, Serialize, ToSchema)]
pub struct Live {
    #[schema(example = "live")]
    pub status: &'static str,
}

/// Whether requests can be answered, and if not, why.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    pub ready: bool,
    /// Each component with `ok` or its error.
    pub parts: BTreeMap<String, String>,
}

/// Whether the process is running.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = Live)))]
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Live { status: "live" })
}

/// Whether requests can be answered.
#[utoipa::path(get, path = "/health/ready", tag = "health", responses((status = 200, body = Ready), (status = 503, body = Ready)))]
pub async fn ready(nyx: web::Data<Nyx>) -> HttpResponse {
    let Readiness { ready, parts } = nyx.readiness().await;
    let mut response = if ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    response.json(Ready { ready, parts })
}

/// Metrics in OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub async fn metrics(nyx: web::Data<Nyx>) -> HttpResponse {
    let text = nyx.metrics.encode();
    HttpResponse::Ok()
        .insert_header((
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ))
        .body(text)
}
