//! The registered tables, and the in-memory index for searching their rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use nyx_domain::Evidence;
use nyx_specialists::facts::{Column, FactTable, FoundRow, Kind, RowIndex, infer};
use sea_orm::sea_query::{Alias, Expr, ExprTrait, Order, Query, SimpleExpr};
use sea_orm::{DbBackend, Statement};
use serde::Serialize;

use super::options::{FactOptions, TableOptions};
use super::reader::Reader;
use crate::NyxError;

/// The column layout of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Created by [`import`](super::import): `row`, and one text column `c0`, `c1`, ... per column;
    /// older imports have additional columns, which are not read.
    Imported,
    /// A table not created by Nyx.
    Foreign,
}

/// One registered table.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub name: String,
    pub caption: String,
    /// The database URL without its password; `None` for phoebe's database.
    pub url: Option<String>,
    pub schema: Option<String>,
    pub table: String,
    pub columns: Vec<Column>,
    pub layout: Layout,
    pub rows: Option<u64>,
    pub created_at: Option<DateTime<Utc>>,
    pub reader: Arc<Reader>,
}

/// A registered table as listed to the user.
#[derive(Debug, Clone, Serialize)]
pub struct TableReport {
    pub name: String,
    pub caption: String,
    pub columns: Vec<Column>,
    /// `None` for tables that were not imported.
    pub rows: Option<u64>,
    /// URL of a database other than phoebe's, without its password.
    pub url: Option<String>,
    /// When it was imported; `None` for tables from the settings.
    pub created_at: Option<DateTime<Utc>>,
    /// Why the table cannot be read.
    pub error: Option<String>,
}

/// A snapshot of all registered tables.
#[derive(Debug)]
pub(super) struct Catalogue {
    /// Changes with every import and removal.
    pub stamp: String,
    pub made: Instant,
    /// The readable tables, and their rows in the same order.
    sources: Vec<Source>,
    tables: Vec<FactTable>,
    index: RowIndex,
    /// Tables that cannot be read.
    pub unreadable: Vec<TableReport>,
}

impl Source {
    pub(super) fn report(&self) -> TableReport {
        let Self { name, caption, columns, rows, url, created_at, .. } = self.clone();
        TableReport { name, caption, columns, rows, url, created_at, error: None }
    }

    /// The cells of the table's first rows. Names come from the catalogue and are quoted; user
    /// input never becomes part of a query.
    pub(super) async fn rows(&self, limit: u64) -> Result<Vec<Vec<String>>, NyxError> {
        let mut select = Query::select();
        match &self.schema {
            Some(schema) => select.from((Alias::new(schema), Alias::new(&self.table))),
            None => select.from(Alias::new(&self.table)),
        };
        for (at, column) in self.columns.iter().enumerate() {
            let place = format!("c{at}");
            let text: SimpleExpr = match self.layout {
                Layout::Imported => Expr::col(Alias::new(&place)),
                Layout::Foreign => Expr::col(Alias::new(&column.name)).cast_as("text"),
            };
            select.expr_as(text, Alias::new(&place));
        }
        if self.layout == Layout::Imported {
            select.order_by(Alias::new("row"), Order::Asc);
        }
        let found = self.reader.select(select.limit(limit)).await?;
        let cell = |row: &sea_orm::QueryResult, at| {
            Ok(row.try_get::<Option<String>>("", &format!("c{at}"))?.unwrap_or_default())
        };
        found.iter().map(|row| (0..self.columns.len()).map(|at| cell(row, at)).collect()).collect()
    }
}

impl Catalogue {
    /// Loads the cells of every table, up to the total limit in the settings: small tables in full,
    /// large ones by equal shares of the rest.
    ///
    /// # Errors
    /// The index cannot be built.
    pub(super) async fn load(
        stamp: String,
        mut sources: Vec<Source>,
        mut unreadable: Vec<TableReport>,
        options: &FactOptions,
    ) -> Result<Self, NyxError> {
        let mut readable: BTreeMap<String, (Source, FactTable)> = BTreeMap::new();
        // tables of unknown size sort last and are read up to their share
        sources.sort_by_key(|source| {
            source.rows.map_or(u64::MAX, |rows| rows.saturating_mul(source.columns.len() as u64))
        });
        let (mut left, mut waiting) = (options.index_cells, sources.len());
        for source in sources {
            let width = source.columns.len().max(1);
            let limit = (left / waiting.max(1) / width) as u64;
            waiting = waiting.saturating_sub(1);
            match source.rows(limit).await {
                Ok(rows) => {
                    left = left.saturating_sub(rows.len() * width);
                    if rows.len() as u64 == limit && source.rows.is_none_or(|all| all > limit) {
                        tracing::warn!(
                            table = source.name,
                            rows = limit,
                            "a table is larger than its share of tables.index_cells: later rows are not searched"
                        );
                    }
                    let Source { name, caption, columns, .. } = source.clone();
                    readable
                        .insert(name.clone(), (source, FactTable { name, caption, columns, rows }));
                }
                Err(error) => {
                    tracing::warn!(table = source.name, %error, "a registered table cannot be read");
                    unreadable
                        .push(TableReport { error: Some(error.to_string()), ..source.report() });
                }
            }
        }
        let (sources, tables): (Vec<Source>, Vec<FactTable>) = readable.into_values().unzip();
        // indexing reads every word of every cell: kept off the actor threads
        let indexing = tokio::task::spawn_blocking(move || (RowIndex::new(&tables), tables));
        let (index, tables) =
            indexing.await.map_err(|error| NyxError::Internal(error.to_string()))?;
        Ok(Self { stamp, made: Instant::now(), sources, tables, index, unreadable })
    }

