//! Adapters and their training runs.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, json_binary, string_len, string_len_null, text, text_null,
    timestamp_with_time_zone, timestamp_with_time_zone_null,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const ADAPTERS: &str = "nyx_adapters";
const RUNS: &str = "nyx_training_runs";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut adapters = Table::create();
        adapters
            .table(ADAPTERS)
            .col(string_len("id", 64).primary_key())
            .col(string_len("specialist", 64))
            .col(string_len("base_sha256", 64))
            .col(big_integer("generation"))
            .col(text("path"))
            .col(big_integer("bytes"))
            .col(string_len("status", 16))
            .col(string_len_null("training_run", 36))
            .col(timestamp_with_time_zone("created_at"))
            .col(timestamp_with_time_zone_null("promoted_at"))
            .col(timestamp_with_time_zone_null("retired_at"));
        manager.create_table(adapters).await?;
        let live = Index::create()
            .name("nyx_adapters_by_generation")
            .table(ADAPTERS)
            .col("specialist")
            .col("generation")
            .to_owned();
        manager.create_index(live).await?;

        let mut runs = Table::create();
        runs.table(RUNS)
            .col(string_len("id", 36).primary_key())
            .col(string_len("specialist", 64))
            .col(string_len("objective", 32))
            .col(string_len("status", 16))
            .col(json_binary("settings"))
            .col(json_binary("metrics"))
            .col(string_len_null("adapter_id", 64))
            .col(text_null("error"))
            .col(timestamp_with_time_zone("started_at"))
            .col(timestamp_with_time_zone_null("ended_at"));
        manager.create_table(runs).await?;
        let newest = Index::create()
            .name("nyx_training_runs_by_start")
            .table(RUNS)
            .col("specialist")
            .col("started_at")
            .to_owned();
        manager.create_index(newest).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [RUNS, ADAPTERS] {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}
