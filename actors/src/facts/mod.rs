//! Facts: registered tables, and read-only search of their rows for evidence. Not an actor, because
//! it keeps no state beyond a cache of what the databases hold.

mod catalogue;
mod file;
mod import;
mod options;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nyx_domain::Evidence;
use tokio::sync::Mutex;

use crate::NyxError;
use crate::phoebe::{PhoebeOptions, PhoebeStore};
use crate::secret::SecretUrl;
use catalogue::{Catalogue, Layout, Source};
use reader::Reader;

pub use catalogue::TableReport;
pub use file::FileTable;
pub use import::Import;
pub use options::{FactOptions, TableOptions};

/// Age after which tables from the settings are loaded again.
const AGE: Duration = Duration::from_secs(600);
/// Interval between attempts to read unreadable tables.
const RETRY: Duration = Duration::from_secs(30);

/// The fact service. Cheap to clone.
#[derive(Clone)]
pub struct Facts {
    inner: Arc<Inner>,
}

struct Inner {
    phoebe: PhoebeStore,
    /// URL of phoebe's database.
    url: SecretUrl,
    options: FactOptions,
    /// Keyed by URL and role; the URL of phoebe's database is "".
    readers: std::sync::Mutex<BTreeMap<String, Arc<Reader>>>,
    catalogue: Mutex<Option<Arc<Catalogue>>>,
}

impl Facts {
    /// Uses a connected phoebe; databases are connected to on first read.
    pub fn new(
        phoebe: PhoebeStore,
        database: &PhoebeOptions,
        data_dir: &Path,
        options: FactOptions,
    ) -> Self {
        let url = database.url_in(data_dir);
        Self {
            inner: Arc::new(Inner {
                phoebe,
                url,
                options,
                readers: Default::default(),
                catalogue: Mutex::default(),
            }),
        }
    }

    /// Registers tables, all or none.
    ///
    /// # Errors
    /// A table is invalid, or its name is already registered; the message contains the name and the
    /// reason.
    pub async fn import(&self, imports: Vec<Import>) -> Result<(), NyxError> {
        for import in &imports {
            if self.inner.options.external.iter().any(|source| source.table == import.name) {
                let message = format!(
                    "a table {:?} is in the settings (tables.external): use another name",
                    import.name
                );
                return Err(NyxError::invalid("name", message));
            }
        }
        import::import(&self.inner.phoebe, imports, self.inner.options.role.as_deref()).await
    }

    /// Deletes an imported table and its rows.
    ///
    /// # Errors
    /// [`NyxError::UnknownTable`] with the names of the imported tables.
    pub async fn remove(&self, name: &str) -> Result<(), NyxError> {
        if import::remove(&self.inner.phoebe, name).await? {
            return Ok(());
        }
        let entries = import::entries(self.inner.phoebe.writer(), None).await?;
        Err(catalogue::unknown(name, entries.iter().map(|entry| entry.name.as_str())))
    }

    /// All registered tables; unreadable ones with the reason.
    ///
    /// # Errors
    /// Phoebe's database cannot be read.
    pub async fn tables(&self) -> Result<Vec<TableReport>, NyxError> {
        Ok(self.catalogue().await?.reports())
    }

    /// One table and its first rows.
    ///
    /// # Errors
    /// [`NyxError::UnknownTable`].
    pub async fn show(
        &self,
        name: &str,
        rows: u64,
    ) -> Result<(TableReport, Vec<Vec<String>>), NyxError> {
        let catalogue = self.catalogue().await?;
        let source = catalogue.get(name)?;
        Ok((source.report(), source.rows(rows).await?))
    }

    /// The `k` rows of all tables that best match a text by their cells and their table's
    /// description, as evidence; best first.
    ///
    /// # Errors
    /// Phoebe's database cannot be read.
    pub async fn search(&self, text: &str, k: usize) -> Result<Vec<Evidence>, NyxError> {
        let (catalogue, text) = (self.catalogue().await?, text.to_owned());
        // a common word occurs in many rows: kept off the actor threads
        let searched = tokio::task::spawn_blocking(move || catalogue.search(&text, k));
        searched.await.map_err(|error| NyxError::Internal(error.to_string()))
    }

    /// The current catalogue. Loading continues even if the request is dropped: large tables take
    /// longer than a request may.
    async fn catalogue(&self) -> Result<Arc<Catalogue>, NyxError> {
        let facts = self.clone();
        let current = tokio::spawn(async move { facts.current().await });
        current.await.map_err(|error| NyxError::Internal(error.to_string()))?
    }

    /// The cached catalogue, or a new one if any process registered or removed a table, or the
    /// cache is too old.
    async fn current(&self) -> Result<Arc<Catalogue>, NyxError> {
        let mut held = self.inner.catalogue.lock().await;
        let entries = import::entries(self.inner.phoebe.reader(), None).await?;
        let stamp: String = entries.iter().map(|entry| format!("{};", entry.relation)).collect();
        let foreign = !self.inner.options.external.is_empty();
        let fresh = |held: &Catalogue| {
            let age = held.made.elapsed();
            held.stamp == stamp
                && (!foreign || age < AGE)
                && (held.unreadable.is_empty() || age < RETRY)
        };
        if let Some(catalogue) = held.as_ref().filter(|held| fresh(held)) {
            return Ok(Arc::clone(catalogue));
        }
        let catalogue = Arc::new(self.load(entries, stamp).await?);
        *held = Some(Arc::clone(&catalogue));
        Ok(catalogue)
    }

    async fn load(
        &self,
        entries: Vec<import::Entry>,
        stamp: String,
    ) -> Result<Catalogue, NyxError> {
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
                rows: Some(entry.rows),
                created_at: Some(entry.created_at),
                reader: Arc::clone(&reader),
            }));
        }
        for table in &self.inner.options.external {
            match self.foreign(table).await {
                Ok(found) => sources.push(found),
                Err(error) => {
                    tracing::warn!(table = table.table, %error, "a registered table cannot be read");
                    unreadable.push(TableReport {
                        name: table.table.clone(),
                        caption: table.description.clone(),
                        columns: Vec::new(),
                        rows: None,
                        url: table.url.as_ref().map(SecretUrl::to_string),
                        created_at: None,
                        error: Some(error.to_string()),
                    });
                }
            }
        }
        Catalogue::load(stamp, sources, unreadable, &self.inner.options).await
    }

    async fn foreign(&self, source: &TableOptions) -> Result<Source, NyxError> {
        let reader = self.reader(source.url.as_ref(), source.role.as_deref()).await?;
        catalogue::foreign(source, reader, source.url.as_ref().map(SecretUrl::to_string)).await
    }

    async fn reader(
        &self,
        url: Option<&SecretUrl>,
        role: Option<&str>,
    ) -> Result<Arc<Reader>, NyxError> {
        let role = if url.is_some() { role } else { role.or(self.inner.options.role.as_deref()) };
        let key = format!("{} {}", url.map_or("", SecretUrl::expose), role.unwrap_or_default());
        let held = || self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = held().get(&key).cloned() {
            return Ok(reader);
        }
        let limit = Duration::from_millis(self.inner.options.query_timeout_ms);
        let reader = Arc::new(
            Reader::connect(url.unwrap_or(&self.inner.url), role.map(str::to_owned), limit).await?,
        );
        held().insert(key, Arc::clone(&reader));
        Ok(reader)
    }

    /// Closes the connections.
    pub async fn close(&self) {
        let readers =
            std::mem::take(&mut *self.inner.readers.lock().unwrap_or_else(PoisonError::into_inner));
        for reader in readers.into_values() {
            reader.close().await;
        }
    }
}
