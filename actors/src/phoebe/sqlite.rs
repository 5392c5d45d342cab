//! Connection state read through SQLite's C API, and the identity of a store's database file.
#![allow(
    unsafe_code,
    reason = "whether a connection is in a transaction, and whether its file was moved, is available only from SQLite's C interface"
)]

use std::ffi::{c_int, c_void};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use libsqlite3_sys as ffi;
use sea_orm::DbErr;
use sea_orm::sqlx::{self, Executor, SqliteConnection};

/// The state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    /// No transaction is open: everything written is committed.
    pub autocommit: bool,
    /// The open database file no longer exists under its name.
    pub moved: bool,
}

pub(super) async fn standing(connection: &mut SqliteConnection) -> Result<FileState, sqlx::Error> {
    let mut locked = connection.lock_handle().await?;
    let handle = locked.as_raw_handle().as_ptr();
    let mut moved: c_int = 0;
    // SAFETY: the handle belongs to an open connection, and the lock keeps the driver's thread from
    // using it meanwhile. HAS_MOVED writes one int; the file of an in-memory database does not
    // support the operation and leaves the int unchanged.
    let autocommit = unsafe {
        ffi::sqlite3_file_control(
            handle,
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_HAS_MOVED,
            (&raw mut moved).cast::<c_void>(),
        );
        ffi::sqlite3_get_autocommit(handle)
    };
    Ok(FileState { autocommit: autocommit != 0, moved: moved != 0 })
}

/// The file that a store was opened on. Writes to another file of that name, or to a file that was
/// unlinked, would be lost.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Device and inode, set by the first check.
    identity: OnceLock<(u64, u64)>,
    /// Device and inode of the write connection's log (`-wal`); SQLite keeps the log as long as the
    /// connection is open.
    log: Mutex<Option<(u64, u64)>>,
    /// The log disappeared while its connection was open. Permanent: the shared-memory index
    /// (`-shm`) still refers to the lost log.
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
    /// The file was removed or replaced, or its log was lost.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        let path = self.path.display();
        let lost = match identity(&self.path) {
            Err(error) => format!(
                "the database file {path} was removed ({error}) since Nyx opened it: restore it, or restart Nyx"
            ),
            Ok(found) if *self.identity.get_or_init(|| found) != found => {
                format!(
                    "the database file {path} was replaced by another one since Nyx opened it: restore it, or restart Nyx"
                )
            }
            Ok(_) if self.log_lost.load(Ordering::SeqCst) => {
                format!(
                    "the log {} was removed or replaced since Nyx opened it: restart Nyx",
                    self.log_path().display()
                )
            }
            Ok(_) => return Ok(()),
        };
        Err(DbErr::Custom(format!("{lost}; new writes would be lost")))
    }

    /// The same check for the holder of the write connection, whose log must exist.
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

    /// Registers a newly opened connection as the write connection; false if it must not be used.
    pub(super) async fn opened(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<bool, sqlx::Error> {
        // the identity of an earlier connection's log, which SQLite may have removed with the
        // connection
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if !self.admits(connection).await? {
            return Ok(false);
        }
        // a read makes SQLite open the log
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").await?;
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = identity(&self.log_path()).ok();
        Ok(true)
    }

    /// Whether a connection is open on this file and outside any transaction.
    pub(super) async fn admits(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<bool, sqlx::Error> {
        let FileState { autocommit, moved } = standing(connection).await?;
        let checked = self.check_with_log();
        if let Err(error) = &checked {
            tracing::error!(%error, "writes to the database are refused");
        }
        Ok(autocommit && !moved && checked.is_ok())
    }
}

/// Device and inode.
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}
