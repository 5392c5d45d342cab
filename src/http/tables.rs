//! `GET /v1/tables`: the registered tables.

use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use nyx_actors::Nyx;
use nyx_actors::facts::TableReport;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;

/// A table that facts are read from.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableItem {
    #[schema(example = "games")]
    pub name: String,
    pub description: String,
    pub columns: Vec<ColumnItem>,
    /// The number of rows of an imported table; `null` for other tables.
    pub rows: Option<u64>,
    /// The database's URL without password, if it is not phoebe's.
    pub url: Option<String>,
    /// When it was imported; `null` for tables of the settings.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub created_at: Option<DateTime<Utc>>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ColumnItem {
    pub name: String,
    /// `integer`, `real`, `date` or `text`.
    #[schema(example = "text")]
    pub kind: &'static str,
}

impl From<TableReport> for TableItem {
    fn from(
        TableReport { name, caption, columns, rows, url, created_at, error }: TableReport,
    ) -> Self {
        let columns = columns
            .into_iter()
            .map(|column| ColumnItem { kind: column.kind.as_str(), name: column.name })
            .collect();
        Self { name, description: caption, columns, rows, url, created_at, error }
    }
}

/// Sorted by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<TableItem>,
}

/// The tables that facts are read from: imported ones, and those of the settings.
#[utoipa::path(get, path = "/v1/tables", tag = "nyx", responses((status = 200, body = TableList)))]
pub async fn list(nyx: web::Data<Nyx>) -> Result<HttpResponse, ApiError> {
    let data = nyx.facts.tables().await?.into_iter().map(Into::into).collect();
    Ok(HttpResponse::Ok().json(TableList { object: "list", data }))
}
