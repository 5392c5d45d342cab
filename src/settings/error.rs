//! Errors of settings.

use std::path::PathBuf;

use nyx_specialists::SpecialistError;

/// A settings error: the key, the value, its origin and what is expected.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("no config file at {path} (named by {named_by})")]
    NoFile { path: PathBuf, named_by: &'static str },
    #[error("cannot read {path}: {reason}")]
    Unreadable { path: PathBuf, reason: String },
    #[error("{origin}: {reason}")]
    Syntax { origin: String, reason: String },
    #[error("unknown key {key:?} ({origin}): expected {expected}")]
    UnknownKey { key: String, origin: String, expected: String },
    #[error("{key} is {value} ({origin}), expected {expected}")]
    Invalid { key: String, value: String, origin: String, expected: String },
    #[error("the environment variable {0} is not valid Unicode")]
    NotUnicode(String),
    #[error("no folder of specialists at {0} (specialists.dir): create it, or remove the key")]
    NoSpecialists(PathBuf),
    #[error(transparent)]
    Specialist(#[from] SpecialistError),
}
