//! The memory tables and their search index.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nyx_domain::{Memory, MemorySelector};
use nyx_specialists::tokens::tokens;
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, IntoActiveModel, Value};
use uuid::Uuid;

use super::ranking::Size;
use super::sql::{ROWS_A_STATEMENT, execute, id_of, listed, number_of, query, selected, total};
use super::{outbox, postgres, sqlite};
use crate::NyxError;
use crate::phoebe::entities::memory;
use crate::phoebe::store::PhoebeStore;
use crate::phoebe::transaction::WriteTransaction;

/// The embedding model of the vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderId {
    /// SHA-256 of the model's weights.
    pub sha256: String,
    /// Dimension of the vectors.
    pub dimension: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sqlite,
    Pgvector,
    /// PostgreSQL without pgvector.
    Plain,
}

/// The memory tables and their search index. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryIndex {
    pub(super) store: PhoebeStore,
    embedder: EmbedderId,
    pub(super) kind: Kind,
    /// SQLite's write-ahead log may still contain deleted data.
    log_waits: Arc<AtomicBool>,
    /// Cached sizes of tenants with many memories, with the time of the count.
    pub(super) sizes: Arc<Mutex<HashMap<String, (Instant, Size)>>>,
    /// Whether changes are written to the outbox for a Qdrant server.
    outbox: bool,
}

/// The state of the vector tables in the database.
struct State {
    embedder: Option<String>,
    pgvector: bool,
}

impl MemoryIndex {
    /// Opens the search tables of `store`, and creates them for `embedder` if there are none yet.
    ///
    /// # Errors
    /// The vectors were computed with another embedder, or memories have no vectors; both need
    /// `nyx memories reindex`.
    pub async fn open(
        store: PhoebeStore,
        embedder: &EmbedderId,
        outbox: bool,
    ) -> Result<Self, NyxError> {
        let state = state(&store.writer).await?;
        let count = total(&store.reader).await?;
        match state.embedder {
            Some(known) if known == embedder.sha256 => {}
            Some(known) if count > 0 => {
                return Err(NyxError::VectorStore {
                    doing: "opening",
                    reason: format!(
                        "the vectors of {count} memories were computed with embedder {}, the current one is {}: run `nyx memories reindex`",
                        short(&known),
                        short(&embedder.sha256)
                    ),
                });
            }
            None if count > 0 => {
                let reason =
                    format!("{count} memories have no vectors yet: run `nyx memories reindex`");
                return Err(NyxError::VectorStore { doing: "opening", reason });
            }
            _ => return Self::make(store, embedder, outbox, false).await,
        }
        let kind = match store.writer.get_database_backend() {
            DbBackend::Postgres if state.pgvector => Kind::Pgvector,
            DbBackend::Postgres => Kind::Plain,
            _ => Kind::Sqlite,
        };
        Ok(Self {
            store,
            embedder: embedder.clone(),
            kind,
            log_waits: Arc::default(),
            sizes: Arc::default(),
            outbox,
        })
    }

    /// Opens the index with empty search tables, dropping existing ones. [`index`](Self::index)
    /// adds the memories again, and [`complete`](Self::complete) marks the index as complete.
    ///
    /// # Errors
    /// The database returns an error.
    pub async fn anew(
        store: PhoebeStore,
        embedder: &EmbedderId,
        outbox: bool,
    ) -> Result<Self, NyxError> {
        Self::make(store, embedder, outbox, true).await
    }

