//! Settings in layers: embedded defaults, the config file, the environment, flags. Later layers
//! override earlier ones; an unknown key is rejected in each.
//!
//! The embedded layer is `config/default.toml`, which has every key, so that the binary runs in any
//! folder.

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
pub use sections::{
    LogFormat, ModelSettings, SafetySettings, Settings, SpecialistSettings, TelemetrySettings,
};

impl Settings {
    /// Reads every layer and checks the result.
    ///
    /// # Errors
    /// [`SettingsError`] with the key, the value, its origin and what is expected.
    pub fn load(inputs: &Inputs) -> Result<Self, SettingsError> {
        let (settings, origins) = layers::read(inputs)?;
        validate::check(&settings, &origins)?;
        Ok(settings)
    }

    /// The folder of model files.
    ///
    /// # Errors
    /// When it is not set and there is no home directory.
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

    /// The options for starting Nyx: model paths, the built-in specialists and those of the
    /// specialists' folder.
    ///
    /// # Errors
    /// When a model has not been fetched or a specialist's file is invalid.
    pub fn nyx_options(&self) -> Result<NyxOptions, StartupError> {
        Ok(NyxOptions {
            base_model: self
                .models()?
                .find(&self.models.base.parse().map_err(ModelError::from)?)?,
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
            facts: self.tables.clone(),
            specialists: self.specialist_policies()?,
            safety: self.safety_policy()?,
            confidence: self.confidence,
        })
    }

    /// The built-in specialists and those of the specialists' folder.
    ///
    /// # Errors
    /// When a file cannot be read or is invalid; the error names it.
    pub fn specialist_policies(&self) -> Result<Vec<SpecialistPolicy>, SettingsError> {
        specialists::load(self.specialists.dir.as_deref(), &self.data_dir)
    }

    /// The policy for screening questions and answers.
    ///
    /// # Errors
    /// When the policy's file cannot be read or is invalid; the error names it.
    pub fn safety_policy(&self) -> Result<SafetyPolicy, SettingsError> {
        safety_policy(self.safety.policy.as_deref(), &self.data_dir)
    }
}

/// Reads the policy of `safety.policy`, else `DATA_DIR/safety.toml` if it exists, else the built-in
/// one.
fn safety_policy(named: Option<&Path>, data_dir: &Path) -> Result<SafetyPolicy, SettingsError> {
    let usual = data_dir.join("safety.toml");
    let path = match named {
        Some(path) => path,
        None if usual.is_file() => &usual,
        None => return Ok(SafetyPolicy::builtin()?),
    };
    let text = std::fs::read_to_string(path).map_err(|error| SettingsError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(SafetyPolicy::parse(&path.display().to_string(), &text)?)
}

/// Why Nyx cannot start with the settings.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
}
