//! Statements that the databases have in common, and their parts.

use nyx_domain::{MemoryFilter, MemorySelector};
use sea_orm::{ConnectionTrait, DatabaseConnection, QueryResult, Statement, Value};
use uuid::Uuid;

use crate::NyxError;
use crate::phoebe::entities::decision::uuid_of;

/// Rows per statement: the number of bound values is limited.
pub(super) const ROWS_A_STATEMENT: usize = 500;

pub(super) async fn total(on: &DatabaseConnection) -> Result<u64, NyxError> {
    counted(&query(on, "SELECT count(*) AS rows FROM nyx_subjective_memory", vec![]).await?)
}

pub(super) fn counted(rows: &[QueryResult]) -> Result<u64, NyxError> {
    Ok(rows
        .first()
        .map(|row| row.try_get::<i64>("", "rows"))
        .transpose()?
        .unwrap_or(0)
        .cast_unsigned())
}

pub(super) async fn query(
    on: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<QueryResult>, NyxError> {
    Ok(on
        .query_all_raw(Statement::from_sql_and_values(on.get_database_backend(), sql, values))
        .await?)
}

pub(super) async fn execute(
    on: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<u64, NyxError> {
    Ok(on
        .execute_raw(Statement::from_sql_and_values(on.get_database_backend(), sql, values))
        .await?
        .rows_affected())
}

pub(super) fn number_of(row: &QueryResult) -> Result<i64, NyxError> {
    Ok(row.try_get("", "number")?)
}

pub(super) fn id_of(row: &QueryResult) -> Result<Uuid, NyxError> {
    Ok(uuid_of(&row.try_get::<String>("", "id")?)?)
}

/// Row numbers as an SQL list; safe to inline, since they are integers.
pub(super) fn listed(numbers: &[i64]) -> String {
    numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}

/// The SQL condition ` AND column IN (...)` of a filter, or an empty string for an open filter;
/// appends its parameters to `values`.
pub(super) fn narrowed(
    column: &str,
    tenant: &str,
    filter: &MemoryFilter,
    values: &mut Vec<Value>,
) -> String {
    if filter.is_open() {
        return String::new();
    }
    let mut conditions = Vec::new();
    let mut add = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            values.push(value);
            conditions.push(format!("{condition} ${}", values.len()));
        }
    };
    add("tenant =", Some(tenant.into()));
    add("conversation =", filter.conversation.clone().map(Value::from));
    add("speaker =", filter.speaker.clone().map(Value::from));
    add("COALESCE(happened_at, stored_at) >=", filter.after.map(Value::from));
    add("COALESCE(happened_at, stored_at) <", filter.before.map(Value::from));
    format!(
        " AND {column} IN (SELECT number FROM nyx_subjective_memory WHERE {})",
        conditions.join(" AND ")
    )
}

/// As [`narrowed`], for the sign-bit table, which has its own time column: a time range may match
/// most memories, and needs no join.
pub(super) fn narrowed_codes(
    tenant: &str,
    filter: &MemoryFilter,
    values: &mut Vec<Value>,
) -> String {
    if filter.conversation.is_some() || filter.speaker.is_some() {
        return narrowed("number", tenant, filter, values);
    }
    let mut narrow = String::new();
    for (condition, moment) in [(">=", filter.after), ("<", filter.before)] {
        if let Some(moment) = moment {
            values.push(moment.into());
            narrow += &format!(" AND moment {condition} ${}", values.len());
        }
    }
    narrow
}

/// The SQL condition of a selector for deletion, with its parameters.
pub(super) fn selected(tenant: &str, selector: &MemorySelector) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = vec![tenant.into()];
    let mut conditions = vec!["tenant = $1".to_owned()];
    let mut add = |condition: &str, value: Value| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("${}", values.len())));
    };
    match selector {
        MemorySelector::Id(id) => add("id = ?", id.to_string().into()),
        MemorySelector::Ids(ids) => {
            // UUIDs contain only hexadecimal digits and dashes
            let list: Vec<String> = ids.iter().map(|id| format!("'{id}'")).collect();
            conditions.push(if list.is_empty() {
                "FALSE".to_owned()
            } else {
                format!("id IN ({})", list.join(", "))
            });
        }
        MemorySelector::Matching { conversation, before } => {
            if let Some(conversation) = conversation {
                add("conversation = ?", conversation.clone().into());
            }
            if let Some(before) = before {
                add("COALESCE(happened_at, stored_at) < ?", (*before).into());
            }
        }
        MemorySelector::StoredBefore(moment) => add("stored_at < ?", (*moment).into()),
        MemorySelector::All => {}
    }
    (conditions.join(" AND "), values)
}

/// A vector in sqlite-vec's binary format.
pub(super) fn bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number)).collect()
}
