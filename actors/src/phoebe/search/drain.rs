//! Applies the outbox to the Qdrant server.
//!
//! One process at a time, holding a lease in `nyx_memory_index`, applies changes in order. Applying
//! a change twice has no effect: if a process stops midway, another one continues from there.

use std::time::Duration;

use chrono::Utc;
use sea_orm::Value;
use uuid::Uuid;

use super::index::MemoryIndex;
use super::outbox::Change;
use super::sql::{counted, execute, listed, number_of, query, total};
use crate::NyxError;
use crate::phoebe::entities::decision::uuid_of;

/// How long a process holds the lease before another process may take over.
pub const LEASE: Duration = Duration::from_secs(120);
/// Maximum number of changes read at once.
const PAGE: usize = 256;

/// Changes read from the outbox, to be confirmed once the server has applied them.
#[derive(Debug)]
pub struct Drained {
    numbers: Vec<i64>,
    pub changes: Vec<Change>,
}

impl Drained {
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

impl MemoryIndex {
    /// Acquires or renews the lease for this process; false while another process holds it.
    ///
    /// # Errors
    /// The database write fails.
    pub async fn lease_outbox(&self, instance: &str) -> Result<bool, NyxError> {
        let now = Utc::now().timestamp_millis();
        let until = now + i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
        let sql = "UPDATE nyx_memory_index SET drainer = $1, drained_until = $2 WHERE drainer IS NULL OR drainer = $1 OR drained_until < $3";
        Ok(self.write(sql, vec![instance.into(), until.into(), now.into()]).await? > 0)
    }

    /// Releases the lease.
    ///
    /// # Errors
    /// The database write fails.
    pub async fn release_outbox(&self, instance: &str) -> Result<(), NyxError> {
        self.write(
            "UPDATE nyx_memory_index SET drainer = NULL WHERE drainer = $1",
            vec![instance.into()],
        )
        .await
        .map(drop)
    }

    /// The number of changes that the server has not applied yet.
    ///
    /// # Errors
    /// The database query fails.
    pub async fn outbox_len(&self) -> Result<u64, NyxError> {
        counted(
            &query(&self.store.writer, "SELECT count(*) AS rows FROM nyx_memory_outbox", vec![])
                .await?,
        )
    }

    /// The oldest changes, at most one per memory.
    ///
    /// # Errors
    /// The database query fails.
    pub async fn read_outbox(&self) -> Result<Drained, NyxError> {
        let sql = format!(
            "SELECT number, tenant, memory, deleted FROM nyx_memory_outbox ORDER BY number LIMIT {PAGE}"
        );
        let mut numbers = Vec::new();
        let mut last: Vec<(Uuid, String, bool)> = Vec::new();
        for row in query(&self.store.writer, &sql, vec![]).await? {
            numbers.push(number_of(&row)?);
            let id = uuid_of(&row.try_get::<String>("", "memory")?)?;
            last.retain(|(known, ..)| *known != id);
            last.push((id, row.try_get("", "tenant")?, row.try_get("", "deleted")?));
        }
        let mut changes = Vec::with_capacity(last.len());
        for (id, tenant, deleted) in last {
            let number = if deleted {
                None
            } else {
                self.numbers(&self.store.writer, &tenant, &[id]).await?.remove(&id)
            };
            let stored = match number {
                Some(number) => self.load(&[number]).await?.pop(),
                None => None,
            };
            // the memory is being reindexed: a later outbox row covers it
            if stored.as_ref().is_some_and(|stored| stored.vector.is_empty()) {
                continue;
            }
            // a memory that no longer exists is deleted by a later row; until then it must not be
            // restored
            changes.push(stored.map_or(Change::Delete(id), |memory| Change::Upsert {
                tenant,
                memory: Box::new(memory),
            }));
        }
        Ok(Drained { numbers, changes })
    }

    /// Deletes outbox rows that the server has applied.
    ///
    /// # Errors
    /// The database write fails.
    pub async fn confirm_outbox(&self, drained: Drained) -> Result<(), NyxError> {
        let sql =
            format!("DELETE FROM nyx_memory_outbox WHERE number IN ({})", listed(&drained.numbers));
        self.write(&sql, vec![]).await.map(drop)
    }

    /// Queues all memories again, for a server that lacks some of them.
    ///
    /// # Errors
    /// The database write fails.
    pub async fn refill_outbox(&self) -> Result<u64, NyxError> {
        self.write("INSERT INTO nyx_memory_outbox (tenant, memory, deleted) SELECT tenant, id, FALSE FROM nyx_subjective_memory", vec![])
            .await
    }

    /// The number of memories of all tenants.
    ///
    /// # Errors
    /// The database query fails.
    pub async fn total(&self) -> Result<u64, NyxError> {
        total(&self.store.reader).await
    }

    /// Executes and commits one statement; returns the number of changed rows.
    async fn write(&self, sql: &str, values: Vec<Value>) -> Result<u64, NyxError> {
        let transaction = self.store.begin().await?;
        let rows = execute(&transaction, sql, values).await?;
        transaction.commit().await?;
        Ok(rows)
    }
}
