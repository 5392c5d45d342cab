//! The built-in specialists, and files that add to them or replace them by name.

use std::path::{Path, PathBuf};

use nyx_specialists::{BUILTIN, SpecialistPolicy};

use super::error::SettingsError;

/// The built-in specialists, then every `*.toml` of `dir` in order of name; a file with the name of
/// an existing specialist replaces it in its position. Without `dir`, `data_dir/specialists` is
/// read if it exists.
pub(super) fn load(
    dir: Option<&Path>,
    data_dir: &Path,
) -> Result<Vec<SpecialistPolicy>, SettingsError> {
    let mut policies = Vec::with_capacity(BUILTIN.len());
    for (name, text) in BUILTIN {
        policies.push(SpecialistPolicy::parse(name, text)?);
    }
    for path in files(dir, data_dir)? {
        let unreadable = |error: std::io::Error| SettingsError::Unreadable {
            path: path.clone(),
            reason: error.to_string(),
        };
        let text = std::fs::read_to_string(&path).map_err(unreadable)?;
        let policy = SpecialistPolicy::parse(&path.display().to_string(), &text)?;
        match policies.iter_mut().find(|known| known.name == policy.name) {
            Some(known) => *known = policy,
            None => policies.push(policy),
        }
    }
    Ok(policies)
}

fn files(dir: Option<&Path>, data_dir: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    let folder = match dir {
        Some(dir) if !dir.is_dir() => return Err(SettingsError::NoSpecialists(dir.to_owned())),
        Some(dir) => dir.to_owned(),
        None => data_dir.join("specialists"),
    };
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let unreadable = |error: std::io::Error| SettingsError::Unreadable {
        path: folder.clone(),
        reason: error.to_string(),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
