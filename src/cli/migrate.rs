//! `nyx migrate`: phoebe's schema, brought up to date.

use clap::Args;
use nyx_actors::phoebe;

use super::{CommandError, output};
use crate::settings::{Flag, Settings};

/// Bring the database's schema up to date.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// The database: postgres://USER@HOST/NAME or sqlite:PATH [default: phoebe.url of the settings]
    #[arg(long)]
    url: Option<String>,
}

impl Migrate {
    pub(super) fn settings(&self) -> Vec<Flag> {
        self.url.iter().map(|url| Flag { key: "phoebe.url", flag: "--url", value: url.clone() }).collect()
    }
}

pub(super) async fn migrate(settings: Settings) -> Result<(), CommandError> {
    let applied = phoebe::migrate(&settings.phoebe, &settings.data_dir).await?;
    if applied.is_empty() {
        return Ok(output::line("the schema is up to date")?);
    }
    for name in applied {
        output::line(&format!("applied {name}"))?;
    }
    Ok(())
}
