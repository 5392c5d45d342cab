//! Errors of commands.

use std::path::PathBuf;

use nyx_actors::{NyxError, StartError};

use crate::models::ModelError;
use crate::settings::{Settings, SettingsError, StartupError};

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Nyx(#[from] NyxError),
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: String, reason: String },
    #[error("cannot create the data folder {path}: {source}")]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error("the HTTP server failed: {0}")]
    Server(std::io::Error),
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Eval(#[from] nyx_evals::EvalError),
    #[error("cannot write to stdout: {0}")]
    Output(#[from] std::io::Error),
    #[error("cannot read {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}, line {number}: {reason}")]
    Line { path: PathBuf, number: usize, reason: String },
    #[error("{failed} of {checked} checks failed")]
    Unwell { failed: usize, checked: usize },
}

/// Creates the data folder.
pub(super) fn make_data_dir(settings: &Settings) -> Result<(), CommandError> {
    let path = &settings.data_dir;
    std::fs::create_dir_all(path)
        .map_err(|source| CommandError::DataDir { path: path.clone(), source })
}
