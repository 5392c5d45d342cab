//! Sentence embeddings with a BERT model (all-MiniLM-L6-v2: Wang et al. 2020, trained by
//! sentence-transformers).

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

use crate::weights::{load_safetensors, read_json, sha256_file};
use crate::{EngineError, Result};

/// Texts per pass; they are sorted by length to reduce padding.
const BATCH: usize = 32;
/// Token limit of a text where the model specifies none (sentence-transformers' setting for this
/// model).
const WINDOW: usize = 256;

/// A sentence embedder: mean pooling over tokens, L2-normalised.
pub struct Embedder {
    model: BertModel,
    tokenizer: Tokenizer,
    device: Device,
    dimension: usize,
    digest: String,
}

impl Embedder {
    /// Loads a folder with `config.json`, `tokenizer.json`, `model.safetensors`.
    ///
    /// # Errors
    /// When a file is missing or damaged; the error names it.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let config: Config = read_json(&folder.join("config.json"))?;
        let path = folder.join("tokenizer.json");
        let bad = |error: tokenizers::Error| {
            EngineError::Tokenizer(format!("{}: {error}", path.display()))
        };
        let json = std::fs::read(&path)
            .map_err(|source| EngineError::Io { path: path.clone(), source })?;
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(bad)?;
        let own: serde_json::Value =
            read_json(&folder.join("sentence_bert_config.json")).unwrap_or_default();
        let window = own["max_seq_length"]
            .as_u64()
            .map_or(WINDOW, |window| window as usize)
            .min(config.max_position_embeddings);
        tokenizer
            .with_truncation(Some(TruncationParams {
                max_length: window,
                ..TruncationParams::default()
            }))
            .map_err(bad)?;
        tokenizer.with_padding(Some(PaddingParams {
            strategy: PaddingStrategy::BatchLongest,
            ..PaddingParams::default()
        }));
        let weights = folder.join("model.safetensors");
        let digest = sha256_file(&weights)?;
        let tensors =
            VarBuilder::from_tensors(load_safetensors(&weights, device)?, DType::F32, device);
        let model = BertModel::load(tensors, &config).map_err(|error| {
            EngineError::BadSafetensors { path: weights, reason: error.to_string() }
        })?;
        Ok(Self { model, tokenizer, device: device.clone(), dimension: config.hidden_size, digest })
    }

    /// Dimensions of an embedding.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// SHA-256 of the weights, in hex: vectors of embedders with different weights are not
    /// comparable.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns one unit vector per text and the number of tokens read; texts longer than the
    /// model's window are truncated.
    ///
    /// # Errors
    /// When the tokenizer or the device fails.
    pub fn embed(&self, texts: &[&str]) -> Result<(Vec<Vec<f32>>, usize)> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| texts[index].len());
        let (mut vectors, mut tokens) = (vec![Vec::new(); texts.len()], 0);
        for batch in order.chunks(BATCH) {
            let inputs: Vec<&str> = batch.iter().map(|&index| texts[index]).collect();
            let encodings = self
                .tokenizer
                .encode_batch(inputs, true)
                .map_err(|error| EngineError::Tokenizer(error.to_string()))?;
            let longest = encodings.first().map_or(0, |encoding| encoding.len());
            let flat = |get: fn(&tokenizers::Encoding) -> &[u32]| -> Result<Tensor> {
                let values: Vec<u32> =
                    encodings.iter().flat_map(|encoding| get(encoding).iter().copied()).collect();
                Ok(Tensor::from_vec(values, (batch.len(), longest), &self.device)?)
            };
            let mask = flat(tokenizers::Encoding::get_attention_mask)?;
            tokens += encodings
                .iter()
                .flat_map(|encoding| encoding.get_attention_mask())
                .map(|&one| one as usize)
                .sum::<usize>();
            // [batch, tokens, hidden]
            let hidden = self.model.forward(
                &flat(tokenizers::Encoding::get_ids)?,
                &flat(tokenizers::Encoding::get_type_ids)?,
                Some(&mask),
            )?;
            let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
            let mean = hidden.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)?;
            let unit = mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)?;
            for (&index, vector) in batch.iter().zip(unit.to_vec2()?) {
                vectors[index] = vector;
            }
        }
        Ok((vectors, tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{embedder, reference};

    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        vector: Vec<f32>,
    }

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn vectors_agree_with_the_reference_batched_and_alone() {
        let model = Embedder::load(&embedder(), &Device::Cpu).unwrap();
        let cases: Vec<Case> =
            serde_json::from_str(&std::fs::read_to_string(reference("embed.json")).unwrap())
                .unwrap();
        let texts: Vec<&str> = cases.iter().map(|case| case.text.as_str()).collect();
        let (together, tokens) = model.embed(&texts).unwrap();
        assert!(tokens > 256);
        for (case, vector) in cases.iter().zip(&together) {
            assert_eq!(vector.len(), model.dimension());
            assert!(
                cosine(vector, &case.vector) > 0.9999,
                "{:?}: {}",
                case.text,
                cosine(vector, &case.vector)
            );
            let alone = model.embed(&[&case.text]).unwrap().0.remove(0);
            assert!(alone.iter().zip(vector).all(|(a, b)| (a - b).abs() < 1e-5));
        }
        assert_eq!(model.embed(&[]).unwrap().0.len(), 0);
    }

    #[test]
    fn damaged_folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |folder: &Path| Embedder::load(folder, &Device::Cpu).err().unwrap().to_string();
        assert!(error(folder.path()).contains("config.json"));
        for file in ["config.json", "tokenizer.json"] {
            std::fs::copy(embedder().join(file), folder.path().join(file)).unwrap();
        }
        let weights = std::fs::read(embedder().join("model.safetensors")).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), &weights[..weights.len() / 2])
            .unwrap();
        assert!(error(folder.path()).contains("truncated"));
    }
}
