//! Which tables are registered, and what is kept of them in memory to find them by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use nyx_specialists::facts::{Aggregate, Column, FactTable, Kind, Lexicon, Plan, TableIndex, infer};
use sea_orm::{DbBackend, QueryResult, Statement};
use serde::Serialize;

use super::options::{FactOptions, SourceOptions};
use super::reader::Reader;
use super::sql;
use crate::NyxError;

/// How a source's columns are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// By [`import`](super::import): `row`, and of each column the text `c`, the folded text `f` and the value `v`.
    Imported,
    /// As somebody else made it.
    Foreign,
}

/// One registered table.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub name: String,
    pub caption: String,
    /// The database's URL without its password; `None` is phoebe's.
    pub url: Option<String>,
    pub schema: Option<String>,
    pub table: String,
    pub columns: Vec<Column>,
    pub layout: Layout,
    pub postgres: bool,
    pub rows: Option<u64>,
    pub created_at: Option<DateTime<Utc>>,
    pub reader: Arc<Reader>,
}

/// A registered table as it is listed.
#[derive(Debug, Clone, Serialize)]
pub struct SourceReport {
    pub name: String,
    pub caption: String,
    pub columns: Vec<Column>,
    /// Known of imported tables.
    pub rows: Option<u64>,
    /// Another database than phoebe's, without its password.
    pub url: Option<String>,
    /// When it was imported; `None` of those in the settings.
    pub created_at: Option<DateTime<Utc>>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// A source that can be read, with what is known of its cells.
#[derive(Debug)]
pub(super) struct Known {
    pub source: Source,
    pub table: FactTable,
    pub lexicon: Lexicon,
}

/// Everything that is registered, at one time.
#[derive(Debug)]
pub(super) struct Catalogue {
    /// Changes with every import and removal.
    pub stamp: String,
    pub made: Instant,
    pub known: BTreeMap<String, Known>,
    pub index: TableIndex,
    /// Sources of the settings that cannot be read.
    pub unreadable: Vec<SourceReport>,
}

impl Source {
    fn report(&self) -> SourceReport {
        let Self { name, caption, columns, rows, url, created_at, .. } = self.clone();
        SourceReport { name, caption, columns, rows, url, created_at, error: None }
    }

    /// The rows of a plan: their numbers from 1, and their cells.
    pub(super) async fn rows(&self, plan: &Plan, max_rows: u64) -> Result<Vec<(i64, Vec<String>)>, NyxError> {
        let plan = Plan { aggregate: Aggregate::Rows, ..plan.clone() };
        plan.check(&self.name, &self.columns).map_err(|reason| NyxError::invalid("plan", reason))?;
        let found = self.reader.select(&[sql::select(self, &plan, max_rows)?]).await?;
        let rows = found.into_iter().flatten().zip(1..);
        rows.map(|(row, place)| Ok((if self.layout == Layout::Imported { row.try_get("", "row")? } else { place }, self.cells(&row)?)))
            .collect()
    }

    fn cells(&self, row: &QueryResult) -> Result<Vec<String>, NyxError> {
        (0..self.columns.len()).map(|at| Ok(row.try_get::<Option<String>>("", &format!("c{at}"))?.unwrap_or_default())).collect()
    }
}

impl Catalogue {
    /// Reads the cells of every source, each up to the limit of the settings.
    ///
    /// # Errors
    /// When the index cannot be made.
    pub(super) async fn load(
        stamp: String,
        sources: Vec<Source>,
        mut unreadable: Vec<SourceReport>,
        options: &FactOptions,
    ) -> Result<Self, NyxError> {
        let (mut readable, mut tables) = (Vec::new(), Vec::new());
        for source in sources {
            let rows = (options.index_cells / source.columns.len().max(1)).max(1) as u64;
            match source.rows(&Plan::new(&source.name, Vec::new(), Aggregate::Rows), rows).await {
                Ok(found) => {
                    let rows = found.into_iter().map(|(_, cells)| cells).collect();
                    let table =
                        FactTable { name: source.name.clone(), caption: source.caption.clone(), columns: source.columns.clone(), rows };
                    tables.push(table);
                    readable.push(source);
                }
                Err(error) => {
                    tracing::warn!(table = source.name, %error, "a registered table cannot be read");
                    unreadable.push(SourceReport { error: Some(error.to_string()), ..source.report() });
                }
            }
        }
        // every word of every cell is looked at: not beside the actors
        let indexing = tokio::task::spawn_blocking(move || {
            let index = TableIndex::new(&tables);
            (tables.into_iter().map(|table| (Lexicon::new(&table), table)).collect::<Vec<_>>(), index)
        });
        let (tables, index) = indexing.await.map_err(|error| NyxError::Internal(error.to_string()))?;
        let known = readable.into_iter().zip(tables);
        let known = known.map(|(source, (lexicon, table))| (source.name.clone(), Known { source, table, lexicon })).collect();
        Ok(Self { stamp, made: Instant::now(), known, index, unreadable })
    }

