//! Where tests find the models and the references.

use std::path::PathBuf;

/// The folder that `make models` fills.
pub(crate) fn models() -> PathBuf {
    let cache =
        || std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let set = std::env::var_os("NYX_MODELS").map(PathBuf::from);
    set.or_else(|| Some(cache()?.join("nyx/models"))).expect("neither NYX_MODELS nor HOME is set")
}

pub(crate) fn default_model() -> PathBuf {
    present(models().join("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"))
}

#[allow(dead_code)]
pub(crate) fn embedder() -> PathBuf {
    present(models().join("all-minilm-l6-v2"))
}

fn present(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is not there: run `make models`", path.display());
    path
}

/// A file of tests/reference.
pub(crate) fn reference(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference").join(name)
}
