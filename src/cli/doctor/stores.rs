//! What Nyx remembers in: phoebe and the vector store.

use std::path::Path;

use nyx_actors::phoebe::{PhoebeStore, redacted};
use nyx_actors::{NyxError, memory};

use super::Check;
use crate::settings::Settings;

/// Connects, and looks which migrations are still to be run. A SQLite file that is not there yet is not made.
pub(super) async fn database(settings: &Settings) -> Check {
    let url = settings.phoebe.url_in(&settings.data_dir);
    let file = url.strip_prefix("sqlite:").map(|path| path.trim_start_matches("//").split('?').next().unwrap_or_default());
    if let Some(file) = file.filter(|file| *file != ":memory:" && !Path::new(file).exists()) {
        return Check::ok("database", format!("{file} will be made"));
    }
    let shown = redacted(&url);
    match pending(settings).await {
        Ok(0) => Check::ok("database", format!("{shown} connects, its schema is up to date")),
        Ok(pending) => Check::ok("database", format!("{shown} connects, {pending} migrations are run by `nyx migrate` or at the start")),
        Err(error) => Check::error("database", error.to_string(), "correct phoebe.url, and see that the database is up and lets you in"),
    }
}

async fn pending(settings: &Settings) -> Result<usize, NyxError> {
    let store = PhoebeStore::open(&settings.phoebe, &settings.data_dir).await?;
    let pending = store.pending_migrations().await;
    store.close().await;
    pending
}

/// Opened or reached, and left as it is.
pub(super) async fn vector_store(settings: &Settings) -> Check {
    match memory::probe(&settings.memory, &settings.data_dir).await {
        Ok(found) => Check::ok("vector store", found),
        Err(error) => {
            Check::error("vector store", error.to_string(), "stop a Nyx that is running on the same data folder, or correct [memory]")
        }
    }
}
