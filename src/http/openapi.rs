//! `GET /openapi.json`: the API description, generated from the route types.

use actix_web::HttpResponse;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{
    adapters, admin, artifacts, cells, chat, confidence, decisions, embeddings, feedback, health,
    infer, memories, models, tables, training,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Nyx", description = "A self-hosted agent runtime: one base model, five specialists and a general assistant, every decision on record."),
    paths(
        infer::infer,
        chat::complete,
        models::list,
        models::get,
        embeddings::embed,
        memories::remember,
        memories::search,
        memories::forget,
        memories::forget_one,
        decisions::list,
        decisions::get,
        feedback::resolve,
        feedback::open_forecasts,
        feedback::feedback,
        tables::list,
        cells::cells,
        admin::actors,
        admin::actor,
        admin::restart,
        admin::traits,
        admin::trait_history,
        admin::set_trait,
        training::runs,
        training::train,
        adapters::adapters,
        adapters::promote,
        adapters::rollback,
        artifacts::list,
        confidence::confidence,
        confidence::refit,
        health::live,
        health::ready,
        health::metrics
    ),
    modifiers(&Keys)
)]
pub(super) struct Description;

struct Keys;

impl Modify for Keys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        openapi.components.get_or_insert_default().add_security_scheme("key", scheme);
    }
}

/// The OpenAPI document.
pub async fn describe() -> HttpResponse {
    HttpResponse::Ok().json(Description::openapi())
}
