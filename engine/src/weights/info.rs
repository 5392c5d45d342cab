//! What is known of a model before its weights are read.

use std::path::PathBuf;

use serde::Serialize;

/// Description of a base model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelInfo {
    /// Name of the file or folder.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// SHA-256 of the weights: of the GGUF file, or for a folder, of its safetensors files' digests
    /// in the order of their names.
    pub sha256: String,
    /// `gguf` or `safetensors`.
    pub format: &'static str,
    /// The file's tensor types with their counts, as `F32 x 61, Q4_1 x 210, Q8_0 x 1`.
    pub tensors: String,
    /// Number of parameters.
    pub parameters: u64,
    /// The context window in tokens.
    pub context_length: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// Number of layers.
    pub layers: usize,
    /// Size of the files in bytes.
    pub bytes: u64,
}

/// Counts tensor types, as `F32 x 61, Q4_1 x 210`.
pub(super) fn summarise(types: impl Iterator<Item = String>) -> String {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    types.for_each(|kind| *counts.entry(kind).or_default() += 1);
    counts.iter().map(|(kind, count)| format!("{kind} x {count}")).collect::<Vec<_>>().join(", ")
}
