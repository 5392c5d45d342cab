//! What Nyx remembers in: phoebe and the vector store.

use std::path::{Path, PathBuf};

use nyx_actors::NyxError;
use nyx_actors::memory::{EdgeStore, MemoryStore, QdrantStore, StoreKind};
use nyx_actors::phoebe::PhoebeStore;

use serde_json::Value;

use super::Check;
use crate::settings::Settings;

/// Connects, and looks which migrations are still to be run. A SQLite file that is not there yet is not made.
pub(super) async fn database(settings: &Settings) -> Check {
    let url = settings.phoebe.url_in(&settings.data_dir);
    let file = url.expose().strip_prefix("sqlite:").map(|path| path.trim_start_matches("//").split('?').next().unwrap_or_default());
    if file.is_some_and(|file| file != ":memory:" && !Path::new(file).exists()) {
        return Check::ok("database", format!("{url} will be made"));
    }
    match pending(settings).await {
        Ok(0) => Check::ok("database", format!("{url} connects, its schema is up to date")),
        Ok(pending) => Check::ok("database", format!("{url} connects, {pending} migrations are run by `nyx migrate` or at the start")),
        Err(error) => Check::error("database", error.to_string(), "correct phoebe.url, and see that the database is up and lets you in"),
    }
}

async fn pending(settings: &Settings) -> Result<usize, NyxError> {
    let store = PhoebeStore::open(&settings.phoebe, &settings.data_dir).await?;
    let pending = store.pending_migrations().await;
    store.close().await;
    pending
}

/// Opened or reached as at the start; what is not there yet is not made in the data folder.
pub(super) async fn vector_store(settings: &Settings) -> Check {
    let folder = settings.memory.folder_in(&settings.data_dir);
    let embedded = settings.memory.store == StoreKind::Edge;
    if embedded && !folder.exists() {
        return Check::ok("vector store", format!("{} will be made", folder.display()));
    }
    let place = if embedded { folder.display().to_string() } else { settings.memory.url.clone().unwrap_or_default() };
    match memories(settings, embedded.then_some(folder)).await {
        Ok(None) => Check::ok("vector store", format!("{place} is of another version or embedder: the start builds it again")),
        Ok(Some(memories)) => Check::ok("vector store", format!("{place} opens, {memories} memories")),
        // as with a taken port: it may be Nyx itself that is running
        Err((reason, true)) => Check::warning("vector store", reason, "nothing, if that one is meant to run; `nyx ask` works beside it"),
        Err((error, false)) if embedded => {
            Check::error("vector store", error, "it is an index over phoebe: `nyx memories reindex` builds it again")
        }
        Err((error, false)) => Check::error("vector store", error, "correct memory.url and memory.api_key, and see that the server is up"),
    }
}

/// Why the memories could not be counted, and whether that is only because Nyx runs.
type Uncounted = (String, bool);

/// How many there are; none are counted in an index that would not be kept.
async fn memories(settings: &Settings, folder: Option<PathBuf>) -> Result<Option<usize>, Uncounted> {
    let dimension = dimension(settings).map_err(|reason| (reason, false))?;
    let told = |error: NyxError| (error.to_string(), matches!(error, NyxError::VectorStoreBusy { .. }));
    let count = match folder {
        Some(folder) if EdgeStore::is_outdated(&folder, dimension) => return Ok(None),
        Some(folder) => EdgeStore::open(&folder, dimension).map_err(told)?.count().await,
        None => QdrantStore::open(&settings.memory, dimension).await.map_err(told)?.count().await,
    };
    count.map(Some).map_err(told)
}

/// The length of the embedder's vectors, without loading it.
fn dimension(settings: &Settings) -> Result<usize, String> {
    let path = settings.embedder().map_err(|error| error.to_string())?.join("config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let size = config["hidden_size"].as_u64().and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| format!("{} names no hidden_size", path.display()))
}
