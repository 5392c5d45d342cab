//! Sentence embeddings by a BERT model (all-MiniLM-L6-v2). OWNER: ME (interface fixed).

use std::path::Path;

use crate::Result;

/// A sentence embedder: mean pooling over tokens, L2-normalised.
pub struct Embedder {}

impl Embedder {
    /// Loads a folder with `config.json`, `tokenizer.json`, `model.safetensors`.
    pub fn load(_folder: &Path, _device: &candle_core::Device) -> Result<Self> {
        todo!()
    }
    /// Length of a vector.
    pub fn dimension(&self) -> usize {
        todo!()
    }
    /// Tokens of a text after truncation, for usage counts.
    pub fn count_tokens(&self, _text: &str) -> Result<usize> {
        todo!()
    }
    /// One unit vector a text, batched by length; texts over the model's window are cut at it.
    pub fn embed(&self, _texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        todo!()
    }
}
