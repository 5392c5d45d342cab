//! The layers of the settings, and the origin of each value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use serde_json::Value as Json;

use super::error::SettingsError;
use super::sections::Settings;

/// `config/default.toml`: every key with its default.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

const PREFIX: &str = "NYX__";
/// Keys whose values are redacted in errors, including errors of the sections that contain them.
const SECRETS: [&str; 6] = [
    "http.api_keys",
    "http.admin_key",
    "memory.api_key",
    "memory.url",
    "phoebe.url",
    "tables.external",
];
const HIDDEN: &str = "a value that is not shown";
/// Keys with an enumerated value.
const WORDS: [(&str, &str); 4] = [
    ("pool.quantisation", "none, q8_0 or q4_k"),
    ("pool.adapter_precision", "int8 or file"),
    ("memory.store", "phoebe or qdrant"),
    ("telemetry.format", "text or json"),
];
/// Placeholder for the origin of a value whose layer is not known yet.
const MERGED: &str = "settings";
const BUILT_IN: &str = "built-in default";

/// A setting given as a flag.
#[derive(Debug, Clone)]
pub struct Flag {
    /// `http.port`
    pub key: &'static str,
    /// `--port`
    pub flag: &'static str,
    pub value: String,
}

/// The sources of settings, as values, so that tests do not depend on the process environment.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `--config`
    pub file: Option<PathBuf>,
    /// Environment variables.
    pub variables: Vec<(OsString, OsString)>,
    /// The folder in which `nyx.toml` is searched; not searched when `None`.
    pub working_dir: Option<PathBuf>,
    pub flags: Vec<Flag>,
}

impl Inputs {
    /// This process's environment and working directory.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        Self {
            file,
            variables: std::env::vars_os().collect(),
            working_dir: Some(PathBuf::from(".")),
            flags,
        }
    }

    /// The config file: `--config`, else `$NYX_CONFIG`, else `nyx.toml` in the working directory if
    /// it exists.
    fn config_file(&self) -> Result<Option<PathBuf>, SettingsError> {
        let variable = || {
            self.variables
                .iter()
                .find(|(name, _)| name == "NYX_CONFIG")
                .map(|(_, value)| PathBuf::from(value))
        };
        let (path, named_by) = match (&self.file, variable()) {
            (Some(path), _) => (path.clone(), "--config"),
            (None, Some(path)) => (path, "NYX_CONFIG"),
            (None, None) => {
                return Ok(self
                    .working_dir
                    .as_ref()
                    .map(|dir| dir.join("nyx.toml"))
                    .filter(|path| path.is_file()));
            }
        };
        if path.is_file() { Ok(Some(path)) } else { Err(SettingsError::NoFile { path, named_by }) }
    }
}

/// The origin of each value that is not a default, by key.
#[derive(Debug, Default)]
pub(super) struct Origins(BTreeMap<String, String>);

impl Origins {
    pub(super) fn of(&self, key: &str) -> String {
        self.0.get(key).map_or(BUILT_IN, String::as_str).to_owned()
    }

    /// Records the origin of every key of a layer; later layers overwrite earlier ones.
    fn note(&mut self, layer: &Map<String, Value>, parent: &str) {
        for (name, value) in layer {
            let key = if parent.is_empty() { name.clone() } else { format!("{parent}.{name}") };
            if let ValueKind::Table(inside) = &value.kind {
                self.note(inside, &key);
            }
            self.0.insert(key, value.origin().unwrap_or(BUILT_IN).to_owned());
        }
    }
}

/// Merges all layers.
pub(super) fn read(inputs: &Inputs) -> Result<(Settings, Origins), SettingsError> {
    merged(inputs).map_err(without_secrets)
}

/// Whether the key holds a secret, is inside one that does, or is a section that contains one.
fn is_secret(key: &str) -> bool {
    let holds = |outer: &str, inner: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    SECRETS.iter().any(|secret| holds(secret, key) || holds(key, secret))
}

/// Removes the quoted value from an error if it may be a secret.
fn without_secrets(error: SettingsError) -> SettingsError {
    match error {
        SettingsError::Invalid { key, origin, expected, .. } if is_secret(&key) => {
            SettingsError::Invalid { key, value: HIDDEN.to_owned(), origin, expected }
        }
        SettingsError::Syntax { origin, reason } => match reason.split_once(": ") {
            // a field name is not a secret, a value may be
            Some((key, reason))
                if is_secret(key)
                    && !["missing field", "unknown field"]
                        .iter()
                        .any(|known| reason.starts_with(known)) =>
            {
                SettingsError::Syntax {
                    origin,
                    reason: format!("{key} is {HIDDEN}, expected another type"),
                }
            }
            _ => SettingsError::Syntax { origin, reason },
        },
        other => other,
    }
}

