//! `nyx memories`: rebuilds the search index, and imports memories from a file.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use nyx_actors::memory::messages::NewMemory;
use nyx_actors::memory::{Indexer, StoreKind};
use nyx_actors::phoebe::PhoebeStore;

use super::error::{CommandError, make_data_dir};
use super::output;
use crate::http::MemoryRequest;
use crate::settings::{Settings, StartupError};

/// Rebuild the memory index, or import memories from a file.
#[derive(Debug, Args)]
pub(super) struct Memories {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Recompute vectors and full text from the database's memories, and fill the Qdrant server's
    /// collection if one is configured
    Reindex,
    /// Import the memories of a JSON-lines file: each line as in POST /v1/memories
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

async fn open(
    settings: &Settings,
    phoebe: PhoebeStore,
    anew: bool,
) -> Result<Indexer, CommandError> {
    let embedder = settings.embedder().map_err(StartupError::from)?;
    Ok(Indexer::open(&settings.memory, &embedder, phoebe, anew).await?)
}

async fn reindex(settings: &Settings, phoebe: PhoebeStore) -> Result<(), CommandError> {
    let indexer = open(settings, phoebe, true).await?;
    let bar = bar("indexing memories");
    let indexed = indexer.fill(|done, total| show(&bar, done, total)).await;
    bar.finish_and_clear();
    Ok(output::line(&format!("{} memories reindexed in {}", indexed?, place(settings, &indexer)))?)
}

async fn import_file(
    settings: &Settings,
    phoebe: PhoebeStore,
    file: &Path,
) -> Result<(), CommandError> {
    let memories = read(file)?;
    let indexer = open(settings, phoebe, false).await?;
    let bar = bar("importing memories");
    let kept = indexer.import(memories, |done, total| show(&bar, done, total)).await;
    bar.finish_and_clear();
    Ok(output::line(&format!("kept {} memories, indexed in {}", kept?, place(settings, &indexer)))?)
}

/// Reads a file with one memory per line; empty lines are skipped.
fn read(file: &Path) -> Result<Vec<NewMemory>, CommandError> {
    let unread = |source| CommandError::File { path: file.to_owned(), source };
    let mut memories = Vec::new();
    for (number, line) in
        (1..).zip(BufReader::new(std::fs::File::open(file).map_err(unread)?).lines())
    {
        let line = line.map_err(unread)?;
        if line.trim().is_empty() {
            continue;
        }
        let parsed = MemoryRequest::parsed(line.as_bytes());
        memories.push(parsed.map_err(|reason| CommandError::Line {
            path: file.to_owned(),
            number,
            reason,
        })?);
    }
    Ok(memories)
}

/// Hidden if stderr is not a terminal.
fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(what);
    let style = ProgressStyle::with_template(
        "{msg:32} {bar:32} {pos:>10} / {len:10} {per_sec:>12} {eta:>4}",
    );
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn show(bar: &ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}

fn place(settings: &Settings, indexer: &Indexer) -> String {
    match settings.memory.store {
        StoreKind::Phoebe => format!("the database ({})", indexer.backend()),
        StoreKind::Qdrant => format!(
            "the database and collection {:?} of the Qdrant server",
            settings.memory.collection
        ),
    }
}
