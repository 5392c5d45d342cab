//! `nyx migrate`: phoebe's schema, brought up to date.

use clap::Args;
use nyx_actors::phoebe::{PhoebeStore, redacted};

use super::{CommandError, output};
use crate::settings::{Flag, Settings};

/// Bring the database's schema up to date.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The database: postgres://USER:PASSWORD@HOST/DATABASE or sqlite://PATH [default: phoebe.url of the settings]
    #[arg(long)]
    url: Option<String>,
}

impl Migrate {
    pub(super) fn settings(&self) -> Vec<Flag> {
        self.url.iter().map(|url| Flag { key: "phoebe.url", flag: "--url", value: url.clone() }).collect()
    }
}

pub(super) async fn migrate(settings: Settings) -> Result<(), CommandError> {
    std::fs::create_dir_all(&settings.data_dir).map_err(|source| CommandError::DataDir { path: settings.data_dir.clone(), source })?;
    let store = PhoebeStore::open(&settings.phoebe, &settings.data_dir).await?;
    let pending = store.pending_migrations().await?;
    store.migrate().await?;
    store.close().await;
    let database = redacted(&settings.phoebe.url_in(&settings.data_dir));
    Ok(match pending {
        0 => output::line(&format!("{database}: the schema is up to date"))?,
        pending => output::line(&format!("{database}: applied {pending} migrations"))?,
    })
}
