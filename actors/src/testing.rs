//! Where tests find the models, and a PostgreSQL of their own.

use std::path::PathBuf;

#[path = "../../tests/it/postgres.rs"]
pub(crate) mod postgres;

/// A file or folder of those that `make models` fetches.
pub(crate) fn model(name: &str) -> PathBuf {
    let cache = || {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
    };
    let root = std::env::var_os("NYX_MODELS")
        .map(PathBuf::from)
        .or_else(|| Some(cache()?.join("nyx/models")))
        .expect("HOME is set");
    let path = root.join(name);
    assert!(path.exists(), "{} is not there: run `make models`", path.display());
    path
}
