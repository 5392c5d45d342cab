//! Model files: GGUF, or a Hugging Face folder. OWNER: E1 (interface fixed, may be extended).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Result;

/// How to hold weights that are not quantised in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Quantisation {
    /// As the file has them.
    #[default]
    None,
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Rows that 256 does not divide fall back to Q8_0.
    #[serde(rename = "q4_k")]
    Q4K,
}

/// Where a model's files are, and what kind they are: opened, checked, not yet on a device.
#[derive(Debug)]
pub struct ModelFiles {}

/// What is known of a base model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelInfo {
    pub name: String,
    pub path: PathBuf,
    /// SHA-256 of the weights: of the GGUF file; of a folder, of its safetensors files' digests in the order of their names.
    pub sha256: String,
    pub format: &'static str,
    /// The tensor types in use with their counts, as `Q4_1 x 210, Q8_0 x 1, F32 x 61`.
    pub tensors: String,
    pub parameters: u64,
    pub context_length: usize,
    pub vocabulary: usize,
    pub layers: usize,
    pub bytes: u64,
}

impl ModelFiles {
    /// Opens a `.gguf` file or a folder with `config.json` and safetensors.
    pub fn open(_path: &Path) -> Result<Self> {
        todo!()
    }
    pub fn info(&self) -> &ModelInfo {
        todo!()
    }
    /// A GGUF metadata string such as `tokenizer.chat_template`; `None` for a folder.
    pub fn gguf(&self) -> Option<&candle_core::quantized::gguf_file::Content> {
        todo!()
    }
    /// The folder of a Hugging Face model; `None` for a GGUF file.
    pub fn folder(&self) -> Option<&Path> {
        todo!()
    }
}
