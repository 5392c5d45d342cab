//! `nyx migrate`: applies pending migrations to phoebe's schema.

use clap::Args;
use nyx_actors::phoebe::PhoebeStore;

use super::error::{CommandError, make_data_dir};
use super::output;
use crate::settings::{Flag, Settings};

/// Apply pending database migrations.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The database: postgres://USER:PASSWORD@HOST/DATABASE or sqlite://PATH [default: phoebe.url
    /// of the settings]
    #[arg(long)]
    url: Option<String>,
}

impl Migrate {
    pub(super) fn settings(&self) -> Vec<Flag> {
        self.url
            .iter()
            .map(|url| Flag { key: "phoebe.url", flag: "--url", value: url.clone() })
            .collect()
    }
}

pub(super) async fn migrate(settings: Settings) -> Result<(), CommandError> {
    make_data_dir(&settings)?;
    let store = PhoebeStore::open(&settings.phoebe, &settings.data_dir).await?;
    let pending = store.pending_migrations().await?;
    store.migrate().await?;
    store.close().await;
    let database = settings.phoebe.url_in(&settings.data_dir);
    let done = if pending == 0 {
        "the schema is up to date".into()
    } else {
        format!("applied {pending} migrations")
    };
    Ok(output::line(&format!("{database}: {done}"))?)
}
