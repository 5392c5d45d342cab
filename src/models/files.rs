//! Selects the files of a model from a folder or a listing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nyx_engine::weights::sha256_file;
use serde::{Deserialize, Serialize};

use super::error::ModelError;

/// Written beside fetched files, so that they can be verified later.
pub(super) const MANIFEST: &str = "nyx-model.json";

/// The files that `nyx fetch` put into a folder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) source: String,
    /// Keyed by path inside the folder.
    pub(super) files: BTreeMap<String, FileDigest>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FileDigest {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Manifest {
    pub(super) fn read(folder: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(folder.join(MANIFEST)).ok()?).ok()
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), ModelError> {
        let path = folder.join(MANIFEST);
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| ModelError::Io { path: path.clone(), reason: error.to_string() })?;
        std::fs::write(&path, text).map_err(|error| ModelError::io(path, &error))
    }

    /// The first file that differs from the manifest.
    pub(super) fn damage(&self, folder: &Path) -> Option<String> {
        self.files.iter().find_map(|(name, expected)| {
            let path = folder.join(name);
            match std::fs::metadata(&path) {
                Err(_) => Some(format!("{name} is missing")),
                Ok(metadata) if metadata.len() != expected.bytes => Some(format!(
                    "{name} has {} bytes, expected {}",
                    metadata.len(),
                    expected.bytes
                )),
                Ok(_) => wrong_digest(&path, name, &expected.sha256),
            }
        })
    }
}

/// `None` when the file has this SHA-256.
pub(super) fn wrong_digest(path: &Path, name: &str, expected: &str) -> Option<String> {
    match sha256_file(path) {
        Ok(found) if found.eq_ignore_ascii_case(expected) => None,
        Ok(found) => Some(format!("{name} has SHA-256 {found}, expected {expected}")),
        Err(error) => Some(error.to_string()),
    }
}

/// The file whose SHA-256 identifies the model, and the path for the engine: a `.gguf` file, or a
/// folder with `config.json` and `model.safetensors` (for a sharded model the first shard). `None`
/// when the folder has no model.
pub(super) fn weights(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    names.sort();
    let with = |extension: &str| {
        names.iter().find(|path| path.extension().is_some_and(|found| found == extension)).cloned()
    };
    if let Some(gguf) = with("gguf") {
        return Some((gguf.clone(), gguf));
    }
    let config = folder.join("config.json").is_file();
    with("safetensors").filter(|_| config).map(|weights| (weights, folder.to_owned()))
}

/// A model inside a listing of paths.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// The files' folder, with a trailing `/`; empty at the top.
    pub(super) folder: String,
    /// Paths as listed.
    pub(super) files: Vec<String>,
}

/// Files of a Hugging Face folder that are fetched along with the weights.
const BESIDE: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "added_tokens.json",
    "model.safetensors.index.json",
];

/// Selects a model from a listing: `wanted`, else the one folder with `config.json` and
/// safetensors, else the one GGUF file.
///
/// # Errors
/// Describes what was found instead, and how to choose.
pub(super) fn select(listing: &[String], wanted: Option<&str>) -> Result<Selection, String> {
    let ggufs: Vec<&String> = listing.iter().filter(|name| name.ends_with(".gguf")).collect();
    let names = || ggufs.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(wanted) = wanted {
        return match ggufs.iter().any(|name| *name == wanted) {
            true => Ok(one(wanted)),
            false if ggufs.is_empty() => {
                Err(format!("there is no {wanted} in it, and no other GGUF file"))
            }
            false => Err(format!("there is no {wanted} in it; there are {}", names())),
        };
    }
    let folders: Vec<&str> = listing
        .iter()
        .filter_map(|name| name.strip_suffix("config.json"))
        .filter(|folder| folder.is_empty() || folder.ends_with('/'))
        .filter(|folder| listing.iter().any(|name| in_folder(name, folder).is_some_and(is_weights)))
        .collect();
    match (folders.as_slice(), ggufs.as_slice()) {
        ([folder], _) => {
            let keep = |name: &&String| {
                in_folder(name, folder)
                    .is_some_and(|name| is_weights(name) || BESIDE.contains(&name))
            };
            let files: Vec<String> = listing.iter().filter(keep).cloned().collect();
            if !files.iter().any(|name| name.ends_with("tokenizer.json")) {
                return Err(format!("there is no tokenizer.json beside {folder}config.json"));
            }
            Ok(Selection { folder: (*folder).to_owned(), files })
        }
        ([], [gguf]) => Ok(one(gguf)),
        ([], []) => {
            Err("there is neither a GGUF file in it nor a folder with config.json and safetensors"
                .into())
        }
        ([], _) => {
            Err(format!("there are several GGUF files in it, name one after a colon: {}", names()))
        }
        (several, _) => Err(format!("there are several models in it: {}", several.join(", "))),
    }
}

fn one(file: &str) -> Selection {
    let folder = file.rfind('/').map_or("", |slash| &file[..=slash]);
    Selection { folder: folder.to_owned(), files: vec![file.to_owned()] }
}

/// The name relative to `folder`, if it is directly in it.
fn in_folder<'a>(name: &'a str, folder: &str) -> Option<&'a str> {
    name.strip_prefix(folder).filter(|rest| !rest.contains('/'))
}

/// `model.safetensors` or its shards; others (`consolidated`, adapters) are not the model.
fn is_weights(name: &str) -> bool {
    name.strip_suffix(".safetensors")
        .is_some_and(|stem| stem == "model" || stem.starts_with("model-"))
}
