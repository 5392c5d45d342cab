//! Import of tables: the rows are stored in a new table of phoebe's database with generated column
//! names, and the table is registered in the catalogue `nyx_tables`.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use nyx_specialists::facts::Column;
use sea_orm::sea_query::{Alias, ColumnDef, Expr, ExprTrait, Order, Query, SimpleExpr, Table};
use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Statement};
use uuid::Uuid;

use super::catalogue::kinds;
use super::file::FileTable;
use crate::NyxError;
use crate::phoebe::{PhoebeStore, WriteTransaction, now, storable};

const CATALOGUE: &str = "nyx_tables";
/// Name prefix of the tables that hold imported rows.
const PREFIX: &str = "nyx_table_";
const NAME_CHARS: usize = 128;
const CAPTION_CHARS: usize = 2_000;
/// A PostgreSQL row must fit an 8 KiB page, with up to 18 bytes per out-of-line text; SQLite allows
/// at most 2000 columns.
const COLUMNS: usize = 400;
const ROWS: usize = 1_000_000;
/// Bound values per INSERT; SQLite allows 32766.
const VALUES: usize = 30_000;

/// A table to import.
#[derive(Debug, Clone)]
pub struct Import {
    /// The name under which it is registered.
    pub name: String,
    /// Description of the table.
    pub caption: String,
    pub table: FileTable,
}

/// A row of the catalogue.
pub(super) struct Entry {
    pub name: String,
    pub relation: String,
    pub columns: Vec<Column>,
    pub caption: String,
    pub rows: u64,
    pub created_at: DateTime<Utc>,
}

