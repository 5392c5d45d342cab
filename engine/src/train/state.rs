//! Checkpoint of an unfinished training run, in one safetensors file written atomically (rename).

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::optimiser::Moments;
use super::options::{Example, TrainOptions};
use crate::weights::{load_safetensors, sha256_of};
use crate::{EngineError, Result};

/// Checkpoint key: the SHA-256 of options, base checksum and examples.
pub(super) fn key(options: &TrainOptions, base_sha256: &str, examples: &[Example]) -> String {
    let bytes = serde_json::to_vec(&(options, base_sha256, examples)).unwrap_or_default();
    sha256_of([bytes.as_slice()])
}

/// Reads adapter values (`len` elements) and optimiser moments from a checkpoint. Returns `None`
/// when the file is absent, unreadable, incomplete or written under another key.
pub(super) fn read(path: &Path, key: &str, len: usize) -> Option<(Vec<f32>, Moments)> {
    if !path.exists() {
        return None;
    }
    let tensors = match load_safetensors(path, &Device::Cpu) {
        Ok(tensors) => tensors,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read the training checkpoint: training restarts from step 0");
            return None;
        }
    };
    let bytes = |name: &str| tensors.get(name)?.to_vec1::<u8>().ok();
    let floats =
        |name: &str| tensors.get(name)?.to_vec1::<f32>().ok().filter(|values| values.len() == len);
    if bytes("key")? != key.as_bytes() {
        tracing::info!(path = %path.display(), "the training checkpoint has other examples, options or base: training restarts from step 0");
        return None;
    }
    let step = u64::from_le_bytes(bytes("step")?.try_into().ok()?);
    Some((floats("values")?, Moments { first: floats("first")?, second: floats("second")?, step }))
}

/// Writes a checkpoint to a temporary file and renames it to `path`.
///
/// # Errors
/// The file or its folder cannot be written.
pub(super) fn write(path: &Path, key: &str, values: &[f32], moments: &Moments) -> Result<()> {
    let bytes = |bytes: &[u8]| Tensor::from_slice(bytes, bytes.len(), &Device::Cpu);
    let floats = |values: &[f32]| Tensor::from_slice(values, values.len(), &Device::Cpu);
    let tensors = HashMap::from([
        ("key", bytes(key.as_bytes())?),
        ("step", bytes(&moments.step.to_le_bytes())?),
        ("values", floats(values)?),
        ("first", floats(&moments.first)?),
        ("second", floats(&moments.second)?),
    ]);
    let io = |source| EngineError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let beside = path.with_extension("new");
    candle_core::safetensors::save(&tensors, &beside)?;
    std::fs::rename(&beside, path).map_err(io)
}
