//! The active adapter of each specialist by generation, and the adapters in canary.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, double, string_len, string_len_null, text, timestamp_with_time_zone,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const GENERATIONS: &str = "nyx_generations";
const CANARIES: &str = "nyx_canaries";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut generations = Table::create();
        generations
            .table(GENERATIONS)
            .col(string_len("specialist", 64))
            .col(big_integer("generation"))
            // NULL: the base model
            .col(string_len_null("adapter_id", 64))
            .col(string_len("kind", 16))
            .col(text("reason"))
            .col(timestamp_with_time_zone("at"))
            // two processes cannot both create the same generation
            .primary_key(Index::create().col("specialist").col("generation"));
        manager.create_table(generations).await?;
        let mut canaries = Table::create();
        canaries
            .table(CANARIES)
            .col(string_len("specialist", 64).primary_key())
            .col(string_len("adapter_id", 64))
            .col(double("share"))
            .col(timestamp_with_time_zone("at"));
        manager.create_table(canaries).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [CANARIES, GENERATIONS] {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}
