//! Facts: tables that the operator registered, found for a statement and asked by typed plans, read-only. Phoebe's read side; no actor, since it
//! keeps nothing but what the databases hold.

mod catalogue;
mod check;
mod file;
mod import;
mod options;
mod reader;
mod sql;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nyx_specialists::facts::{Aggregate, Answer, Compare, FactJudge, Kind, Operand, Plan};
use sea_orm::QueryResult;
use tokio::sync::Mutex;

use crate::NyxError;
use crate::learned::Learned;
use crate::phoebe::{PhoebeOptions, PhoebeStore, redacted};
use catalogue::{Catalogue, Layout, Source};
use reader::Reader;

pub use catalogue::SourceReport;
pub use check::{Check, DecidedBy, FactVerdict, PlanOutcome};
pub use file::FileTable;
pub use import::Import;
pub use options::{FactOptions, SourceOptions};

/// Sources that others may change are looked at again after this.
const AGE: Duration = Duration::from_secs(600);
/// One that could not be read is tried again after this.
const RETRY: Duration = Duration::from_secs(30);

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Facts {
    inner: Arc<Inner>,
}

struct Inner {
    phoebe: PhoebeStore,
    /// Of phoebe's database.
    url: String,
    options: FactOptions,
    judge: Option<Learned<FactJudge>>,
    /// By URL and role; of phoebe's own, under "".
    readers: std::sync::Mutex<BTreeMap<String, Arc<Reader>>>,
    catalogue: Mutex<Option<Arc<Catalogue>>>,
}

impl Facts {
    /// Over a connected phoebe; databases are connected to when they are first read. Without a judge nothing is decided by a query.
    pub fn new(
        phoebe: PhoebeStore,
        database: &PhoebeOptions,
        data_dir: &Path,
        options: FactOptions,
        judge: Option<Learned<FactJudge>>,
    ) -> Self {
        let url = database.url_in(data_dir);
        Self { inner: Arc::new(Inner { phoebe, url, options, judge, readers: Default::default(), catalogue: Mutex::default() }) }
    }

    /// Registers tables, all of them or none.
    ///
    /// # Errors
    /// Names the table and what is wrong with it; a name may be registered once.
    pub async fn import(&self, imports: Vec<Import>) -> Result<(), NyxError> {
        for import in &imports {
            if self.inner.options.source.iter().any(|source| source.table == import.name) {
                let message = format!("a table {:?} stands in the settings (specialist.aletheia.source): give another name", import.name);
                return Err(NyxError::invalid("name", message));
            }
        }
        import::import(&self.inner.phoebe, imports, self.inner.options.role.as_deref()).await
    }

    /// Forgets an imported table and its rows.
    ///
    /// # Errors
    /// [`NyxError::UnknownSource`], naming those that there are.
    pub async fn remove(&self, name: &str) -> Result<(), NyxError> {
        if import::remove(&self.inner.phoebe, name).await? {
            return Ok(());
        }
        let entries = import::entries(self.inner.phoebe.writer(), None).await?;
        Err(catalogue::unknown(name, entries.iter().map(|entry| entry.name.as_str())))
    }

    /// Every registered table, those of the settings that cannot be read with the reason.
    ///
    /// # Errors
    /// When phoebe cannot be read.
    pub async fn sources(&self) -> Result<Vec<SourceReport>, NyxError> {
        Ok(self.catalogue().await?.reports())
    }

    /// One table and its first rows.
    ///
    /// # Errors
    /// [`NyxError::UnknownSource`].
    pub async fn show(&self, name: &str, rows: u64) -> Result<(SourceReport, Vec<Vec<String>>), NyxError> {
        let catalogue = self.catalogue().await?;
        let known = catalogue.get(name)?;
        let plan = Plan { limit: Some(rows), ..Plan::new(name, Vec::new(), Aggregate::Rows) };
        let found = known.source.rows(&plan, self.inner.options.max_rows).await?;
        let report = catalogue.reports().into_iter().find(|report| report.name == name);
        let report = report.ok_or_else(|| NyxError::Internal(format!("{name:?} is known and not listed")))?;
        Ok((report, found.into_iter().map(|(_, cells)| cells).collect()))
    }

    /// Whether anything is registered.
    ///
    /// # Errors
    /// When phoebe cannot be read.
    pub async fn is_empty(&self) -> Result<bool, NyxError> {
        Ok(self.catalogue().await?.index.is_empty())
    }

    /// The `k` tables that a statement is likeliest about, with their scores, best first.
    ///
    /// # Errors
    /// When phoebe cannot be read.
    pub async fn rank(&self, statement: &str, k: usize) -> Result<Vec<(String, f64)>, NyxError> {
        Ok(self.catalogue().await?.index.rank(statement, k))
    }

    /// What a plan gives.
    ///
    /// # Errors
    /// The table is not registered, the plan does not fit it, or the database refuses or cuts it.
    pub async fn run(&self, plan: &Plan) -> Result<Answer, NyxError> {
        let catalogue = self.catalogue().await?;
        let source = &catalogue.get(&plan.table)?.source;
        let answers = self.answers(source, std::slice::from_ref(plan)).await?;
        answers.into_iter().next().ok_or_else(|| NyxError::Internal("a plan without an answer".into()))
    }

