//! `GET /admin/artifacts`: the fitted artifacts in use.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use nyx_actors::Nyx;
use nyx_actors::artifacts::{ArtifactReport, Origin};
use serde::Serialize;
use utoipa::ToSchema;

/// A fitted artifact in use.
#[derive(Debug, Serialize, ToSchema)]
pub struct ArtifactItem {
    #[schema(example = "confidence")]
    pub name: String,
    /// SHA-256 of its file's bytes.
    pub id: String,
    /// `file` (in the data folder) or `record` (fitted on this instance's own decisions).
    pub origin: &'static str,
    /// The file, if it was loaded from one.
    pub path: Option<String>,
    pub trained_on: TrainedOnItem,
}

/// Its training data.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrainedOnItem {
    /// Number of examples of each kind.
    pub counts: BTreeMap<String, u64>,
    /// SHA-256 of the examples in order.
    pub digest: String,
}

impl From<ArtifactReport> for ArtifactItem {
    fn from(ArtifactReport { name, id, origin, trained_on }: ArtifactReport) -> Self {
        let (origin, path) = match origin {
            Origin::File(path) => ("file", Some(path.display().to_string())),
            Origin::Record => ("record", None),
        };
        Self {
            name,
            id,
            origin,
            path,
            trained_on: TrainedOnItem { counts: trained_on.counts, digest: trained_on.digest },
        }
    }
}

/// Sorted by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct ArtifactList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<ArtifactItem>,
}

/// Every fitted artifact in use.
#[utoipa::path(get, path = "/admin/artifacts", tag = "admin", responses((status = 200, body = ArtifactList)))]
pub async fn list(nyx: web::Data<Nyx>) -> HttpResponse {
    let data = nyx.artifacts.reports().into_iter().map(Into::into).collect();
    HttpResponse::Ok().json(ArtifactList { object: "list", data })
}
