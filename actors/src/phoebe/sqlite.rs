//! What SQLite's own interface tells of a connection, and the file that a store was opened on.
#![allow(
    unsafe_code,
    reason = "whether a connection is in a transaction, and whether its files were moved, only SQLite's C interface tells"
)]

use std::ffi::{c_int, c_void};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libsqlite3_sys as ffi;
use sea_orm::DbErr;
use sea_orm::sqlx::{self, SqliteConnection};

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Outside any transaction: what it wrote is committed.
    pub autocommit: bool,
    /// Its database or its log is no longer the file of that name.
    pub moved: bool,
}

pub(super) async fn standing(connection: &mut SqliteConnection) -> Result<Standing, sqlx::Error> {
    let mut locked = connection.lock_handle().await?;
    let handle = locked.as_raw_handle().as_ptr();
    // SAFETY: the handle is that of an open connection, and the lock keeps the driver's thread from using it meanwhile
    let autocommit = unsafe { ffi::sqlite3_get_autocommit(handle) } != 0;
    // SAFETY: as above
    let moved = unsafe { main_moved(handle) || log_moved(handle) };
    Ok(Standing { autocommit, moved })
}

/// # Safety
/// The handle is open, and nobody else uses it meanwhile.
unsafe fn main_moved(handle: *mut ffi::sqlite3) -> bool {
    let mut moved: c_int = 0;
    // SAFETY: HAS_MOVED writes one int; a file of a database in memory does not know the operation and leaves it
    unsafe { ffi::sqlite3_file_control(handle, c"main".as_ptr(), ffi::SQLITE_FCNTL_HAS_MOVED, (&raw mut moved).cast::<c_void>()) };
    moved != 0
}

/// # Safety
/// As [`main_moved`].
unsafe fn log_moved(handle: *mut ffi::sqlite3) -> bool {
    let mut moved: c_int = 0;
    let mut log: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: JOURNAL_POINTER writes a pointer to the log's file, which lives as long as the connection; without methods it is not open
    unsafe {
        ffi::sqlite3_file_control(handle, c"main".as_ptr(), ffi::SQLITE_FCNTL_JOURNAL_POINTER, (&raw mut log).cast::<c_void>());
        if log.is_null() || (*log).pMethods.is_null() {
            return false;
        }
        if let Some(control) = (*(*log).pMethods).xFileControl {
            control(log, ffi::SQLITE_FCNTL_HAS_MOVED, (&raw mut moved).cast::<c_void>());
        }
    }
    moved != 0
}

/// The file that a store was opened on: what is written into another of its name, or into one without a name, would be lost.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Device and inode, from the first connection on.
    identity: OnceLock<(u64, u64)>,
}

impl DatabaseFile {
    pub(super) fn at(path: &Path) -> Self {
        Self { path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), identity: OnceLock::new() }
    }

    /// # Errors
    /// Another file has its name, or none.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        match self.lost() {
            None => Ok(()),
            Some(what) => Err(DbErr::Custom(format!(
                "the database file {} {what} since Nyx opened it: what is written now would be lost; put the file back, or restart Nyx",
                self.path.display()
            ))),
        }
    }

    fn lost(&self) -> Option<String> {
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) => return Some(format!("was removed ({error})")),
        };
        let now = (metadata.dev(), metadata.ino());
        (*self.identity.get_or_init(|| now) != now).then(|| "was replaced by another one".to_owned())
    }

    /// Whether a connection is one to this file and outside any transaction.
    pub(super) async fn admits(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let Standing { autocommit, moved } = standing(connection).await?;
        if moved {
            tracing::error!(file = %self.path.display(), "the database file or its log (-wal) was removed or replaced");
        }
        Ok(autocommit && !moved && self.lost().is_none())
    }
}
