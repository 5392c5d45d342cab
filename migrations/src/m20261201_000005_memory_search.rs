//! Adds a tenant to every row, and the full-text tables for searching memories in the database.
//!
//! The vector tables depend on the embedder: `nyx-actors` creates them when an embedder is first
//! used.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const MEMORIES: &str = "nyx_subjective_memory";
/// All tables other than the memories.
const TABLES: [&str; 11] = [
    "nyx_synthetic_specialist_queries",
    "nyx_rewards",
    "nyx_trait_weights",
    "nyx_feedback",
    "nyx_feedback_keys",
    "nyx_reward_baselines",
    "nyx_tables",
    "nyx_adapters",
    "nyx_training_runs",
    "nyx_generations",
    "nyx_canaries",
];

/// SQLite cannot add a primary key to a table: the memories are copied to a new one, whose `number`
/// is the row id in the search tables.
const SQLITE: [&str; 12] = [
    "CREATE TABLE nyx_memories_moved (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id VARCHAR(36) NOT NULL UNIQUE,
        tenant TEXT NOT NULL DEFAULT 'local',
        text TEXT NOT NULL,
        speaker TEXT,
        happened_at TIMESTAMP_WITH_TIMEZONE_TEXT,
        conversation TEXT,
        stored_at TIMESTAMP_WITH_TIMEZONE_TEXT NOT NULL,
        caption TEXT,
        length INTEGER NOT NULL DEFAULT 0)",
    "INSERT INTO nyx_memories_moved (id, text, speaker, happened_at, conversation, stored_at, caption)
        SELECT id, text, speaker, happened_at, conversation, stored_at, caption FROM nyx_subjective_memory WHERE NOT forgotten ORDER BY id",
    "DROP TABLE nyx_subjective_memory",
    "ALTER TABLE nyx_memories_moved RENAME TO nyx_subjective_memory",
    "CREATE INDEX nyx_memories_by_tenant ON nyx_subjective_memory (tenant, id)",
    "CREATE INDEX nyx_memories_by_conversation ON nyx_subjective_memory (tenant, conversation, (COALESCE(happened_at, stored_at)), id)",
    "CREATE INDEX nyx_memories_by_moment ON nyx_subjective_memory (tenant, (COALESCE(happened_at, stored_at)), number)",
    // the length of a memory in tokens: BM25 needs the mean
    "CREATE INDEX nyx_memories_by_length ON nyx_subjective_memory (tenant, length)",
    // `ascii` treats every non-ASCII character as part of a token, so the tokens are exactly those
    // written, separated by spaces
    "CREATE VIRTUAL TABLE nyx_memory_words USING fts5(tenant, tokens, tokenize = 'ascii')",
    "INSERT INTO nyx_memory_words (nyx_memory_words, rank) VALUES ('secure-delete', 1)",
    "CREATE VIRTUAL TABLE nyx_memory_terms USING fts5vocab(nyx_memory_words, 'col')",
    "CREATE TABLE nyx_memory_outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL DEFAULT 'local', memory VARCHAR(36) NOT NULL, deleted BOOLEAN NOT NULL)",
];

