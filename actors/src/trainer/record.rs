//! `nyx_training_runs`: training runs and their results.

use chrono::{DateTime, Utc};
use sea_orm::entity::prelude::*;
use sea_orm::{IntoActiveModel, QueryOrder, QuerySelect, Set};
use serde::Serialize;

use crate::NyxError;
use crate::phoebe::{PhoebeStore, now};

#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "nyx_training_runs")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub specialist: String,
    pub objective: String,
    pub status: String,
    #[sea_orm(column_type = "JsonBinary")]
    pub settings: Json,
    #[sea_orm(column_type = "JsonBinary")]
    pub metrics: Json,
    pub adapter_id: Option<String>,
    pub error: Option<String>,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The status of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    Training,
    Gate,
    /// A canary for a share of the requests.
    Canary,
    Promoted,
    /// Refused by the gate, or retired as a canary.
    Refused,
    Failed,
}

impl RunStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Gate => "gate",
            Self::Canary => "canary",
            Self::Promoted => "promoted",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    fn ends(self) -> bool {
        matches!(self, Self::Promoted | Self::Refused | Self::Failed)
    }
}

impl PhoebeStore {
    pub(super) async fn begin_run(&self, run: Model) -> Result<(), NyxError> {
        let transaction = self.begin().await?;
        Entity::insert(run.into_active_model()).exec_without_returning(&transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Records a run's status.
    pub(super) async fn note_run(
        &self,
        id: &str,
        status: RunStatus,
        metrics: &Json,
        adapter: Option<&str>,
        error: Option<&str>,
    ) -> Result<(), NyxError> {
        let row = ActiveModel {
            id: Set(id.to_owned()),
            status: Set(status.as_str().to_owned()),
            metrics: Set(metrics.clone()),
            adapter_id: Set(adapter.map(str::to_owned)),
            error: Set(error.map(str::to_owned)),
            ended_at: Set(status.ends().then(now)),
            ..Default::default()
        };
        let transaction = self.begin().await?;
        Entity::update(row).exec(&transaction).await?;
        Ok(transaction.commit().await?)
    }

    /// Runs, newest first; of one specialist, or of all.
    pub(super) async fn runs(
        &self,
        specialist: Option<&str>,
        limit: u64,
    ) -> Result<Vec<Model>, NyxError> {
        let mut query = Entity::find().order_by_desc(Column::StartedAt).limit(limit);
        if let Some(name) = specialist {
            query = query.filter(Column::Specialist.eq(name));
        }
        Ok(query.all(self.reader()).await?)
    }
}
