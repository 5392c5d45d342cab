//! Reading a strategy's settings.

use serde::de::DeserializeOwned;

use crate::limits::{count, within};

/// The `[settings]` of a file.
///
/// # Errors
/// Names the key that is wrong.
pub(super) fn read<T: DeserializeOwned>(table: Option<toml::Table>) -> Result<T, String> {
    let table = table.unwrap_or_default();
    serde_path_to_error::deserialize(table).map_err(|error| {
        let path = error.path().to_string();
        let key = if path == "." { "settings".to_owned() } else { format!("settings.{path}") };
        format!("{key}: {}", error.into_inner().message().replace('\n', ", "))
    })
}

/// Refuses settings of a strategy that has none.
pub(super) fn none(name: &str, table: Option<toml::Table>) -> Result<(), String> {
    match table.and_then(|table| table.keys().next().cloned()) {
        Some(key) => {
            Err(format!("settings.{key} is given, expected no settings with strategy = {name:?}"))
        }
        None => Ok(()),
    }
}

/// Checks the settings of a search of memories.
pub(super) fn memories(key: &str, k: usize, min_score: f32, least: usize) -> Result<(), String> {
    if k != 0 || least != 0 {
        count(&format!("settings.{key}"), k, 50)?;
    }
    within("settings.min_score", f64::from(min_score), -1.0, 1.0)
}
