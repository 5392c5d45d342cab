//! Adds outcomes and feedback on decisions, and the caller's external key of a decision.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, double, json_binary, string_len, string_len_null, text_null,
    timestamp_with_time_zone,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const DECISIONS: &str = "nyx_synthetic_specialist_queries";
const VERDICTS: &str = "nyx_feedback";
/// Length of a UUID in text form.
const UUID: u32 = 36;
const KEY: u32 = 256;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let named = Table::alter()
            .table(DECISIONS)
            .add_column(string_len_null("external_key", KEY))
            .to_owned();
        manager.alter_table(named).await?;
        let index = |table: &'static str, name: &'static str, columns: &[&'static str]| {
            let mut index = Index::create();
            index.name(name).table(table);
            for column in columns {
                index.col(*column);
            }
            index
        };
        manager
            .create_index(index(DECISIONS, "nyx_queries_by_external_key", &["external_key", "id"]))
            .await?;

        let mut entries = Table::create();
        entries
            .table(VERDICTS)
            .col(string_len("id", UUID).primary_key())
            .col(string_len("decision", UUID))
            .col(string_len("kind", 16))
            .col(string_len_null("key", KEY))
            .col(double("value"))
            .col(json_binary("input"))
            .col(double("reward"))
            .col(text_null("comment"))
            .col(text_null("correction"))
            .col(big_integer("revision"))
            .col(timestamp_with_time_zone("at"))
            .foreign_key(
                ForeignKey::create()
                    .name("nyx_feedback_decision")
                    .from(VERDICTS, "decision")
                    .to(DECISIONS, "id"),
            );
        manager.create_table(entries).await?;
        // two writers cannot both amend the same entry
        let once = index(VERDICTS, "nyx_feedback_by_decision", &["decision", "kind", "revision"])
            .unique()
            .to_owned();
        manager.create_index(once).await?;
        // a key is recorded once per decision; rows without a key do not conflict
        manager
            .create_index(
                index(VERDICTS, "nyx_feedback_by_key", &["kind", "key", "decision"])
                    .unique()
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(VERDICTS).to_owned()).await?;
        manager
            .drop_index(
                Index::drop().name("nyx_queries_by_external_key").table(DECISIONS).to_owned(),
            )
            .await?;
        manager
            .alter_table(Table::alter().table(DECISIONS).drop_column("external_key").to_owned())
            .await
    }
}
