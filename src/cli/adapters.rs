//! `nyx adapters list | show | import | export | promote | rollback`. Works without a server; a
//! running one picks up changes at its next poll.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use nyx_actors::NyxError;
use nyx_actors::adapters::{AdapterBase, AdapterLibrary, AdapterRecord, Generation};
use nyx_actors::phoebe::PhoebeStore;
use nyx_engine::ModelFiles;
use serde::Serialize;
use serde_json::json;

use super::error::{CommandError, make_data_dir};
use super::output;
use crate::models::ModelError;
use crate::settings::{Settings, StartupError};

/// Characters of an id in a list; commands accept any unique prefix.
const SHOWN: usize = 12;
/// Promoted without the gate; the operator is responsible.
const BY_HAND: &str = "by hand, nyx adapters";

/// List, import, export, promote and roll back the specialists' LoRA adapters.
#[derive(Debug, Args)]
pub(super) struct Adapters {
    #[command(subcommand)]
    command: Command,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all adapters
    List,
    /// Show an adapter and its specialist's generations
    Show { id: String },
    /// Store a PEFT folder as a candidate for a specialist
    Import { specialist: String, folder: PathBuf },
    /// Export an adapter as a PEFT folder
    Export { id: String, folder: PathBuf },
    /// Make an adapter its specialist's next generation, without the gate
    Promote {
        id: String,
        /// Stored with the generation
        #[arg(long)]
        reason: Option<String>,
    },
    /// Roll back to the adapter before the live one, else to the base model
    Rollback {
        specialist: String,
        /// Stored with the generation
        #[arg(long)]
        reason: Option<String>,
    },
}

impl Adapters {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        let store = PhoebeStore::connect(&settings.phoebe, &settings.data_dir).await?;
        let library = AdapterLibrary::new(store.clone(), &settings.adapters, &settings.data_dir);
        let done = self.work(&library, &settings).await;
        store.close().await;
        done
    }

    async fn work(self, library: &AdapterLibrary, settings: &Settings) -> Result<(), CommandError> {
        let json = self.json;
        match self.command {
            Command::List => {
                let adapters = library.list().await?;
                if json {
                    return print(&adapters);
                }
                for adapter in adapters {
                    output::line(&listed(&adapter))?;
                }
            }
            Command::Show { id } => {
                let adapter = library.show(&whole(library, &id).await?).await?;
                let generations = library.generations(&adapter.specialist).await?;
                if json {
                    return print(&json!({ "adapter": adapter, "generations": generations }));
                }
                let run = adapter.training_run.as_deref().unwrap_or("none");
                output::line(&format!("{}\n  {}", adapter.id, listed(&adapter)))?;
                output::line(&format!(
                    "  base {}\n  training run {run}\n  {}",
                    adapter.base_sha256,
                    library.folder(&adapter.id).display()
                ))?;
                for made in generations {
                    output::line(&described(&made))?;
                }
            }
            Command::Import { specialist, folder } => {
                known(settings, &specialist)?;
                let id = library
                    .import(&specialist, &folder, None, &base(settings)?, &BTreeSet::new())
                    .await?;
                if json {
                    return print(&json!({ "id": id }));
                }
                output::line(&id)?;
            }
            Command::Export { id, folder } => {
                let id = whole(library, &id).await?;
                library.export(&id, &folder).await?;
                if json {
                    return print(&json!({ "id": id, "folder": folder }));
                }
                output::line(&format!("{id}: in {}", folder.display()))?;
            }
            Command::Promote { id, reason } => made(
                &library.promote(&whole(library, &id).await?, &reason_or_default(reason)).await?,
                json,
            )?,
            Command::Rollback { specialist, reason } => {
                known(settings, &specialist)?;
                made(&library.rollback(&specialist, &reason_or_default(reason)).await?, json)?;
            }
        }
        Ok(())
    }
}

fn reason_or_default(reason: Option<String>) -> String {
    reason.map_or_else(|| BY_HAND.to_owned(), |reason| format!("{BY_HAND}: {reason}"))
}

fn made(generation: &Generation, json: bool) -> Result<(), CommandError> {
    if json {
        return print(generation);
    }
    Ok(output::line(&described(generation))?)
}

fn print(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| NyxError::Internal(error.to_string()))?;
    Ok(output::line(&text)?)
}

/// Resolves an id prefix to the one id that has it.
async fn whole(library: &AdapterLibrary, beginning: &str) -> Result<String, CommandError> {
    let ids: Vec<String> = library
        .list()
        .await?
        .into_iter()
        .map(|adapter| adapter.id)
        .filter(|id| id.starts_with(beginning))
        .collect();
    match ids.as_slice() {
        [id] => Ok(id.clone()),
        [] => Err(NyxError::NotFound { what: "adapter", id: beginning.to_owned() }.into()),
        several => Err(NyxError::Conflict(format!(
            "{} adapters have an id that begins with {beginning:?}: give a longer prefix",
            several.len()
        ))
        .into()),
    }
}

fn known(settings: &Settings, specialist: &str) -> Result<(), CommandError> {
    let names: Vec<String> =
        settings.specialist_policies()?.into_iter().map(|policy| policy.name).collect();
    if names.iter().any(|name| name == specialist) {
        return Ok(());
    }
    Err(NyxError::UnknownSpecialist { name: specialist.to_owned(), known: names.join(", ") }.into())
}

/// The settings' base model, whose shapes and digest an adapter is checked against.
pub(super) fn base(settings: &Settings) -> Result<AdapterBase, CommandError> {
    let path = settings
        .models()?
        .find(&settings.models.base.parse().map_err(ModelError::from)?)
        .map_err(StartupError::from)?;
    let files = ModelFiles::open(&path).map_err(NyxError::Engine)?;
    Ok(AdapterBase { sha256: files.info().sha256.clone(), config: files.config().clone() })
}

fn listed(adapter: &AdapterRecord) -> String {
    let AdapterRecord { id, specialist, status, generation, bytes, created_at, .. } = adapter;
    let short: String = id.chars().take(SHOWN).collect();
    let generation =
        if *generation == 0 { String::new() } else { format!(" (generation {generation})") };
    let (status, kept) = (status.as_str(), created_at.format("%Y-%m-%d %H:%M"));
    format!(
        "{short}  {specialist}: {status}{generation}, {:.1} MB, kept {kept}",
        *bytes as f64 / 1e6
    )
}

fn described(made: &Generation) -> String {
    let who = made.adapter.as_deref().map_or("the base", |id| id.get(..SHOWN).unwrap_or(id));
    let (at, kind) = (made.at.format("%Y-%m-%d %H:%M:%S"), made.kind.as_str().replace('_', " "));
    format!(
        "{} generation {}: {who}, {kind} at {at} ({})",
        made.specialist, made.generation, made.reason
    )
}