const POSTGRES: [&str; 12] = [
    "DELETE FROM nyx_subjective_memory WHERE forgotten",
    "DROP INDEX nyx_memories_by_indexed",
    "DROP INDEX nyx_memories_by_forgotten",
    "DROP INDEX nyx_memories_by_conversation",
    "ALTER TABLE nyx_subjective_memory DROP COLUMN indexed, DROP COLUMN forgotten,
        ADD COLUMN number BIGSERIAL NOT NULL UNIQUE, ADD COLUMN tenant TEXT NOT NULL DEFAULT 'local'",
    "CREATE INDEX nyx_memories_by_tenant ON nyx_subjective_memory (tenant, id)",
    "CREATE INDEX nyx_memories_by_conversation ON nyx_subjective_memory (tenant, conversation, (COALESCE(happened_at, stored_at)), id)",
    "CREATE INDEX nyx_memories_by_moment ON nyx_subjective_memory (tenant, (COALESCE(happened_at, stored_at)), number)",
    // `length` is the number of tokens, which BM25 needs
    "CREATE TABLE nyx_memory_words (
        number BIGINT PRIMARY KEY REFERENCES nyx_subjective_memory (number) ON DELETE CASCADE,
        tenant TEXT NOT NULL, length INTEGER NOT NULL, tokens TSVECTOR NOT NULL)",
    "CREATE INDEX nyx_memory_words_by_tokens ON nyx_memory_words USING gin (tokens)",
    "CREATE INDEX nyx_memory_words_by_tenant ON nyx_memory_words (tenant, length)",
    "CREATE TABLE nyx_memory_outbox (
        number BIGSERIAL PRIMARY KEY, tenant TEXT NOT NULL DEFAULT 'local', memory VARCHAR(36) NOT NULL, deleted BOOLEAN NOT NULL)",
];

/// One row: the embedder of the vectors, and the process that holds the Qdrant outbox lease.
const STATE: [&str; 2] = [
    "CREATE TABLE nyx_memory_index (
        id INTEGER PRIMARY KEY CHECK (id = 1), embedder TEXT, dimension BIGINT, pgvector BOOLEAN NOT NULL DEFAULT FALSE,
        drainer TEXT, drained_until BIGINT NOT NULL DEFAULT 0)",
    "INSERT INTO nyx_memory_index (id) VALUES (1)",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// Runs in one transaction, on SQLite too.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in TABLES {
            let tenant = ColumnDef::new("tenant").text().not_null().default("local").to_owned();
            manager.alter_table(Table::alter().table(table).add_column(tenant).to_owned()).await?;
        }
        let postgres = manager.get_database_backend() == DbBackend::Postgres;
        let statements: &[&str] = if postgres { &POSTGRES } else { &SQLITE };
        for statement in statements.iter().chain(&STATE) {
            manager.get_connection().execute_unprepared(statement).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        for table in [
            "nyx_memory_vectors",
            "nyx_memory_codes",
            "nyx_memory_embeddings",
            "nyx_memory_terms",
            "nyx_memory_words",
            "nyx_memory_outbox",
            "nyx_memory_index",
        ] {
            connection.execute_unprepared(&format!("DROP TABLE IF EXISTS {table}")).await?;
        }
        for index in ["length", "moment"] {
            connection
                .execute_unprepared(&format!("DROP INDEX IF EXISTS nyx_memories_by_{index}"))
                .await?;
        }
        let added =
            if manager.get_database_backend() == DbBackend::Postgres { "number" } else { "length" };
        manager.alter_table(Table::alter().table(MEMORIES).drop_column(added).to_owned()).await?;
        for column in ["indexed", "forgotten"] {
            let column = ColumnDef::new(column).boolean().not_null().default(false).to_owned();
            manager
                .alter_table(Table::alter().table(MEMORIES).add_column(column).to_owned())
                .await?;
        }
        connection.execute_unprepared("DROP INDEX nyx_memories_by_tenant").await?;
        connection.execute_unprepared("DROP INDEX nyx_memories_by_conversation").await?;

        for (name, columns) in [
            ("nyx_memories_by_indexed", ["indexed", "id"]),
            ("nyx_memories_by_forgotten", ["forgotten", "id"]),
            ("nyx_memories_by_conversation", ["conversation", "id"]),
        ] {
            let [first, second] = columns;
            manager
                .create_index(
                    Index::create().name(name).table(MEMORIES).col(first).col(second).to_owned(),
                )
                .await?;
        }
        for table in TABLES.into_iter().chain([MEMORIES]) {
            manager
                .alter_table(Table::alter().table(table).drop_column("tenant").to_owned())
                .await?;
        }
        Ok(())
    }
}
