//! The decision log, rewards, memories and trait weights.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, boolean, double, double_null, json_binary, json_binary_null,
    string_len, string_len_null, text, text_null, timestamp_with_time_zone,
    timestamp_with_time_zone_null,
};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const DECISIONS: &str = "nyx_synthetic_specialist_queries";
const MEMORIES: &str = "nyx_subjective_memory";
const WEIGHTS: &str = "nyx_trait_weights";
const REWARDS: &str = "nyx_rewards";
/// Length of a UUID in text form.
const UUID: u32 = 36;
const NAME: u32 = 64;

fn index(
    table: &'static str,
    name: &'static str,
    columns: &[&'static str],
) -> IndexCreateStatement {
    let mut index = Index::create();
    index.name(name).table(table);
    for column in columns {
        index.col(*column);
    }
    index
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        decisions(manager).await?;
        rewards(manager).await?;
        memories(manager).await?;
        trait_weights(manager).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [WEIGHTS, MEMORIES, REWARDS, DECISIONS] {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}

async fn decisions(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let mut decisions = Table::create();
    decisions
        .table(DECISIONS)
        .col(string_len("id", UUID).primary_key())
        .col(timestamp_with_time_zone("asked_at"))
        .col(string_len("instance", UUID))
        .col(text_null("conversation"))
        .col(string_len("endpoint", NAME))
        .col(string_len("requested", NAME))
        .col(string_len("specialist", NAME))
        .col(text("question"))
        .col(json_binary("messages"))
        .col(json_binary("scores"))
        .col(json_binary("propensities"))
        .col(json_binary("trait_weights"))
        .col(double("propensity"))
        .col(json_binary("evidence"))
        .col(text("answer"))
        .col(json_binary("answers"))
        .col(json_binary_null("choices"))
        .col(json_binary_null("choice_probabilities"))
        .col(double_null("probability"))
        .col(double_null("confidence"))
        .col(double_null("activation"))
        .col(double("reward"))
        .col(string_len_null("adapter", NAME))
        .col(string_len_null("adapter_id", NAME))
        .col(big_integer_null("adapter_generation"))
        .col(string_len("base_sha256", NAME))
        .col(json_binary("sampling"))
        .col(big_integer("prompt_tokens"))
        .col(big_integer("cached_tokens"))
        .col(big_integer("completion_tokens"))
        .col(json_binary("timings"))
        .col(double("total_ms"))
        .col(string_len("status", 16))
        .col(text_null("error"));
    manager.create_table(decisions).await?;
    manager
        .create_index(index(DECISIONS, "nyx_queries_by_specialist", &["specialist", "id"]))
        .await?;
    manager
        .create_index(index(DECISIONS, "nyx_queries_by_conversation", &["conversation", "id"]))
        .await
}

async fn rewards(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let mut rewards = Table::create();
    rewards
        .table(REWARDS)
        .col(string_len("id", UUID).primary_key())
        .col(string_len("decision", UUID))
        .col(double("value"))
        .col(string_len("source", 16))
        .col(string_len("rule", NAME))
        .col(text_null("comment"))
        .col(timestamp_with_time_zone("at"))
        .foreign_key(
            ForeignKey::create()
                .name("nyx_rewards_decision")
                .from(REWARDS, "decision")
                .to(DECISIONS, "id"),
        );
    manager.create_table(rewards).await?;
    manager.create_index(index(REWARDS, "nyx_rewards_by_decision", &["decision"])).await
}

async fn memories(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let mut memories = Table::create();
    memories
        .table(MEMORIES)
        .col(string_len("id", UUID).primary_key())
        .col(text("text"))
        .col(text_null("speaker"))
        .col(timestamp_with_time_zone_null("happened_at"))
        .col(text_null("conversation"))
        .col(timestamp_with_time_zone("stored_at"))
        .col(boolean("indexed"));
    manager.create_table(memories).await?;
    manager.create_index(index(MEMORIES, "nyx_memories_by_indexed", &["indexed", "id"])).await?;
    manager
        .create_index(index(MEMORIES, "nyx_memories_by_conversation", &["conversation", "id"]))
        .await
}

async fn trait_weights(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let mut weights = Table::create();
    weights
        .table(WEIGHTS)
        .col(string_len("id", UUID).primary_key())
        .col(string_len("name", NAME))
        .col(double("from_weight"))
        .col(double("to_weight"))
        .col(text("reason"))
        .col(double_null("reward"))
        .col(string_len_null("decision", UUID))
        .col(big_integer("revision"))
        .col(timestamp_with_time_zone("at"));
    manager.create_table(weights).await?;
    // two writers cannot both add the same revision
    manager
        .create_index(
            index(WEIGHTS, "nyx_trait_weights_by_revision", &["name", "revision"])
                .unique()
                .to_owned(),
        )
        .await
}
