//! A statement checked: its table found, its plans run, and what they say about it.

use nyx_specialists::Evidence;
use nyx_specialists::facts::{Compare, bare_statement};
use serde::Serialize;

use super::Facts;
use super::catalogue::Known;
use crate::NyxError;

/// Tables that a check tells of.
const TABLES: usize = 5;
/// Rows that a verdict shows.
const ROWS: u64 = 5;

/// What the tables say about a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FactVerdict {
    Supported,
    Refuted,
    Unknown,
}

impl FactVerdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Refuted => "refuted",
            Self::Unknown => "unknown",
        }
    }
}

/// Whose word the verdict is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// A plan of filter, count, min or max that explains the statement.
    Query,
    /// Plans that explain it in part, weighed as learned.
    Learned,
    /// Nothing was found to decide by: the language model is asked.
    Model,
}

/// A plan that was run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanOutcome {
    /// As people read it.
    pub plan: String,
    /// Whether it holds; `None` where there was nothing to compare.
    pub holds: Option<bool>,
}

/// A statement's check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// The likeliest tables with their scores, best first; the first was asked.
    pub tables: Vec<(String, f64)>,
    /// The plan that speaks for the verdict, and its parts.
    pub plans: Vec<PlanOutcome>,
    pub verdict: FactVerdict,
    /// Probability that the statement is supported.
    pub p_supported: Option<f64>,
    pub decided_by: DecidedBy,
    /// The id of the learned part that weighed the plans.
    pub judge: Option<String>,
    /// The rows that say so.
    pub rows: Vec<Evidence>,
}

impl Facts {
    /// Checks a statement against the registered tables.
    ///
    /// # Errors
    /// When a database refuses or cuts the reading.
    pub async fn check(&self, statement: &str) -> Result<Check, NyxError> {
        let catalogue = self.catalogue().await?;
        let tables = catalogue.index.rank(statement, TABLES);
        let mut check = Check {
            tables,
            plans: Vec::new(),
            verdict: FactVerdict::Unknown,
            p_supported: None,
            decided_by: DecidedBy::Model,
            judge: None,
            rows: Vec::new(),
        };
        let Some((name, score)) = check.tables.first().cloned() else { return Ok(check) };
        let known = catalogue.get(&name)?;
        let mut reading = known.lexicon.read(&known.table, bare_statement(statement));
        // what cannot be asked of the table explains nothing
        reading.candidates.retain(|candidate| {
            candidate
                .compares
                .iter()
                .all(|compare| compare.plans().all(|plan| plan.check(&known.source.name, &known.source.columns).is_ok()))
        });
        let compares: Vec<&Compare> = reading.candidates.iter().flat_map(|candidate| &candidate.compares).collect();
        let mut held = self.hold(&known.source, &compares).await?.into_iter();
        // of each candidate, one answer a comparison
        let held: Vec<Vec<Option<bool>>> =
            reading.candidates.iter().map(|candidate| held.by_ref().take(candidate.compares.len()).collect()).collect();
        let Some(judgement) = self.inner.judge.as_ref().and_then(|judge| judge.value.judge(&reading, &held)) else {
            check.rows = self.evidence(known, &reading.rows(&known.table), score).await?;
            return Ok(check);
        };
        let likelier = if judgement.supported >= 0.5 { FactVerdict::Supported } else { FactVerdict::Refuted };
        check.p_supported = Some(judgement.supported);
        check.judge = self.inner.judge.as_ref().map(|judge| judge.id.clone());
        check.decided_by = if judgement.by_query { DecidedBy::Query } else { DecidedBy::Learned };
        check.verdict = if judgement.by_query { likelier } else { FactVerdict::Unknown };
        if let Some((candidate, held)) = judgement.candidate.and_then(|at| Some((reading.candidates.get(at)?, held.get(at)?))) {
            check.plans = candidate
                .compares
                .iter()
                .zip(held)
                .map(|(compare, holds)| PlanOutcome { plan: compare.describe(), holds: *holds })
                .collect();
            check.rows = self.evidence(known, &candidate.rows, score).await?;
        }
        if check.rows.is_empty() {
            check.rows = self.evidence(known, &reading.rows(&known.table), score).await?;
        }
        Ok(check)
    }

    async fn evidence(&self, known: &Known, plan: &nyx_specialists::facts::Plan, score: f64) -> Result<Vec<Evidence>, NyxError> {
        let name = &known.source.name;
        let rows = known.source.rows(plan, ROWS.min(self.inner.options.max_rows)).await?;
        let evidence = rows.into_iter().map(|(number, cells)| {
            let cells = known.source.columns.iter().zip(&cells).filter(|(_, cell)| !cell.is_empty());
            let text = cells.map(|(column, cell)| format!("{}: {cell}", column.name)).collect::<Vec<_>>().join("; ");
            let caption = if known.source.caption.is_empty() { String::new() } else { format!("{} | ", known.source.caption) };
            Evidence {
                id: format!("table:{name}#{number}"),
                text: format!("{caption}{text}"),
                score,
                source: name.clone(),
                speaker: None,
                when: None,
                context: vec![],
            }
        });
        Ok(evidence.collect())
    }
}
