//! Adapters on disk: one PEFT folder per id, created by an atomic rename.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nyx_engine::EngineError;
use nyx_engine::lora::{CONFIG_FILE, WEIGHTS_FILE, adapter_id};
use uuid::Uuid;

use crate::NyxError;

const FILES: [&str; 2] = [CONFIG_FILE, WEIGHTS_FILE];

/// The folder of all adapters.
#[derive(Debug, Clone)]
pub struct AdapterFiles {
    dir: PathBuf,
}

/// The state of an adapter's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    Good,
    /// They do not exist.
    Missing {
        folder: PathBuf,
    },
    /// They differ from the id.
    Changed {
        folder: PathBuf,
        reason: String,
    },
}

impl AdapterFiles {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The folder of the adapter with this id.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// Bytes of both files; `None` where they do not exist.
    pub fn bytes(&self, id: &str) -> Option<u64> {
        bytes_of(&self.folder(id)).ok()
    }

    /// Checks the files against the id. Reads all of them.
    pub fn check(&self, id: &str, base_sha256: &str) -> Checked {
        let folder = self.folder(id);
        match adapter_id(&folder, base_sha256) {
            Ok(found) if found == id => Checked::Good,
            Ok(found) => Checked::Changed {
                folder,
                reason: format!("its files have the id {found}, expected {id}"),
            },
            Err(EngineError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Checked::Missing { folder }
            }
            Err(error) => Checked::Changed { folder, reason: error.to_string() },
        }
    }

    /// Copies a PEFT folder in under its id, byte for byte; replaces files under that id that
    /// differ.
    ///
    /// # Errors
    /// Names the file that cannot be read or written.
    pub fn add(&self, from: &Path, id: &str, base_sha256: &str) -> Result<(), NyxError> {
        if self.check(id, base_sha256) == Checked::Good {
            return Ok(());
        }
        let (to, staged) = (self.folder(id), self.dir.join(format!(".new-{}", Uuid::now_v7())));
        at(&staged, fs::create_dir_all(&staged))?;
        let copied = copy(from, &staged).and_then(|()| {
            // the source may have changed during the copy
            let found = adapter_id(&staged, base_sha256)?;
            if found != id {
                return Err(NyxError::Conflict(format!(
                    "{} changed while it was copied: try again",
                    from.display()
                )));
            }
            remove_folder(&to)?;
            at(&to, fs::rename(&staged, &to))?;
            at(&self.dir, File::open(&self.dir).and_then(|dir| dir.sync_all()))
        });
        if copied.is_err() {
            // no partial copy is left behind; the error is that of the copy
            let _ = fs::remove_dir_all(&staged);
        }
        copied
    }

    /// Exports an adapter as a PEFT folder, byte for byte.
    ///
    /// # Errors
    /// The folder holds an adapter already, or a file cannot be read or written.
    pub fn export(&self, id: &str, to: &Path) -> Result<(), NyxError> {
        if let Some(taken) = FILES.iter().map(|name| to.join(name)).find(|path| path.exists()) {
            return Err(NyxError::Conflict(format!(
                "{} is there already: export into a folder without an adapter",
                taken.display()
            )));
        }
        at(to, fs::create_dir_all(to))?;
        copy(&self.folder(id), to)
    }

    /// Removes an adapter's files.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(&self, id: &str) -> Result<(), NyxError> {
        remove_folder(&self.folder(id))
    }
}

/// Bytes of a PEFT folder's files.
pub(super) fn bytes_of(folder: &Path) -> Result<u64, NyxError> {
    FILES
        .iter()
        .map(|name| folder.join(name))
        .map(|path| at(&path, fs::metadata(&path)).map(|found| found.len()))
        .sum()
}

fn copy(from: &Path, to: &Path) -> Result<(), NyxError> {
    for name in FILES {
        let (source, target) = (from.join(name), to.join(name));
        at(&source, fs::copy(&source, &target))?;
        // what a rename makes visible is synced to disk
        at(&target, File::open(&target).and_then(|file| file.sync_all()))?;
    }
    at(to, File::open(to).and_then(|folder| folder.sync_all()))
}

fn remove_folder(folder: &Path) -> Result<(), NyxError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => at(folder, Err(error)),
        _ => Ok(()),
    }
}

fn at<T>(path: &Path, outcome: io::Result<T>) -> Result<T, NyxError> {
    outcome.map_err(|source| NyxError::Engine(EngineError::Io { path: path.to_owned(), source }))
}
