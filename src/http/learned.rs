//! `GET /admin/learned`: which learned parts are in use.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use nyx_actors::Nyx;
use nyx_actors::learned::{LearnedReport, Origin};
use serde::Serialize;
use utoipa::ToSchema;

/// A learned part that is in use.
#[derive(Debug, Serialize, ToSchema)]
pub struct LearnedItem {
    #[schema(example = "confidence")]
    pub name: String,
    /// SHA-256 of its file's bytes.
    pub id: String,
    /// `file` (of the data folder) or `record` (learned from this Nyx's own decisions).
    pub origin: &'static str,
    /// The file, where it came from one.
    pub path: Option<String>,
    pub trained_on: TrainedOnItem,
}

/// What it was learned from.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrainedOnItem {
    /// Examples of each kind.
    pub counts: BTreeMap<String, u64>,
    /// SHA-256 over the examples in their order.
    pub digest: String,
}

impl From<LearnedReport> for LearnedItem {
    fn from(LearnedReport { name, id, origin, trained_on }: LearnedReport) -> Self {
        let (origin, path) = match origin {
            Origin::File(path) => ("file", Some(path.display().to_string())),
            Origin::Record => ("record", None),
        };
        Self { name, id, origin, path, trained_on: TrainedOnItem { counts: trained_on.counts, digest: trained_on.digest } }
    }
}

/// In the order of their names.
#[derive(Debug, Serialize, ToSchema)]
pub struct LearnedList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<LearnedItem>,
}

/// Every learned part that is in use.
#[utoipa::path(get, path = "/admin/learned", tag = "admin", responses((status = 200, body = LearnedList)))]
pub async fn learned(nyx: web::Data<Nyx>) -> HttpResponse {
    let data = nyx.learned.reports().into_iter().map(Into::into).collect();
    HttpResponse::Ok().json(LearnedList { object: "list", data })
}
