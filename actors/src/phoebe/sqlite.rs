//! What SQLite's own interface tells of a connection, and the file that a store was opened on.
#![allow(unsafe_code, reason = "whether a connection is in a transaction, and whether its file was moved, only SQLite's C interface tells")]

use std::ffi::{c_int, c_void};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use libsqlite3_sys as ffi;
use sea_orm::DbErr;
use sea_orm::sqlx::{self, Executor, SqliteConnection};

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    /// Outside any transaction: what it wrote is committed.
    pub autocommit: bool,
    /// Its database is no longer the file of that name.
    pub moved: bool,
}

pub(super) async fn standing(connection: &mut SqliteConnection) -> Result<FileState, sqlx::Error> {
    let mut locked = connection.lock_handle().await?;
    let handle = locked.as_raw_handle().as_ptr();
    let mut moved: c_int = 0;
    // SAFETY: the handle is that of an open connection, and the lock keeps the driver's thread from using it meanwhile. HAS_MOVED writes one int;
    // a file of a database in memory does not know the operation and leaves it.
    let autocommit = unsafe {
        ffi::sqlite3_file_control(handle, c"main".as_ptr(), ffi::SQLITE_FCNTL_HAS_MOVED, (&raw mut moved).cast::<c_void>());
        ffi::sqlite3_get_autocommit(handle)
    };
    Ok(FileState { autocommit: autocommit != 0, moved: moved != 0 })
}

/// The file that a store was opened on: what is written into another of its name, or into one without a name, would be lost.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Device and inode, from the first connection on.
    identity: OnceLock<(u64, u64)>,
    /// The same of the log (`-wal`) of the connection that writes: SQLite keeps it as long as the connection is open.
    log: Mutex<Option<(u64, u64)>>,
    /// The log went away under its connection. For good: the index beside it still tells of what was in it.
    log_lost: AtomicBool,
}

impl DatabaseFile {
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            identity: OnceLock::new(),
            log: Mutex::default(),
            log_lost: AtomicBool::new(false),
        }
    }

    /// # Errors
    /// Another file has its name, or none; or its log was found gone.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        let path = self.path.display();
        let lost = match identity(&self.path) {
            Err(error) => format!("the database file {path} was removed ({error}) since Nyx opened it: put it back, or restart Nyx"),
            Ok(found) if *self.identity.get_or_init(|| found) != found => {
                format!("the database file {path} was replaced by another one since Nyx opened it: put it back, or restart Nyx")
            }
            Ok(_) if self.log_lost.load(Ordering::SeqCst) => {
                format!("the log {} was removed or replaced since Nyx opened it: restart Nyx", self.log_path().display())
            }
            Ok(_) => return Ok(()),
        };
        Err(DbErr::Custom(format!("{lost}; what is written now would be lost")))
    }

    /// The same, for who has the connection that writes: its log cannot be gone by right.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(super) fn check_with_log(&self) -> Result<(), DbErr> {
        self.check()?;
        let log = *self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.is_some_and(|log| identity(&self.log_path()).ok() != Some(log)) {
            self.log_lost.store(true, Ordering::SeqCst);
        }
        self.check()
    }

    fn log_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push("-wal");
        path.into()
    }

    /// Takes a connection that was opened just now for the one that writes.
    pub(super) async fn opened(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        // of an earlier connection, with which SQLite may have removed it
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if !self.admits(connection).await? {
            return Ok(false);
        }
        // whoever reads opens the log
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").await?;
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = identity(&self.log_path()).ok();
        Ok(true)
    }

    /// Whether a connection is one to this file and outside any transaction.
    pub(super) async fn admits(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let FileState { autocommit, moved } = standing(connection).await?;
        let checked = self.check_with_log();
        if let Err(error) = &checked {
            tracing::error!(%error, "the database is written no more");
        }
        Ok(autocommit && !moved && checked.is_ok())
    }
}

/// Device and inode.
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}
