//! Checks of the database and of the memory search.

use std::path::Path;

use nyx_actors::NyxError;
use nyx_actors::memory::{QdrantIndex, StoreKind};
use nyx_actors::phoebe::PhoebeStore;
use serde_json::Value;

use super::check::Check;
use crate::settings::Settings;

/// Connects and counts pending migrations. A SQLite file that does not exist yet is not created.
pub(super) async fn database(settings: &Settings) -> Check {
    let url = settings.phoebe.url_in(&settings.data_dir);
    let file = url
        .expose()
        .strip_prefix("sqlite:")
        .map(|path| path.trim_start_matches("//").split('?').next().unwrap_or_default());
    if file.is_some_and(|file| file != ":memory:" && !Path::new(file).exists()) {
        return Check::ok("database", format!("{url} will be created"));
    }
    match pending(settings).await {
        Ok(0) => Check::ok("database", format!("{url} connects, its schema is up to date")),
        Ok(pending) => Check::ok(
            "database",
            format!(
                "{url} connects, {pending} migrations pending, run by `nyx migrate` or at startup"
            ),
        ),
        Err(error) => Check::error(
            "database",
            error.to_string(),
            "correct phoebe.url, and check that the database is running and accepts the user",
        ),
    }
}

async fn pending(settings: &Settings) -> Result<usize, NyxError> {
    let store = PhoebeStore::open(&settings.phoebe, &settings.data_dir).await?;
    let pending = store.pending_migrations().await;
    store.close().await;
    pending
}

/// Checks the store for dense search over memories. A Qdrant server is opened as at startup.
pub(super) async fn vector_store(settings: &Settings) -> Check {
    if settings.memory.store == StoreKind::Phoebe {
        return Check::ok("memory search", "inside the database");
    }
    match memories(settings).await {
        Ok(memories) => Check::ok(
            "memory search",
            format!(
                "collection {:?} of the Qdrant server, {memories} memories",
                settings.memory.collection
            ),
        ),
        Err(error) => Check::error(
            "memory search",
            error,
            "correct memory.url and memory.api_key, and check that the server is running",
        ),
    }
}

async fn memories(settings: &Settings) -> Result<usize, String> {
    let dimension = dimension(settings)?;
    let index =
        QdrantIndex::open(&settings.memory, dimension).await.map_err(|error| error.to_string())?;
    index.count().await.map_err(|error| error.to_string())
}

/// The dimension of the embedder's vectors, read from its config without loading it.
fn dimension(settings: &Settings) -> Result<usize, String> {
    let path = settings.embedder().map_err(|error| error.to_string())?.join("config.json");
    let config: Value = serde_json::from_slice(
        &std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?,
    )
    .map_err(|error| format!("{}: {error}", path.display()))?;
    let size = config["hidden_size"].as_u64().and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| format!("{} has no hidden_size", path.display()))
}
