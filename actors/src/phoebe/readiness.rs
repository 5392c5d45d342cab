//! Tests whether phoebe's database is writable, by writing to it.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, DbErr, EntityTrait, IntoActiveModel, QueryFilter};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::PhoebeStore;
use super::entities::readiness;
use super::store::now;
use crate::NyxError;

/// How long a result is reused.
const FRESH: Duration = Duration::from_secs(1);
/// Time limit of the test write; below the time-out of the readiness probe.
const PATIENCE: Duration = Duration::from_millis(1_800);
/// Bytes that a decision may need: a disk with less free space is not ready.
const PADDING: usize = 16 * 1024;

/// The last test write and its result.
#[derive(Debug)]
pub(super) struct WriteCheck {
    instance: Uuid,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl WriteCheck {
    pub(super) fn new() -> Self {
        Self { instance: Uuid::now_v7(), last: Mutex::new(None) }
    }
}

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
        let mut last = self.readiness.last.lock().await;
        let known = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH).map(|(_, outcome)| outcome.clone());
        let outcome = match known {
            Some(outcome) => outcome,
            None => {
                let slow = || format!("nothing could be written in {} ms", PATIENCE.as_millis());
                let written = tokio::time::timeout(PATIENCE, self.write_readiness()).await;
                let outcome = written.map_or_else(|_| Err(slow()), |written| written.map_err(reason));
                *last = Some((Instant::now(), outcome.clone()));
                outcome
            }
        };
        outcome.map_err(|reason| DbErr::Custom(reason).into())
    }

    async fn write_readiness(&self) -> Result<(), DbErr> {
        let instance = self.readiness.instance.to_string();
        // different bytes each time, so that the write is not skipped
        let padding: Vec<u8> = Uuid::new_v4().into_bytes().into_iter().cycle().take(PADDING).collect();
        let row = readiness::Model { instance, at: now(), padding };
        let transaction = self.begin().await?;
        // rows of processes that no longer run
        let old = readiness::Column::At.lt(row.at - TimeDelta::days(1));
        readiness::Entity::delete_many().filter(old).exec(&transaction).await?;
        let mut replace = OnConflict::column(readiness::Column::Instance);
        replace.update_columns([readiness::Column::At, readiness::Column::Padding]);
        readiness::Entity::insert(row.into_active_model()).on_conflict(replace).exec_without_returning(&transaction).await?;
        transaction.commit().await
    }
}