    pub(super) fn reports(&self) -> Vec<SourceReport> {
        self.known.values().map(|known| known.source.report()).chain(self.unreadable.iter().cloned()).collect()
    }

    /// # Errors
    /// [`NyxError::UnknownSource`], naming those that there are.
    pub(super) fn get(&self, name: &str) -> Result<&Known, NyxError> {
        self.known.get(name).ok_or_else(|| unknown(name, self.known.keys().map(String::as_str)))
    }
}

/// Names listed in a refusal at most.
const NAMED: usize = 20;

pub(super) fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> NyxError {
    let all: Vec<&str> = names.collect();
    let mut known = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if all.len() > NAMED {
        known.push_str(", ...");
    }
    NyxError::UnknownSource { name: name.to_owned(), known: if known.is_empty() { "none".into() } else { known } }
}

/// A source of the settings, looked up in its database.
pub(super) async fn foreign(options: &SourceOptions, reader: Arc<Reader>, url: Option<String>) -> Result<Source, NyxError> {
    let postgres = reader.is_postgres();
    let (schema, table) = match options.table.split_once('.') {
        Some((schema, table)) if postgres => (Some(schema.to_owned()), table.to_owned()),
        _ => (None, options.table.clone()),
    };
    let found = if postgres {
        let sql = "SELECT column_name::text AS name, data_type::text AS kind FROM information_schema.columns \
                   WHERE table_name = $1 AND table_schema = COALESCE($2, current_schema()) ORDER BY ordinal_position";
        Statement::from_sql_and_values(DbBackend::Postgres, sql, [table.clone().into(), schema.clone().into()])
    } else {
        let sql = "SELECT name, type AS kind FROM pragma_table_info(?) ORDER BY cid";
        Statement::from_sql_and_values(DbBackend::Sqlite, sql, [table.clone().into()])
    };
    let mut columns = Vec::new();
    for row in reader.read(vec![found]).await?.into_iter().flatten() {
        let (name, kind): (String, String) = (row.try_get("", "name")?, row.try_get("", "kind")?);
        columns.push(Column { name, kind: kind_of(&kind) });
    }
    let known = || columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
    if columns.is_empty() {
        let reason = format!("there is no table or view {:?} that may be read", options.table);
        return Err(NyxError::FactSource { origin: options.table.clone(), reason });
    }
    if let Some(wrong) = options.columns.iter().find(|name| !columns.iter().any(|column| column.name == **name)) {
        let reason = format!("there is no column {wrong:?}; there are {}", known());
        return Err(NyxError::FactSource { origin: options.table.clone(), reason });
    }
    if !options.columns.is_empty() {
        columns.retain(|column| options.columns.contains(&column.name));
    }
    let (name, caption) = (options.table.clone(), options.description.clone());
    Ok(Source { name, caption, url, schema, table, columns, layout: Layout::Foreign, postgres, rows: None, created_at: None, reader })
}

/// From a declared type. Of SQLite's it is the affinity that counts.
fn kind_of(declared: &str) -> Kind {
    let declared = declared.to_ascii_lowercase();
    let holds = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    if holds(&["date", "timestamp"]) {
        Kind::Date
    } else if holds(&["interval", "point", "char", "text", "bool"]) {
        Kind::Text
    } else if holds(&["int", "serial"]) {
        Kind::Integer
    } else if holds(&["real", "floa", "doub", "numeric", "decimal"]) {
        Kind::Real
    } else {
        Kind::Text
    }
}

/// Kinds of the columns of a table that is about to be imported.
pub(super) fn kinds(columns: &[String], rows: &[Vec<String>]) -> Vec<Column> {
    let kind = |at: usize| infer(rows.iter().map(move |row| row.get(at).map_or("", String::as_str)));
    columns.iter().enumerate().map(|(at, name)| Column { name: name.clone(), kind: kind(at) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_have_kinds() {
        for (declared, expected) in [
            ("INTEGER", Kind::Integer),
            ("bigint", Kind::Integer),
            ("double precision", Kind::Real),
            ("NUMERIC(10,2)", Kind::Real),
            ("timestamp with time zone", Kind::Date),
            ("character varying", Kind::Text),
            ("interval", Kind::Text),
            ("", Kind::Text),
        ] {
            assert_eq!(kind_of(declared), expected, "{declared}");
        }
    }
}
