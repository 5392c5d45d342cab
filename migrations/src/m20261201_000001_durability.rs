//! Adds the readiness table, and the additional keys of repeated feedback.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{blob, string_len, timestamp_with_time_zone};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const READINESS: &str = "nyx_readiness";
const KEYS: &str = "nyx_feedback_keys";
const VERDICTS: &str = "nyx_feedback";
/// Length of a UUID in text form.
const UUID: u32 = 36;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut readiness = Table::create();
        readiness
            .table(READINESS)
            .col(string_len("instance", UUID).primary_key())
            .col(timestamp_with_time_zone("at"))
            .col(blob("padding"));
        manager.create_table(readiness).await?;
        let mut keys = Table::create();
        keys.table(KEYS)
            .col(string_len("kind", 16))
            .col(string_len("key", 256))
            .col(string_len("decision", UUID))
            .col(string_len("feedback", UUID))
            .primary_key(
                Index::create()
                    .name("nyx_feedback_keys_key")
                    .col("kind")
                    .col("key")
                    .col("decision"),
            )
            .foreign_key(
                ForeignKey::create()
                    .name("nyx_feedback_keys_verdict")
                    .from(KEYS, "feedback")
                    .to(VERDICTS, "id"),
            );
        manager.create_table(keys).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [KEYS, READINESS] {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}
