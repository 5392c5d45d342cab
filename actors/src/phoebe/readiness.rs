//! Tests whether phoebe's database is writable, by writing to it.

use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter};
use uuid::Uuid;

use super::entities::readiness;
use super::store::{PhoebeStore, now};
use crate::NyxError;

/// Time limit of the test write; below the time-out of the readiness probe.
const PATIENCE: Duration = Duration::from_millis(1_800);
/// Bytes that a decision may need: a disk with less free space is not ready.
const PADDING: usize = 16 * 1024;

fn reason(error: DbErr) -> String {
    match error {
        DbErr::Custom(reason) => reason,
        error => error.to_string(),
    }
}

impl PhoebeStore {
    /// Writes a row, at most about once a second; concurrent callers share one write.
    ///
    /// # Errors
    /// The write failed or took too long.
    pub(crate) async fn can_write(&self) -> Result<(), NyxError> {
        let write = async {
            let slow = || format!("nothing could be written in {} ms", PATIENCE.as_millis());
            let written = tokio::time::timeout(PATIENCE, self.write_readiness()).await;
            written.map_or_else(|_| Err(slow()), |written| written.map_err(reason))
        };
        let outcome = self.readiness.result(write).await;
        outcome.map_err(|reason| DbErr::Custom(reason).into())
    }

    async fn write_readiness(&self) -> Result<(), DbErr> {
        let instance = self.readiness.instance.to_string();
        // different bytes each time, so that the write is not skipped
        let padding: Vec<u8> =
            Uuid::new_v4().into_bytes().into_iter().cycle().take(PADDING).collect();
        let row = readiness::Model { instance, at: now(), padding };
        let transaction = self.begin().await?;
        // rows of processes that no longer run
        let old = readiness::Column::At.lt(row.at - TimeDelta::days(1));
        readiness::Entity::delete_many().filter(old).exec(&transaction).await?;
        let mut replace = OnConflict::column(readiness::Column::Instance);
        replace.update_columns([readiness::Column::At, readiness::Column::Padding]);
        readiness::Entity::insert(row.into_active_model())
            .on_conflict(replace)
            .exec_without_returning(&transaction)
            .await?;
        transaction.commit().await
    }
}
