//! The running means that are subtracted from rewards before they update trait weights.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{double, string_len};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const BASELINES: &str = "nyx_reward_baselines";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut baselines = Table::create();
        baselines
            .table(BASELINES)
            .col(string_len("source", 16))
            .col(string_len("kind", 64))
            .col(double("count"))
            .col(double("sum"))
            .primary_key(
                Index::create().name("nyx_reward_baselines_key").col("source").col("kind"),
            );
        manager.create_table(baselines).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(BASELINES).to_owned()).await
    }
}
