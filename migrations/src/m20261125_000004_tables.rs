//! The catalogue of imported tables. Their rows are stored in separate tables, created on import.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, json_binary, string_len, text, timestamp_with_time_zone,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const SOURCES: &str = "nyx_tables";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut sources = Table::create();
        sources
            .table(SOURCES)
            .col(string_len("name", 128).primary_key())
            .col(string_len("relation", 64))
            .col(json_binary("columns"))
            .col(text("caption"))
            .col(big_integer("rows"))
            .col(timestamp_with_time_zone("created_at"));
        manager.create_table(sources).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(SOURCES).to_owned()).await
    }
}