    /// The rows that pass a plan's filters, in its order: their numbers from 1 and their cells, as many as `max_rows` allows.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn rows(&self, plan: &Plan) -> Result<Vec<(i64, Vec<String>)>, NyxError> {
        self.catalogue().await?.get(&plan.table)?.source.rows(plan, self.inner.options.max_rows).await
    }

    /// Many plans over one source, in one transaction.
    async fn answers(&self, source: &Source, plans: &[Plan]) -> Result<Vec<Answer>, NyxError> {
        let mut selects = Vec::with_capacity(plans.len());
        for plan in plans {
            plan.check(&source.name, &source.columns).map_err(|reason| NyxError::invalid("plan", reason))?;
            let counted = if plan.aggregate == Aggregate::Rows { Aggregate::Count } else { plan.aggregate.clone() };
            selects.push(sql::select(source, &Plan { aggregate: counted, ..plan.clone() }, 1)?);
        }
        let found = source.reader.select(&selects).await?;
        found.iter().zip(plans).map(|(rows, plan)| answer(source, plan, rows.first())).collect()
    }

    /// Whether each comparison holds; `None` where there is nothing to compare. A plan that many of them share is asked once.
    async fn hold(&self, source: &Source, compares: &[&Compare]) -> Result<Vec<Option<bool>>, NyxError> {
        let mut plans: Vec<Plan> = Vec::new();
        let mut place = |plan: &Plan| {
            plans.iter().position(|known| known == plan).unwrap_or_else(|| {
                plans.push(plan.clone());
                plans.len() - 1
            })
        };
        let places: Vec<(usize, Option<usize>)> = compares
            .iter()
            .map(|compare| {
                let right = if let Operand::Plan(plan) = &compare.right { Some(place(plan)) } else { None };
                (place(&compare.left), right)
            })
            .collect();
        let answers = self.answers(source, &plans).await?;
        let held = compares.iter().zip(places).map(|(compare, (left, right))| {
            let right = match &compare.right {
                Operand::Number(number) => Answer::Number(*number),
                Operand::Text(text) => Answer::Text(text.clone()),
                Operand::Plan(_) => answers.get(right?)?.clone(),
            };
            answers.get(left)?.compare(compare.op, &right)
        });
        Ok(held.collect())
    }

    /// What is registered now; read again when it has changed.
    async fn catalogue(&self) -> Result<Arc<Catalogue>, NyxError> {
        let entries = import::entries(self.inner.phoebe.reader(), None).await?;
        let stamp: String = entries.iter().map(|entry| format!("{};", entry.relation)).collect();
        let mut held = self.inner.catalogue.lock().await;
        let foreign = !self.inner.options.source.is_empty();
        let fresh = |held: &Catalogue| {
            let age = held.made.elapsed();
            held.stamp == stamp && (!foreign || age < AGE) && (held.unreadable.is_empty() || age < RETRY)
        };
        if let Some(catalogue) = held.as_ref().filter(|held| fresh(held)) {
            return Ok(Arc::clone(catalogue));
        }
        let (mut sources, mut unreadable) = (Vec::new(), Vec::new());
        if !entries.is_empty() {
            let reader = self.reader(None, None).await?;
            sources.extend(entries.into_iter().map(|entry| Source {
                name: entry.name,
                caption: entry.caption,
                url: None,
                schema: None,
                table: entry.relation,
                columns: entry.columns,
                layout: Layout::Imported,
                postgres: reader.is_postgres(),
                rows: Some(entry.rows),
                created_at: Some(entry.created_at),
                reader: Arc::clone(&reader),
            }));
        }
        for source in &self.inner.options.source {
            match self.foreign(source).await {
                Ok(found) => sources.push(found),
                Err(error) => {
                    tracing::warn!(table = source.table, %error, "a registered table cannot be read");
                    unreadable.push(SourceReport {
                        name: source.table.clone(),
                        caption: source.description.clone(),
                        columns: Vec::new(),
                        rows: None,
                        url: source.url.as_deref().map(redacted),
                        created_at: None,
                        error: Some(error.to_string()),
                    });
                }
            }
        }
        let catalogue = Arc::new(Catalogue::load(stamp, sources, unreadable, &self.inner.options).await?);
        *held = Some(Arc::clone(&catalogue));
        Ok(catalogue)
    }

    async fn foreign(&self, source: &SourceOptions) -> Result<Source, NyxError> {
        let reader = self.reader(source.url.as_deref(), source.role.as_deref()).await?;
        catalogue::foreign(source, reader, source.url.as_deref().map(redacted)).await
    }

    async fn reader(&self, url: Option<&str>, role: Option<&str>) -> Result<Arc<Reader>, NyxError> {
        let role = if url.is_some() { role } else { role.or(self.inner.options.role.as_deref()) };
        let key = format!("{} {}", url.unwrap_or_default(), role.unwrap_or_default());
        let held = || self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = held().get(&key).cloned() {
            return Ok(reader);
        }
        let limit = Duration::from_millis(self.inner.options.query_timeout_ms);
        let reader = Arc::new(Reader::connect(url.unwrap_or(&self.inner.url), role.map(str::to_owned), limit).await?);
        held().insert(key, Arc::clone(&reader));
        Ok(reader)
    }

    /// Closes the connections.
    pub async fn close(&self) {
        let readers = std::mem::take(&mut *self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner));
        for reader in readers.into_values() {
            reader.close().await;
        }
    }
}

fn answer(source: &Source, plan: &Plan, row: Option<&QueryResult>) -> Result<Answer, NyxError> {
    let Some(row) = row else { return Ok(Answer::Nothing) };
    let Some(column) = plan.aggregate.column().filter(|_| !matches!(plan.aggregate, Aggregate::Distinct(_))) else {
        return Ok(Answer::Number(row.try_get::<i64>("", "result")? as f64));
    };
    let kind = source.columns.iter().find(|known| known.name == column).map_or(Kind::Text, |column| column.kind);
    Ok(if kind.is_number() {
        row.try_get::<Option<f64>>("", "result")?.map_or(Answer::Nothing, Answer::Number)
    } else {
        row.try_get::<Option<String>>("", "result")?.map_or(Answer::Nothing, Answer::Text)
    })
}
