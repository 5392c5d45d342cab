//! Adds picture captions, and a flag for memories that are being deleted.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{boolean, text_null};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const MEMORIES: &str = "nyx_subjective_memory";
const FORGOTTEN: &str = "nyx_memories_by_forgotten";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // one statement each: SQLite adds one column per statement
        for column in [text_null("caption"), boolean("forgotten").default(false).to_owned()] {
            manager
                .alter_table(Table::alter().table(MEMORIES).add_column(column).to_owned())
                .await?;
        }
        let index =
            Index::create().name(FORGOTTEN).table(MEMORIES).col("forgotten").col("id").to_owned();
        manager.create_index(index).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_index(Index::drop().name(FORGOTTEN).table(MEMORIES).to_owned()).await?;
        for column in ["forgotten", "caption"] {
            manager
                .alter_table(Table::alter().table(MEMORIES).drop_column(column).to_owned())
                .await?;
        }
        Ok(())
    }
}
