//! Searches of the memory tables.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nyx_domain::{Memory, MemoryFilter};
use nyx_specialists::tokens::tokens;
use sea_orm::FromQueryResult;
use uuid::Uuid;

use super::index::{Kind, MemoryIndex};
use super::ranking::{Scored, Size, StoredMemory, WordMatches, best};
use super::sql::{counted, listed, number_of, query};
use super::{postgres, sqlite};
use crate::NyxError;
use crate::phoebe::entities::memory;

/// Number of memories of a tenant up to which every vector is compared.
pub(super) const EXACT: u64 = 10_000;
/// Maximum number of memories of a tenant for vector search on PostgreSQL without pgvector.
pub const MOST_WITHOUT_EXTENSION: u64 = 5_000;
/// Maximum number of query tokens looked up.
const MOST_TOKENS: usize = 64;
/// How long the size of a large collection is cached: counting takes milliseconds, and what depends
/// on the size (token frequencies, the search method for vectors) hardly changes.
const SIZE_AGE: Duration = Duration::from_secs(10);

impl MemoryIndex {
    /// The `k` memories nearest to a vector of length 1, by cosine similarity, best first.
    ///
    /// # Errors
    /// PostgreSQL without pgvector holds too many memories, or the database query fails.
    pub async fn dense(
        &self,
        tenant: &str,
        vector: &[f32],
        k: usize,
        filter: &MemoryFilter,
    ) -> Result<Vec<Scored>, NyxError> {
        self.check(vector)?;
        let Size { count, .. } = self.size(tenant).await?;
        let reader = &self.store.reader;
        let mut found = match self.kind {
            Kind::Sqlite => sqlite::dense(reader, tenant, vector, k, filter, count > EXACT).await?,
            Kind::Pgvector => {
                postgres::dense(reader, tenant, vector, k, filter, count > EXACT).await?
            }
            Kind::Plain if count > MOST_WITHOUT_EXTENSION => {
                let reason = format!(
                    "there are {count} memories, but without pgvector PostgreSQL supports at most {MOST_WITHOUT_EXTENSION}: \
                     install pgvector (CREATE EXTENSION vector) and run `nyx memories reindex`, or set memory.store to \"qdrant\""
                );
                return Err(NyxError::VectorStore { doing: "searching", reason });
            }
            Kind::Plain => postgres::scan(reader, tenant, vector, filter).await?,
        };
        best(&mut found, k);
        Ok(found)
    }

    /// The `k` best memories by BM25, best first; memories without any of the query's tokens are
    /// excluded.
    ///
    /// # Errors
    /// The database query fails.
    pub async fn lexical(
        &self,
        tenant: &str,
        text: &str,
        k: usize,
        filter: &MemoryFilter,
    ) -> Result<WordMatches, NyxError> {
        let mut words = tokens(text);
        words.sort_unstable();
        words.dedup();
        words.truncate(MOST_TOKENS);
        if words.is_empty() {
            return Ok(WordMatches::default());
        }
        match self.kind {
            Kind::Sqlite => {
                sqlite::lexical(
                    &self.store.reader,
                    tenant,
                    words,
                    k,
                    filter,
                    self.size(tenant).await?,
                )
                .await
            }
            _ => {
                postgres::lexical(
                    &self.store.reader,
                    tenant,
                    words,
                    k,
                    filter,
                    self.size(tenant).await?,
                )
                .await
            }
        }
    }

    async fn size(&self, tenant: &str) -> Result<Size, NyxError> {
        let sizes = || self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, size)) = sizes().get(tenant).filter(|(at, _)| at.elapsed() < SIZE_AGE) {
            return Ok(*size);
        }
        let table =
            if self.kind == Kind::Sqlite { "nyx_subjective_memory" } else { "nyx_memory_words" };
        // PostgreSQL returns the mean as NUMERIC
        let sql = format!(
            "SELECT count(*) AS rows, CAST(coalesce(avg(length), 1) AS DOUBLE PRECISION) AS length FROM {table} WHERE tenant = $1"
        );
        let rows = query(&self.store.reader, &sql, vec![tenant.into()]).await?;
        let length = rows.first().map(|row| row.try_get("", "length")).transpose()?.unwrap_or(1.0);
        let size = Size { count: counted(&rows)?, length };
        if size.count > EXACT {
            sizes().insert(tenant.to_owned(), (Instant::now(), size));
        }
        Ok(size)
    }

    /// Loads memories by row number; missing ones are omitted.
    ///
    /// # Errors
    /// The database query fails.
    pub async fn load(&self, numbers: &[i64]) -> Result<Vec<StoredMemory>, NyxError> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let list = listed(numbers);
        let sql = format!("SELECT * FROM nyx_subjective_memory WHERE number IN ({list})");
        let rows = query(&self.store.reader, &sql, vec![]).await?;
        let mut vectors = match self.kind {
            Kind::Sqlite => sqlite::vectors(&self.store.reader, &list).await?,
            kind => postgres::vectors(&self.store.reader, &list, kind == Kind::Pgvector).await?,
        };
        let stored = rows.iter().map(|row| {
            let number = number_of(row)?;
            let memory = Memory::try_from(memory::Model::from_query_result(row, "")?)?;
            Ok(StoredMemory { number, memory, vector: vectors.remove(&number).unwrap_or_default() })
        });
        stored.collect()
    }

    /// The row numbers of memories by id; missing ones are omitted.
    ///
    /// # Errors
    /// The database query fails.
    pub async fn numbers_of(
        &self,
        tenant: &str,
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, i64>, NyxError> {
        self.numbers(&self.store.reader, tenant, ids).await
    }
}