    /// Unless `again`, keeps tables that another process created meanwhile.
    async fn make(
        store: PhoebeStore,
        embedder: &EmbedderId,
        outbox: bool,
        again: bool,
    ) -> Result<Self, NyxError> {
        let postgres = store.writer.get_database_backend() == DbBackend::Postgres;
        let kind = match postgres {
            false => Kind::Sqlite,
            true if postgres::has_extension(&store.writer).await? => Kind::Pgvector,
            true => Kind::Plain,
        };
        let transaction = store.begin().await?;
        if postgres {
            // two processes may start on a new database concurrently
            transaction.execute_unprepared("LOCK TABLE nyx_memory_index").await?;
        }
        let made = state(&transaction).await?;
        if !again && made.embedder.as_ref() == Some(&embedder.sha256) {
            transaction.rollback().await;
            return Ok(Self {
                store,
                embedder: embedder.clone(),
                kind,
                log_waits: Arc::default(),
                sizes: Arc::default(),
                outbox,
            });
        }
        let schema = if postgres {
            postgres::schema(embedder.dimension, kind == Kind::Pgvector)
        } else {
            sqlite::schema(embedder.dimension)
        };
        for statement in schema {
            transaction.execute_unprepared(&statement).await?;
        }
        // the embedder is recorded only when all memories are indexed: until then, other processes
        // fail to start with a hint to reindex
        let known: Option<String> = (!again).then(|| embedder.sha256.clone());
        let known: Vec<Value> =
            vec![known.into(), (embedder.dimension as i64).into(), (kind == Kind::Pgvector).into()];
        execute(
            &transaction,
            "UPDATE nyx_memory_index SET embedder = $1, dimension = $2, pgvector = $3",
            known,
        )
        .await?;
        transaction.commit().await?;
        Ok(Self {
            store,
            embedder: embedder.clone(),
            kind,
            log_waits: Arc::default(),
            sizes: Arc::default(),
            outbox,
        })
    }

