//! Outbox for the Qdrant server: rows are written in the transaction that changes the memories, and
//! deleted once the server has applied the change.

use sea_orm::{ConnectionTrait, Value};
use uuid::Uuid;

use super::ranking::StoredMemory;
use super::sql::{ROWS_A_STATEMENT, execute};
use crate::NyxError;

/// The operation to apply on the server. Only the last change of a memory is applied.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Upsert { tenant: String, memory: Box<StoredMemory> },
    Delete(Uuid),
}

pub(super) async fn write(
    on: &impl ConnectionTrait,
    tenant: &str,
    ids: &[Uuid],
    deleted: bool,
) -> Result<(), NyxError> {
    for some in ids.chunks(ROWS_A_STATEMENT) {
        let rows: Vec<String> =
            (3..3 + some.len()).map(|place| format!("($1, ${place}, $2)")).collect();
        let sql = format!(
            "INSERT INTO nyx_memory_outbox (tenant, memory, deleted) VALUES {}",
            rows.join(", ")
        );
        let values = [Value::from(tenant), Value::from(deleted)]
            .into_iter()
            .chain(some.iter().map(|id| id.to_string().into()));
        execute(on, &sql, values.collect()).await?;
    }
    Ok(())
}