fn merged(inputs: &Inputs) -> Result<(Settings, Origins), SettingsError> {
    let known = serde_json::to_value(Settings::default()).map_err(|error| {
        SettingsError::Syntax { origin: BUILT_IN.into(), reason: error.to_string() }
    })?;
    let mut origins = Origins::default();
    let defaults = File::from_str(DEFAULTS, FileFormat::Toml);
    let mut builder =
        Config::builder().add_source(checked(defaults, &known, BUILT_IN, &mut origins)?);
    if let Some(path) = inputs.config_file()? {
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|error| SettingsError::Unreadable {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        check_syntax(&text, &path.display().to_string())?;
        let file = File::from(path.as_path()).format(FileFormat::Toml);
        builder =
            builder.add_source(checked(file, &known, &path.display().to_string(), &mut origins)?);
    }
    for layer in [environment(&inputs.variables, &known)?, flags(&inputs.flags, &known)?] {
        origins.note(&layer, "");
        builder = builder.add_source(Layer(layer));
    }
    let merged = builder.build().map_err(|error| describe(error, MERGED))?;
    let settings =
        merged.try_deserialize().map_err(|error| completed(describe(error, MERGED), &origins))?;
    Ok((settings, origins))
}

/// Rejects invalid TOML by line and column; toml's own message quotes the line, which may contain a
/// key.
fn check_syntax(text: &str, origin: &str) -> Result<(), SettingsError> {
    text.parse::<toml::Table>().map(drop).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let (line, column) = (
            before.matches('\n').count() + 1,
            before.chars().rev().take_while(|c| *c != '\n').count() + 1,
        );
        SettingsError::Syntax {
            origin: origin.to_owned(),
            reason: format!("line {line}, column {column}: {}", one_line(error.message())),
        }
    })
}

/// A flat layer of dotted keys.
#[derive(Debug, Clone)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// Rejects unknown keys, naming their file.
fn checked<S: Source>(
    source: S,
    known: &Json,
    origin: &str,
    origins: &mut Origins,
) -> Result<S, SettingsError> {
    let table = source.collect().map_err(|error| describe(error, origin))?;
    refuse_unknown(&table, known, "", origin)?;
    origins.note(&table, "");
    Ok(source)
}

fn refuse_unknown(
    table: &Map<String, Value>,
    known: &Json,
    parent: &str,
    origin: &str,
) -> Result<(), SettingsError> {
    let Json::Object(fields) = known else { return Ok(()) };
    for (name, value) in table {
        let key = if parent.is_empty() { name.clone() } else { format!("{parent}.{name}") };
        let Some(inner) = fields.get(name) else {
            return Err(unknown(key, name, fields.keys(), origin));
        };
        if let ValueKind::Table(inside) = &value.kind {
            refuse_unknown(inside, inner, &key, origin)?;
        }
    }
    Ok(())
}

fn unknown<'a>(
    key: String,
    name: &str,
    names: impl Iterator<Item = &'a String>,
    origin: &str,
) -> SettingsError {
    let names: Vec<&str> = names.map(String::as_str).collect();
    let nearest = names
        .iter()
        .map(|known| (strsim::levenshtein(known, name), known))
        .min()
        .filter(|(changes, _)| *changes <= 2);
    let expected = match nearest {
        Some((_, nearest)) => format!("{nearest:?}, perhaps (of {})", names.join(", ")),
        None => format!("one of {}", names.join(", ")),
    };
    SettingsError::UnknownKey { key, origin: origin.to_owned(), expected }
}

/// Variables `NYX__SECTION__KEY` as dotted keys. Empty values count as unset.
fn environment(
    variables: &[(OsString, OsString)],
    known: &Json,
) -> Result<Map<String, Value>, SettingsError> {
    let mut layer = Map::new();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let value = value.to_str().ok_or_else(|| SettingsError::NotUnicode(name.to_owned()))?;
        if value.is_empty() {
            continue;
        }
        let key = path.to_lowercase().replace("__", ".");
        layer.insert(
            key.clone(),
            parse(&key, value, known, &format!("environment variable {name}"))?,
        );
    }
    Ok(layer)
}

fn flags(flags: &[Flag], known: &Json) -> Result<Map<String, Value>, SettingsError> {
    flags
        .iter()
        .map(|flag| {
            Ok((
                flag.key.to_owned(),
                parse(flag.key, &flag.value, known, &format!("flag {}", flag.flag))?,
            ))
        })
        .collect()
}

