//! Adds the routing head's logits, and the id of the head.

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
        // SQLite adds one column per statement
        for column in [json_binary_null("logits"), string_len_null("head", 64)] {
            manager
                .alter_table(Table::alter().table(DECISIONS).add_column(column).to_owned())
                .await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in ["logits", "head"] {
            manager
                .alter_table(Table::alter().table(DECISIONS).drop_column(column).to_owned())
                .await?;
        }
        Ok(())
    }
}
