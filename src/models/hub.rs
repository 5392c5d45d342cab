//! Models of the Hugging Face hub. The token is `HF_TOKEN`'s, the hub `HF_ENDPOINT`'s.

use std::error::Error;
use std::path::Path;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClient, HFClientSync, HFError};
use indicatif::ProgressBar;
use nyx_actors::secret::redacted;

use super::files::{Selection, select};
use super::{ModelError, Progress};

/// How often a request is tried before the hub counts as unreachable.
const ATTEMPTS: usize = 3;

/// One repository at one revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repository<'a> {
    pub(super) owner: &'a str,
    pub(super) name: &'a str,
    pub(super) revision: Option<&'a str>,
    /// The one GGUF file to take.
    pub(super) file: Option<&'a str>,
}

/// Downloads the model's files into `into`; `scratch` is an empty folder. `endpoint` overrides `HF_ENDPOINT`.
pub(super) fn fetch(
    repository: Repository<'_>,
    endpoint: Option<&str>,
    scratch: &Path,
    into: &Path,
    progress: Progress,
) -> Result<(), ModelError> {
    let failed = |error: HFError| describe(repository, endpoint, &error);
    let mut client = HFClient::builder().retry_max_attempts(ATTEMPTS);
    if let Some(endpoint) = endpoint {
        client = client.endpoint(endpoint);
    }
    let client = HFClientSync::from_inner(client.build().map_err(failed)?).map_err(failed)?;
    let model = client.model(repository.owner, repository.name);
    let revision = repository.revision.map(str::to_owned);
    let info = model.info().maybe_revision(revision.clone()).send().map_err(failed)?;
    let listing: Vec<String> = info.siblings.unwrap_or_default().into_iter().map(|file| file.rfilename).collect();
    let no_model = |reason| ModelError::NoModelInside { package: name(repository), reason };
    let Selection { folder, files } = select(&listing, repository.file).map_err(no_model)?;
    // the listing's own commit, so that a push in between does not mix two revisions
    let revision = info.sha.or(revision);
    for file in files {
        let inside = file.strip_prefix(&folder).unwrap_or(&file);
        let bar = progress.bar(inside, 0);
        let download = model.download_file().filename(file.clone()).local_dir(scratch).maybe_revision(revision.clone());
        let path = download.progress(Bar(bar.clone())).send().map_err(failed)?;
        bar.finish();
        let target = into.join(inside);
        std::fs::rename(&path, &target).map_err(|error| ModelError::io(target, &error))?;
    }
    Ok(())
}

struct Bar(ProgressBar);

impl ProgressHandler for Bar {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(DownloadEvent::Start { total_bytes, .. }) => self.0.set_length(*total_bytes),
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, .. }) => self.0.set_position(*bytes_completed),
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                files.iter().for_each(|file| self.0.set_position(file.bytes_completed));
            }
            _ => {}
        }
    }
}

fn name(repository: Repository<'_>) -> String {
    format!("hf:{}/{}", repository.owner, repository.name)
}

fn describe(repository: Repository<'_>, endpoint: Option<&str>, error: &HFError) -> ModelError {
    match error {
        HFError::Request { source, .. } if !source.is_decode() => {
            let endpoint = endpoint.map(str::to_owned).or_else(|| std::env::var("HF_ENDPOINT").ok());
            let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".into());
            // a mirror's address may hold a password
            ModelError::HubUnreachable { endpoint: redacted(&endpoint), reason: root(source) }
        }
        HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
            ModelError::HubRefused { repository: name(repository), reason: one_line(&error.to_string()) }
        }
        HFError::RepoNotFound { .. } => ModelError::NotOnHub { what: format!("repository {}/{}", repository.owner, repository.name) },
        HFError::RevisionNotFound { revision, .. } => ModelError::NotOnHub { what: format!("revision {revision} of {}", name(repository)) },
        HFError::EntryNotFound { path, .. } => ModelError::NotOnHub { what: format!("file {path} in {}", name(repository)) },
        other => ModelError::Hub { repository: name(repository), reason: one_line(&other.to_string()) },
    }
}

/// The innermost cause: what the outer ones wrap says little.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    one_line(&cause.to_string())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
