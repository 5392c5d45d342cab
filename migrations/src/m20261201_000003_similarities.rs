//! Adds the similarity of a question to each candidate's examples; removes the id of the routing
//! head.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{json_binary_null, string_len_null};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const DECISIONS: &str = "nyx_synthetic_specialist_queries";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .alter_table(
                Table::alter()
                    .table(DECISIONS)
                    .add_column(json_binary_null("similarities"))
                    .to_owned(),
            )
            .await?;
        manager.alter_table(Table::alter().table(DECISIONS).drop_column("head").to_owned()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .alter_table(
                Table::alter().table(DECISIONS).add_column(string_len_null("head", 64)).to_owned(),
            )
            .await?;
        manager
            .alter_table(Table::alter().table(DECISIONS).drop_column("similarities").to_owned())
            .await
    }
}
