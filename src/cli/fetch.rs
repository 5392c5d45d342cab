//! `nyx fetch`: downloads the models.

use super::error::CommandError;
use super::output;
use crate::models::{Fetched, ModelSource, Progress};
use crate::settings::Settings;

pub(super) fn fetch(settings: &Settings) -> Result<(), CommandError> {
    let store = settings.models()?;
    let models = &settings.models;
    for (source, sha256) in
        [(&models.base, &models.base_sha256), (&models.embedder, &models.embedder_sha256)]
    {
        let source: ModelSource = source.parse().map_err(crate::models::ModelError::from)?;
        let (path, what) = match store.fetch(&source, sha256.as_deref(), Progress::stderr())? {
            Fetched::Present(path) => (path, "already there"),
            Fetched::Downloaded(path) => (path, "downloaded"),
            Fetched::Replaced(path, _) => (path, "replaced"),
        };
        output::line(&format!("{source}: {what}, at {}", path.display()))?;
    }
    Ok(())
}