/// Parses a value given as text: for a list or a table it is JSON (or, for a list, comma-separated
/// words).
fn parse(key: &str, text: &str, known: &Json, origin: &str) -> Result<Value, SettingsError> {
    let mut here = known;
    for name in key.split('.') {
        let Json::Object(fields) = here else {
            return Err(SettingsError::UnknownKey {
                key: key.to_owned(),
                origin: origin.to_owned(),
                expected: "a key, not a key of a key".into(),
            });
        };
        here =
            fields.get(name).ok_or_else(|| unknown(key.to_owned(), name, fields.keys(), origin))?;
    }
    let invalid = |expected: String| SettingsError::Invalid {
        key: key.to_owned(),
        value: format!("{text:?}"),
        origin: origin.to_owned(),
        expected,
    };
    let kind = match here {
        Json::Object(_) if !text.trim_start().starts_with('{') => {
            return Err(invalid(format!(
                "{}{}__KEY: this is a section",
                PREFIX,
                key.to_uppercase().replace('.', "__")
            )));
        }
        Json::Array(_) if !text.trim_start().starts_with('[') => ValueKind::Array(
            text.split(',').map(|word| Value::new(Some(&origin.to_owned()), word.trim())).collect(),
        ),
        Json::Array(_) | Json::Object(_) => {
            let json: Json =
                serde_json::from_str(text).map_err(|error| invalid(format!("JSON ({error})")))?;
            let value = from_json(&json, origin);
            if let ValueKind::Table(table) = &value.kind {
                refuse_unknown(table, here, key, origin)?;
            }
            return Ok(value);
        }
        _ => ValueKind::String(text.to_owned()),
    };
    Ok(Value::new(Some(&origin.to_owned()), kind))
}

fn from_json(json: &Json, origin: &str) -> Value {
    let kind = match json {
        Json::Null => ValueKind::Nil,
        Json::Bool(value) => ValueKind::Boolean(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => ValueKind::I64(whole),
            None => ValueKind::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => ValueKind::String(text.clone()),
        Json::Array(items) => {
            ValueKind::Array(items.iter().map(|item| from_json(item, origin)).collect())
        }
        Json::Object(fields) => ValueKind::Table(
            fields.iter().map(|(name, value)| (name.clone(), from_json(value, origin))).collect(),
        ),
    };
    Value::new(Some(&origin.to_owned()), kind)
}

/// Completes an error of `config`: with the allowed values of an enumeration, and with the origin
/// if it is missing.
fn completed(error: SettingsError, origins: &Origins) -> SettingsError {
    match error {
        SettingsError::Invalid { key, value, origin, expected } if origin == MERGED => {
            SettingsError::Invalid { origin: origins.of(&key), key, value, expected }
        }
        SettingsError::Syntax { origin, reason } => {
            let Some((key, (_, value))) = reason
                .split_once(": ")
                .and_then(|(key, rest)| Some((key, rest.split_once(" variant constructor ")?)))
            else {
                return SettingsError::Syntax { origin, reason };
            };
            let expected = WORDS
                .iter()
                .find(|(known, _)| *known == key)
                .map_or("another value", |(_, words)| words);
            SettingsError::Invalid {
                key: key.to_owned(),
                value: format!("{value:?}"),
                origin: origins.of(key),
                expected: expected.to_owned(),
            }
        }
        other => other,
    }
}

/// Converts an error of `config`.
fn describe(error: ConfigError, layer: &str) -> SettingsError {
    let origin = |from: Option<String>| from.unwrap_or_else(|| layer.to_owned());
    match error {
        ConfigError::Type { origin: from, unexpected, expected, key } => SettingsError::Invalid {
            key: key.unwrap_or_else(|| "a value".into()),
            value: unexpected.to_string(),
            origin: origin(from),
            expected: expected.to_owned(),
        },
        ConfigError::FileParse { uri, cause } => {
            SettingsError::Syntax { origin: origin(uri), reason: one_line(&cause.to_string()) }
        }
        ConfigError::At { error, origin: from, key } => SettingsError::Syntax {
            origin: origin(from),
            reason: format!("{}: {}", key.unwrap_or_default(), one_line(&error.to_string())),
        },
        other => {
            SettingsError::Syntax { origin: layer.to_owned(), reason: one_line(&other.to_string()) }
        }
    }
}

/// toml's errors have several lines; ours have one.
fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && *line != "|")
        .collect::<Vec<_>>()
        .join(", ")
}
