//! What Nyx remembers in: phoebe and the vector store.

use nyx_actors::phoebe;

use super::Check;
use crate::settings::Settings;

/// Connects, and looks which migrations are still to be run.
pub(super) async fn database(settings: &Settings) -> Check {
    match phoebe::pending_migrations(&settings.phoebe, &settings.data_dir).await {
        Ok(pending) if pending.is_empty() => Check::ok("database", "connects, schema up to date"),
        Ok(pending) => Check::ok("database", format!("connects, {} migrations to be run at the start", pending.len())),
        Err(error) => Check::error("database", error.to_string(), "correct phoebe.url, and see that the database is up and lets you in"),
    }
}

pub(super) async fn vector_store(_settings: &Settings) -> Check {
    todo!()
}