    /// The vector search backend: `sqlite-vec`, `pgvector` or `exact scan`.
    pub fn backend(&self) -> &'static str {
        match self.kind {
            Kind::Sqlite => "sqlite-vec",
            Kind::Pgvector => "pgvector",
            Kind::Plain => "exact scan",
        }
    }

    pub fn dimension(&self) -> usize {
        self.embedder.dimension
    }

    pub fn phoebe(&self) -> &PhoebeStore {
        &self.store
    }

    /// Writes memories with their vectors (of length 1) in one transaction.
    ///
    /// # Errors
    /// A vector has the wrong dimension, or the database write fails.
    pub async fn insert(
        &self,
        tenant: &str,
        memories: Vec<(Memory, Vec<f32>)>,
    ) -> Result<(), NyxError> {
        let transaction = self.store.begin().await?;
        let mut rows = memories
            .iter()
            .map(|(memory, _)| memory::Model::of(tenant, memory).into_active_model())
            .peekable();
        while rows.peek().is_some() {
            let some: Vec<_> = rows.by_ref().take(ROWS_A_STATEMENT).collect();
            memory::Entity::insert_many(some).exec_without_returning(&transaction).await?;
        }
        self.index_in(&transaction, tenant, &memories).await?;
        if self.outbox {
            let ids: Vec<Uuid> = memories.iter().map(|(memory, _)| memory.id).collect();
            outbox::write(&transaction, tenant, &ids, false).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Indexes memories that are already stored, replacing their entries in the search tables.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub async fn index(
        &self,
        tenant: &str,
        memories: Vec<(Memory, Vec<f32>)>,
    ) -> Result<(), NyxError> {
        let transaction = self.store.begin().await?;
        let ids: Vec<Uuid> = memories.iter().map(|(memory, _)| memory.id).collect();
        let found = self.numbers(&transaction, tenant, &ids).await?;
        // a memory stored during the reindex is already in the search tables
        self.remove_in(&transaction, &found.values().copied().collect::<Vec<_>>()).await?;
        self.index_in(&transaction, tenant, &memories).await?;
        if self.outbox {
            outbox::write(&transaction, tenant, &found.into_keys().collect::<Vec<_>>(), false)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Marks the index as complete: from now on [`open`](Self::open) succeeds.
    ///
    /// # Errors
    /// The database write fails.
    pub async fn complete(&self) -> Result<(), NyxError> {
        let transaction = self.store.begin().await?;
        execute(
            &transaction,
            "UPDATE nyx_memory_index SET embedder = $1",
            vec![self.embedder.sha256.clone().into()],
        )
        .await?;
        Ok(transaction.commit().await?)
    }

    async fn remove_in(
        &self,
        transaction: &WriteTransaction,
        numbers: &[i64],
    ) -> Result<(), NyxError> {
        if numbers.is_empty() {
            return Ok(());
        }
        match self.kind {
            Kind::Sqlite => sqlite::delete(transaction, numbers).await,
            kind => postgres::delete(transaction, numbers, kind == Kind::Pgvector).await,
        }
    }

    async fn index_in(
        &self,
        transaction: &WriteTransaction,
        tenant: &str,
        memories: &[(Memory, Vec<f32>)],
    ) -> Result<(), NyxError> {
        let ids: Vec<Uuid> = memories.iter().map(|(memory, _)| memory.id).collect();
        let numbers = self.numbers(transaction, tenant, &ids).await?;
        for (memory, vector) in memories {
            self.check(vector)?;
            // another process deleted the memory meanwhile
            let Some(&number) = numbers.get(&memory.id) else { continue };
            let words = tokens(&memory.passage());
            match self.kind {
                Kind::Sqlite => sqlite::insert(transaction, tenant, number, &words, vector).await?,
                kind => {
                    postgres::insert(
                        transaction,
                        tenant,
                        number,
                        &words,
                        vector,
                        kind == Kind::Pgvector,
                    )
                    .await?
                }
            }
        }
        Ok(())
    }

    /// Deletes memories and their search entries, one page per transaction so that other writers
    /// can proceed; returns the number of deleted memories.
    ///
    /// # Errors
    /// [`NyxError::NotFound`] if a memory selected by id does not exist. If the database write
    /// fails, pages deleted before it stay deleted.
    pub async fn delete(&self, tenant: &str, selector: &MemorySelector) -> Result<u64, NyxError> {
        let (condition, values) = selected(tenant, selector);
        let sql = format!(
            "SELECT number, id FROM nyx_subjective_memory WHERE {condition} ORDER BY number LIMIT {ROWS_A_STATEMENT}"
        );
        let mut deleted = 0;
        loop {
            let transaction = self.store.begin().await?;
            let rows = query(&transaction, &sql, values.clone()).await?;
            if rows.is_empty() {
                transaction.rollback().await;
                break;
            }
            let numbers = rows.iter().map(number_of).collect::<Result<Vec<i64>, _>>()?;
            let ids = rows.iter().map(id_of).collect::<Result<Vec<Uuid>, _>>()?;
            self.remove_in(&transaction, &numbers).await?;
            let sql =
                format!("DELETE FROM nyx_subjective_memory WHERE number IN ({})", listed(&numbers));
            execute(&transaction, &sql, vec![]).await?;
            if self.outbox {
                outbox::write(&transaction, tenant, &ids, true).await?;
            }
            transaction.commit().await?;
            deleted += rows.len() as u64;
        }
        if let (MemorySelector::Id(id), 0) = (selector, deleted) {
            return Err(NyxError::NotFound { what: "memory", id: id.to_string() });
        }
        if deleted > 0 && self.kind == Kind::Sqlite {
            self.log_waits.store(true, Ordering::SeqCst);
            self.truncate_log().await;
        }
        Ok(deleted)
    }

    /// After a deletion, checkpoints and truncates SQLite's write-ahead log, so that the deleted
    /// data remains in no file. An active reader can prevent this; the next call tries again.
    pub async fn truncate_log(&self) {
        if self.log_waits.load(Ordering::SeqCst) && sqlite::truncate_log(&self.store.writer).await {
            self.log_waits.store(false, Ordering::SeqCst);
        }
    }

    pub(super) async fn numbers(
        &self,
        on: &impl ConnectionTrait,
        tenant: &str,
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, i64>, NyxError> {
        let mut numbers = HashMap::with_capacity(ids.len());
        for some in ids.chunks(ROWS_A_STATEMENT) {
            let places: Vec<String> =
                (2..2 + some.len()).map(|place| format!("${place}")).collect();
            let sql = format!(
                "SELECT number, id FROM nyx_subjective_memory WHERE tenant = $1 AND id IN ({})",
                places.join(", ")
            );
            let values = std::iter::once(tenant.into())
                .chain(some.iter().map(|id| id.to_string().into()))
                .collect();
            for row in query(on, &sql, values).await? {
                numbers.insert(id_of(&row)?, number_of(&row)?);
            }
        }
        Ok(numbers)
    }

    pub(super) fn check(&self, vector: &[f32]) -> Result<(), NyxError> {
        if vector.len() == self.embedder.dimension {
            return Ok(());
        }
        let reason = format!(
            "a vector has {} dimensions, expected {}",
            vector.len(),
            self.embedder.dimension
        );
        Err(NyxError::VectorStore { doing: "checking a vector", reason })
    }
}

async fn state(on: &impl ConnectionTrait) -> Result<State, NyxError> {
    let rows = query(on, "SELECT embedder, pgvector FROM nyx_memory_index", vec![]).await?;
    let Some(row) = rows.first() else { return Ok(State { embedder: None, pgvector: false }) };
    Ok(State { embedder: row.try_get("", "embedder")?, pgvector: row.try_get("", "pgvector")? })
}

fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}