/// A validated table.
struct Checked {
    name: String,
    caption: String,
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

fn check(import: Import) -> Result<Checked, NyxError> {
    let Import { name, caption, table: FileTable { mut columns, mut rows } } = import;
    let chars = name.chars().count();
    if !(1..=NAME_CHARS).contains(&chars)
        || name.trim() != name
        || name.chars().any(char::is_control)
    {
        return Err(NyxError::invalid(
            "name",
            format!("name is {name:?}, expected 1 to {NAME_CHARS} characters on one line"),
        ));
    }
    storable("description", &caption)?;
    if caption.chars().count() > CAPTION_CHARS {
        return Err(NyxError::invalid(
            "description",
            format!("the description of {name:?} is longer than {CAPTION_CHARS} characters"),
        ));
    }
    if !(1..=COLUMNS).contains(&columns.len()) {
        return Err(NyxError::invalid(
            "columns",
            format!("{name:?} has {} columns, expected 1 to {COLUMNS}", columns.len()),
        ));
    }
    if rows.len() > ROWS {
        return Err(NyxError::invalid(
            "rows",
            format!("{name:?} has {} rows, expected at most {ROWS}", rows.len()),
        ));
    }
    // unnamed and duplicate columns get unique names
    let mut seen = HashSet::new();
    for (at, column) in columns.iter_mut().enumerate() {
        storable("columns", column)?;
        if column.trim().is_empty() {
            *column = format!("column {}", at + 1);
        }
        let plain = column.clone();
        let mut again = 1;
        while !seen.insert(column.clone()) {
            again += 1;
            *column = format!("{plain} ({again})");
        }
    }
    for (row, number) in rows.iter_mut().zip(1..) {
        if row.len() > columns.len() {
            let message = format!(
                "row {number} of {name:?} has {} cells, expected at most {}",
                row.len(),
                columns.len()
            );
            return Err(NyxError::invalid("rows", message));
        }
        row.resize(columns.len(), String::new());
        row.iter().try_for_each(|cell| storable("rows", cell))?;
    }
    Ok(Checked { columns: kinds(&columns, &rows), name, caption, rows })
}

/// Imports tables, all or none.
pub(super) async fn import(
    phoebe: &PhoebeStore,
    imports: Vec<Import>,
    role: Option<&str>,
) -> Result<(), NyxError> {
    let checked = imports.into_iter().map(check).collect::<Result<Vec<_>, _>>()?;
    let transaction = phoebe.begin().await?;
    for table in &checked {
        if entries(&transaction, Some(&table.name)).await?.is_empty() {
            write(&transaction, table, role).await?;
        } else {
            transaction.rollback().await;
            let message = format!(
                "a table {:?} is registered already: use another name, or remove it first",
                table.name
            );
            return Err(NyxError::invalid("name", message));
        }
    }
    Ok(transaction.commit().await?)
}

async fn write(
    transaction: &WriteTransaction,
    table: &Checked,
    role: Option<&str>,
) -> Result<(), NyxError> {
    let relation = format!("{PREFIX}{}", Uuid::now_v7().simple());
    let mut create = Table::create();
    create
        .table(Alias::new(&relation))
        .col(ColumnDef::new(Alias::new("row")).big_integer().not_null().primary_key());
    let mut names = vec![Alias::new("row")];
    for at in 0..table.columns.len() {
        let text = Alias::new(format!("c{at}"));
        create.col(ColumnDef::new(text.clone()).text().not_null());
        names.push(text);
    }
    transaction.execute(&create).await?;
    for (chunk, first) in
        table.rows.chunks(VALUES / names.len()).zip((1_i64..).step_by(VALUES / names.len()))
    {
        let mut insert = Query::insert();
        insert.into_table(Alias::new(&relation)).columns(names.clone());
        for (row, number) in chunk.iter().zip(first..) {
            let mut values: Vec<SimpleExpr> = vec![Expr::val(number)];
            values.extend(row.iter().map(|cell| Expr::val(cell.clone())));
            insert.values(values).map_err(|error| NyxError::Internal(error.to_string()))?;
        }
        transaction.execute(&insert).await?;
    }
    if let Some(role) = role.filter(|_| transaction.get_database_backend() == DbBackend::Postgres) {
        // format() quotes both as identifiers; GRANT accepts no bound parameters
        let grant = "SELECT format('GRANT SELECT ON %I TO %I', $1::text, $2::text) AS grant_it";
        let grant = Statement::from_sql_and_values(
            DbBackend::Postgres,
            grant,
            [relation.clone().into(), role.into()],
        );
        if let Some(row) = transaction.query_one_raw(grant).await? {
            transaction.execute_unprepared(&row.try_get::<String>("", "grant_it")?).await?;
        }
    }
    let columns = serde_json::to_value(&table.columns)
        .map_err(|error| NyxError::Internal(error.to_string()))?;
    let mut insert = Query::insert();
    insert
        .into_table(Alias::new(CATALOGUE))
        .columns(["name", "relation", "columns", "caption", "rows", "created_at"].map(Alias::new));
    let rows = i64::try_from(table.rows.len()).unwrap_or(i64::MAX);
    let values: [SimpleExpr; 6] = [
        Expr::val(table.name.clone()),
        Expr::val(relation),
        Expr::val(columns),
        Expr::val(table.caption.clone()),
        Expr::val(rows),
        Expr::val(now()),
    ];
    insert.values(values).map_err(|error| NyxError::Internal(error.to_string()))?;
    transaction.execute(&insert).await?;
    Ok(())
}

/// Catalogue rows, oldest first: all, or the one with the given name.
pub(super) async fn entries(
    connection: &impl ConnectionTrait,
    name: Option<&str>,
) -> Result<Vec<Entry>, NyxError> {
    let mut select = Query::select();
    select
        .columns(["name", "relation", "columns", "caption", "rows", "created_at"].map(Alias::new))
        .from(Alias::new(CATALOGUE));
    if let Some(name) = name {
        select.and_where(Expr::col(Alias::new("name")).eq(name));
    }
    select.order_by(Alias::new("created_at"), Order::Asc).order_by(Alias::new("name"), Order::Asc);
    connection.query_all(&select).await?.iter().map(entry).collect()
}

fn entry(row: &QueryResult) -> Result<Entry, NyxError> {
    let columns: serde_json::Value = row.try_get("", "columns")?;
    Ok(Entry {
        name: row.try_get("", "name")?,
        relation: row.try_get("", "relation")?,
        columns: serde_json::from_value(columns)
            .map_err(|error| NyxError::Internal(format!("nyx_tables.columns: {error}")))?,
        caption: row.try_get("", "caption")?,
        rows: u64::try_from(row.try_get::<i64>("", "rows")?).unwrap_or_default(),
        created_at: row.try_get("", "created_at")?,
    })
}

/// Deletes a table and its rows; false if no table has this name.
pub(super) async fn remove(phoebe: &PhoebeStore, name: &str) -> Result<bool, NyxError> {
    let transaction = phoebe.begin().await?;
    let Some(entry) = entries(&transaction, Some(name)).await?.pop() else {
        transaction.rollback().await;
        return Ok(false);
    };
    transaction.execute(&Table::drop().table(Alias::new(&entry.relation)).to_owned()).await?;
    transaction
        .execute(
            Query::delete()
                .from_table(Alias::new(CATALOGUE))
                .and_where(Expr::col(Alias::new("name")).eq(name)),
        )
        .await?;
    transaction.commit().await?;
    Ok(true)
}
