//! Aletheia's suite: whether rows of the right table are shown as evidence.

use nyx_actors::NyxError;
use nyx_actors::facts::{FileTable, Import};
use nyx_domain::Evidence;
use serde::Serialize;

use crate::Table;
use crate::choices::Answered;
use crate::environment::EvalEnvironment;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FactsReport {
    pub tables: usize,
    /// Share of statements whose first row shown is from their table.
    pub table_at_1: f64,
    /// Share of statements with any row shown from their table.
    pub table_shown: f64,
}

/// Registers the split's tables.
///
/// # Errors
/// A table that cannot be registered.
pub async fn register(environment: &EvalEnvironment, tables: Vec<Table>) -> Result<(), NyxError> {
    let imports = tables.into_iter().map(|table| Import {
        name: table.table,
        caption: table.caption,
        table: FileTable { columns: table.columns, rows: table.rows },
    });
    environment.nyx.facts.import(imports.collect()).await
}

/// Retrieval metrics from the answers' evidence.
pub fn report(tables: usize, answers: &[Answered]) -> FactsReport {
    let among = |count: usize| {
        let of = |answer: &Answered| {
            let is_of = |row: &Evidence| Some(&row.source) == answer.case.table.as_ref();
            answer
                .decision
                .evidence
                .iter()
                .filter(|item| item.id.starts_with("table:"))
                .take(count)
                .any(is_of)
        };
        answers.iter().filter(|answer| of(answer)).count() as f64 / answers.len().max(1) as f64
    };
    FactsReport { tables, table_at_1: among(1), table_shown: among(usize::MAX) }
}

/// Registers the tables of a split.
///
/// # Errors
/// As [`register`], and when the tables cannot be read.
pub async fn register_all(
    environment: &EvalEnvironment,
    dataset: &crate::Dataset,
) -> Result<(), crate::EvalError> {
    Ok(register(environment, dataset.tables()?).await?)
}
