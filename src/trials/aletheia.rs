//! Aletheia's suite: whether the right table is found.

use nyx_actors::NyxError;
use nyx_actors::facts::{FileTable, Import};
use serde::Serialize;

use super::choices::Answered;
use super::stage::Stage;
use super::{ChoiceTrial, Table};

/// Deepest rank that is asked for.
const DEPTH: usize = 5;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FactsReport {
    pub tables: usize,
    /// Share of statements whose table is ranked first.
    pub table_at_1: f64,
    /// And among the first five.
    pub table_at_5: f64,
}

/// Registers the split's tables.
///
/// # Errors
/// A table that cannot be registered.
pub async fn register(stage: &Stage, tables: Vec<Table>) -> Result<(), NyxError> {
    let imports = tables.into_iter().map(|table| Import {
        name: table.table,
        caption: table.caption,
        table: FileTable { columns: table.columns, rows: table.rows },
    });
    stage.nyx.facts.import(imports.collect()).await
}

/// Ranks the tables for each statement.
///
/// # Errors
/// When the catalogue cannot be read.
pub async fn rank(stage: &Stage, trials: &[ChoiceTrial]) -> Result<Vec<Vec<String>>, NyxError> {
    let ranked = stage.each("aletheia: finding tables", trials, |trial| async {
        let found = stage.nyx.facts.rank(&trial.question, DEPTH).await?;
        Ok(found.into_iter().map(|(name, _)| name).collect())
    });
    ranked.await
}

/// Puts the two together.
pub fn report(tables: usize, ranked: &[Vec<String>], answers: &[Answered]) -> FactsReport {
    let within = |k: usize| {
        let found = answers
            .iter()
            .zip(ranked)
            .filter(|(answer, ranked)| answer.trial.table.as_ref().is_some_and(|table| ranked.iter().take(k).any(|name| name == table)));
        found.count() as f64 / answers.len().max(1) as f64
    };
    FactsReport { tables, table_at_1: within(1), table_at_5: within(DEPTH) }
}

/// Registers the tables of a split.
///
/// # Errors
/// As [`register`], and when the tables cannot be read.
pub async fn register_all(stage: &Stage, trials: &super::Trials) -> Result<(), super::EvalError> {
    Ok(register(stage, trials.tables()?).await?)
}
