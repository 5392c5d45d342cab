//! Settings in layers: embedded defaults, the config file, the environment, flags. The later wins; an unknown key is refused in each.
//!
//! The embedded layer is `config/default.toml`, which names every key, so that the binary runs from any folder.

mod error;
mod layers;
mod sections;
mod specialists;
#[cfg(test)]
mod tests;
mod validate;

use std::path::{Path, PathBuf};

use nyx_actors::NyxOptions;
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::safety::SafetyPolicy;

use crate::models::{ModelError, ModelStore};

pub use error::SettingsError;
pub use layers::{DEFAULTS, Flag, Inputs};
pub use sections::{LogFormat, ModelSettings, SafetySettings, Settings, SpecialistOptions, SpecialistSettings, TelemetrySettings};

impl Settings {
    /// Reads every layer and checks the result.
    ///
    /// # Errors
    /// [`SettingsError`], naming the key, the value, where it came from and what would be right.
    pub fn load(inputs: &Inputs) -> Result<Self, SettingsError> {
        let (settings, origins) = layers::read(inputs)?;
        validate::check(&settings, &origins)?;
        Ok(settings)
    }

    /// The folder of model files.
    ///
    /// # Errors
    /// When it is not set and there is no home directory to put it in.
    pub fn models(&self) -> Result<ModelStore, ModelError> {
        ModelStore::new(self.models.dir.clone())
    }

    /// The embedder's folder.
    ///
    /// # Errors
    /// When it has not been fetched.
    pub fn embedder(&self) -> Result<PathBuf, ModelError> {
        self.models()?.find(&self.models.embedder.parse()?)
    }

    /// What Nyx starts from: models found on disk, the shipped specialists and those in the specialists' folder.
    ///
    /// # Errors
    /// When a model has not been fetched or a specialist's file is wrong.
    pub fn nyx_options(&self) -> Result<NyxOptions, StartupError> {
        Ok(NyxOptions {
            base_model: self.models()?.find(&self.models.base.parse().map_err(ModelError::from)?)?,
            embedder: self.embedder()?,
            data_dir: self.data_dir.clone(),
            pool: self.pool.clone(),
            routing: self.routing.clone(),
            requests: self.requests.clone(),
            rewards: self.rewards,
            phoebe: self.phoebe.clone(),
            memory: self.memory.clone(),
            adapters: self.adapters.clone(),
            training: self.training.clone(),
            facts: self.specialist.aletheia.clone(),
            specialists: self.specialist_policies()?,
            safety: self.safety_policy()?,
            confidence: self.confidence,
        })
    }

    /// The shipped specialists and those of the specialists' folder.
    ///
    /// # Errors
    /// When a file cannot be read or is wrong; it is named.
    pub fn specialist_policies(&self) -> Result<Vec<SpecialistPolicy>, SettingsError> {
        specialists::load(self.specialists.dir.as_deref(), &self.data_dir)
    }

    /// What questions and answers are screened for.
    ///
    /// # Errors
    /// When the policy's file cannot be read or is wrong; it is named.
    pub fn safety_policy(&self) -> Result<SafetyPolicy, SettingsError> {
        safety_policy(self.safety.policy.as_deref(), &self.data_dir)
    }
}

/// Reads the policy that `safety.policy` names, else `DATA_DIR/safety.toml` where there is one, else the shipped one.
fn safety_policy(named: Option<&Path>, data_dir: &Path) -> Result<SafetyPolicy, SettingsError> {
    let usual = data_dir.join("safety.toml");
    let path = match named {
        Some(path) => path,
        None if usual.is_file() => &usual,
        None => return Ok(SafetyPolicy::shipped()?),
    };
    let text =
        std::fs::read_to_string(path).map_err(|error| SettingsError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
    Ok(SafetyPolicy::parse(&path.display().to_string(), &text)?)
}

/// Why the settings do not lead to a start.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
}
