//! `nyx memories`: the index made anew from phoebe, and memories from a file.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use nyx_actors::NyxError;
use nyx_actors::memory::messages::NewMemory;
use nyx_actors::memory::{Indexer, StoreKind, import};
use nyx_actors::phoebe::PhoebeStore;

use super::{CommandError, make_data_dir, output};
use crate::http::MemoryRequest;
use crate::settings::{Settings, StartupError};

/// Make the index of memories anew, or keep those of a file.
#[derive(Debug, Args)]
pub(super) struct Memories {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Build the vector index again from the database
    Reindex,
    /// Keep the memories of a JSON-lines file: each line as POST /v1/memories takes it
    Import { file: PathBuf },
}

impl Memories {
    pub(super) async fn run(self, settings: Settings) -> Result<(), CommandError> {
        make_data_dir(&settings)?;
        let phoebe = PhoebeStore::connect(&settings.phoebe, &settings.data_dir).await?;
        let done = match self.what {
            What::Reindex => reindex(&settings, phoebe.clone()).await,
            What::Import { file } => import_file(&settings, phoebe.clone(), &file).await,
        };
        phoebe.close().await;
        done
    }
}

async fn open(settings: &Settings, phoebe: PhoebeStore, anew: bool) -> Result<Indexer, CommandError> {
    let embedder = settings.embedder().map_err(StartupError::from)?;
    Ok(Indexer::open(&settings.memory, &settings.data_dir, &embedder, phoebe, anew).await?)
}

async fn reindex(settings: &Settings, phoebe: PhoebeStore) -> Result<(), CommandError> {
    let indexed = fill(&open(settings, phoebe, true).await?, false).await?;
    Ok(output::line(&format!("{indexed} memories are in {}, built anew", place(settings)))?)
}

async fn import_file(settings: &Settings, phoebe: PhoebeStore, file: &Path) -> Result<(), CommandError> {
    let kept = import(&phoebe, read(file)?).await?;
    let index = match open(settings, phoebe, false).await {
        Ok(indexer) => format!("{} are new in {}", fill(&indexer, true).await?, place(settings)),
        // the one that has it open looks every half minute
        Err(CommandError::Nyx(NyxError::VectorStoreBusy { .. })) => "the running Nyx indexes them within a minute".to_owned(),
        Err(error) => return Err(error),
    };
    Ok(output::line(&format!("kept {kept} memories; {index}"))?)
}

/// The memories of a file, a line each; empty lines are passed over.
fn read(file: &Path) -> Result<Vec<NewMemory>, CommandError> {
    let unread = |source| CommandError::File { path: file.to_owned(), source };
    let mut memories = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(std::fs::File::open(file).map_err(unread)?).lines()) {
        let line = line.map_err(unread)?;
        if line.trim().is_empty() {
            continue;
        }
        let told = MemoryRequest::parsed(line.as_bytes());
        memories.push(told.map_err(|reason| CommandError::Line { path: file.to_owned(), number, reason })?);
    }
    Ok(memories)
}

async fn fill(indexer: &Indexer, unindexed_only: bool) -> Result<u64, NyxError> {
    // hidden where stderr is no terminal
    let bar = ProgressBar::new(0).with_message("indexing memories");
    let style = ProgressStyle::with_template("{msg:32} {bar:32} {pos:>10} / {len:10} {per_sec:>12} {eta:>4}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let filled = indexer.fill(unindexed_only, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    let filled = filled.await;
    bar.finish_and_clear();
    filled
}

fn place(settings: &Settings) -> String {
    match settings.memory.store {
        StoreKind::Edge => settings.memory.folder_in(&settings.data_dir).display().to_string(),
        StoreKind::Qdrant => format!("collection {:?} at {}", settings.memory.collection, settings.memory.url.clone().unwrap_or_default()),
    }
}