    pub(super) fn reports(&self) -> Vec<TableReport> {
        self.sources.iter().map(Source::report).chain(self.unreadable.iter().cloned()).collect()
    }

    /// # Errors
    /// [`NyxError::UnknownTable`] with the names of the registered tables.
    pub(super) fn get(&self, name: &str) -> Result<&Source, NyxError> {
        let found = self.sources.iter().find(|source| source.name == name);
        found.ok_or_else(|| unknown(name, self.sources.iter().map(|source| source.name.as_str())))
    }

    /// The `k` rows that best match a text, best first. The description of a table is attached to
    /// its first result.
    pub(super) fn search(&self, text: &str, k: usize) -> Vec<Evidence> {
        let mut shown = BTreeSet::new();
        let evidence = |FoundRow { table: at, row, score }: FoundRow| {
            let (table, cells) = (self.tables.get(at)?, self.tables.get(at)?.rows.get(row)?);
            let pairs = table.columns.iter().zip(cells).filter(|(_, cell)| !cell.trim().is_empty());
            let about = Some(&table.caption).filter(|caption| {
                shown.insert(at) && !caption.is_empty() && **caption != table.name
            });
            Some(Evidence {
                id: format!("table:{}#{}", table.name, row + 1),
                text: pairs
                    .map(|(column, cell)| format!("{}: {cell}", column.name))
                    .collect::<Vec<_>>()
                    .join("; "),
                score,
                source: table.name.clone(),
                speaker: None,
                when: None,
                context: about.into_iter().cloned().collect(),
            })
        };
        self.index.search(text, k).into_iter().filter_map(evidence).collect()
    }
}

/// Maximum number of names listed in an error.
const NAMED: usize = 20;

pub(super) fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> NyxError {
    let all: Vec<&str> = names.collect();
    let mut known = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if all.len() > NAMED {
        known.push_str(", ...");
    }
    NyxError::UnknownTable {
        name: name.to_owned(),
        known: if known.is_empty() { "none".into() } else { known },
    }
}

/// Looks up a table from the settings in its database.
pub(super) async fn foreign(
    options: &TableOptions,
    reader: Arc<Reader>,
    url: Option<String>,
) -> Result<Source, NyxError> {
    let postgres = reader.is_postgres();
    let (schema, table) = match options.table.split_once('.') {
        Some((schema, table)) if postgres => (Some(schema.to_owned()), table.to_owned()),
        _ => (None, options.table.clone()),
    };
    let found = if postgres {
        let sql = "SELECT column_name::text AS name, data_type::text AS kind FROM information_schema.columns \
                   WHERE table_name = $1 AND table_schema = COALESCE($2, current_schema()) ORDER BY ordinal_position";
        Statement::from_sql_and_values(
            DbBackend::Postgres,
            sql,
            [table.clone().into(), schema.clone().into()],
        )
    } else {
        let sql = "SELECT name, type AS kind FROM pragma_table_info(?) ORDER BY cid";
        Statement::from_sql_and_values(DbBackend::Sqlite, sql, [table.clone().into()])
    };
    let mut columns = Vec::new();
    for row in reader.read(found).await? {
        let (name, kind): (String, String) = (row.try_get("", "name")?, row.try_get("", "kind")?);
        columns.push(Column { name, kind: kind_of(&kind) });
    }
    let known = || columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
    if columns.is_empty() {
        let reason = format!("there is no table or view {:?} that may be read", options.table);
        return Err(NyxError::FactTableError { origin: options.table.clone(), reason });
    }
    if let Some(wrong) =
        options.columns.iter().find(|name| !columns.iter().any(|column| column.name == **name))
    {
        let reason = format!("no column {wrong:?}; the columns are {}", known());
        return Err(NyxError::FactTableError { origin: options.table.clone(), reason });
    }
    if !options.columns.is_empty() {
        columns.retain(|column| options.columns.contains(&column.name));
    }
    let (name, caption) = (options.table.clone(), options.description.clone());
    Ok(Source {
        name,
        caption,
        url,
        schema,
        table,
        columns,
        layout: Layout::Foreign,
        rows: None,
        created_at: None,
        reader,
    })
}

/// The kind of a declared column type; for SQLite, by its affinity.
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

/// The columns of a table to be imported, with inferred kinds.
pub(super) fn kinds(columns: &[String], rows: &[Vec<String>]) -> Vec<Column> {
    let kind =
        |at: usize| infer(rows.iter().map(move |row| row.get(at).map_or("", String::as_str)));
    columns
        .iter()
        .enumerate()
        .map(|(at, name)| Column { name: name.clone(), kind: kind(at) })
        .collect()
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
