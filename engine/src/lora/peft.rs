//! Reads PEFT folders.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::adapter::{AdapterPrecision, Delta, Deltas, LoraAdapter, Place, Target, place_of};
use crate::kernels::{DenseMatrix, LoraMatrix, RoundedMatrix};
use crate::weights::{load_safetensors, sha256_of};
use crate::{EngineError, ModelConfig, Result};

/// The files of a PEFT folder.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The weights' file in a PEFT folder.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

#[derive(Deserialize)]
struct AdapterConfig {
    peft_type: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    fan_in_fan_out: bool,
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, serde_json::Value>,
    /// Nyx's own field: the digest of the base it was trained on.
    base_sha256: Option<String>,
}

/// SHA-256 over the configuration in a canonical form (JSON with sorted keys and no whitespace),
/// the weights file as it is, and the base's digest.
fn id_of(config: &[u8], weights: &[u8], base_sha256: &str) -> serde_json::Result<String> {
    let config = serde_json::from_slice::<serde_json::Value>(config).map(sorted)?.to_string();
    Ok(sha256_of([config.as_bytes(), weights, base_sha256.as_bytes()]))
}

/// The same value with sorted keys, whatever map type serde_json uses.
fn sorted(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            let keys: BTreeMap<String, serde_json::Value> =
                map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            serde_json::Value::Object(keys.into_iter().collect())
        }
        serde_json::Value::Array(values) => values.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// The id of the adapter in a PEFT folder with the base of this digest, computed from its files
/// without loading it.
///
/// # Errors
/// [`EngineError::Io`] when a file cannot be read, [`EngineError::BadAdapter`] when the
/// configuration is not JSON.
pub fn adapter_id(folder: &Path, base_sha256: &str) -> Result<String> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|source| EngineError::Io { path, source })
    };
    let id = id_of(&read(CONFIG_FILE)?, &read(WEIGHTS_FILE)?, base_sha256);
    id.map_err(|error| EngineError::BadAdapter {
        path: folder.to_owned(),
        reason: format!("{CONFIG_FILE}: {error}"),
    })
}

/// The matrices A and B of a layer's target.
type Pairs = HashMap<(usize, Target), (Option<Tensor>, Option<Tensor>)>;

/// Reads and checks an adapter's tensors.
fn read_pairs(folder: &Path, config: &AdapterConfig, model: &ModelConfig) -> Result<Pairs> {
    let bad = |reason: String| EngineError::BadAdapter { path: folder.to_owned(), reason };
    let weights_path = folder.join(WEIGHTS_FILE);
    let mut pairs = Pairs::new();
    for (key, tensor) in load_safetensors(&weights_path, &Device::Cpu)? {
        let (layer, target, is_a) = parse_key(&key).ok_or_else(|| {
            bad(format!("tensor {key:?} stands beside no linear layer of a Llama"))
        })?;
        if layer >= model.layers {
            return Err(bad(format!(
                "tensor {key:?} is for layer {layer}, the base has {}",
                model.layers
            )));
        }
        let [out, row] = target.shape(model);
        let expected = if is_a { [config.r, row] } else { [out, config.r] };
        if tensor.dims() != expected {
            return Err(bad(format!(
                "tensor {key:?} has shape {:?}, expected {expected:?}",
                tensor.dims()
            )));
        }
        // x · 0 is 0 only for finite x
        if (tensor.to_dtype(DType::F32)? * 0.0)?.sum_all()?.to_scalar::<f32>()? != 0.0 {
            return Err(bad(format!("tensor {key:?} holds a number that is not finite")));
        }
        let pair = pairs.entry((layer, target)).or_default();
        *(if is_a { &mut pair.0 } else { &mut pair.1 }) = Some(tensor);
    }
    if pairs.is_empty() {
        return Err(bad("it holds no LoRA tensors".into()));
    }
    Ok(pairs)
}

pub(super) fn load(
    folder: &Path,
    name: &str,
    model: &ModelConfig,
    base_sha256: &str,
    places: &[Place],
) -> Result<LoraAdapter> {
    let bad = |reason: String| EngineError::BadAdapter { path: folder.to_owned(), reason };
    let config_path = folder.join(CONFIG_FILE);
    let weights_path = folder.join(WEIGHTS_FILE);
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| EngineError::Io { path: path.to_owned(), source })
    };
    let config_bytes = read(&config_path)?;
    let config: AdapterConfig = serde_json::from_slice(&config_bytes)
        .map_err(|error| bad(format!("adapter_config.json: {error}")))?;
    config.check().map_err(bad)?;
    if let Some(trained_on) =
        config.base_sha256.as_ref().filter(|trained_on| *trained_on != base_sha256)
    {
        let (adapter, trained_on) = (name.to_owned(), trained_on.clone());
        return Err(EngineError::AdapterBaseMismatch {
            adapter,
            trained_on,
            base: base_sha256.to_owned(),
        });
    }
    let id = id_of(&config_bytes, &read(&weights_path)?, base_sha256)
        .map_err(|error| bad(format!("adapter_config.json: {error}")))?;
    let scale = if config.use_rslora {
        config.lora_alpha / (config.r as f64).sqrt()
    } else {
        config.lora_alpha / config.r as f64
    };
    let pairs = read_pairs(folder, &config, model)?;
    let mut shards: Vec<Deltas> = places
        .iter()
        .map(|_| Deltas((0..model.layers * Target::ALL.len()).map(|_| None).collect()))
        .collect();
    let mut bytes = 0;
    for ((layer, target), pair) in pairs {
        let (Some(a), Some(b)) = pair else {
            return Err(bad(format!(
                "layer {layer} {}: lora_A or lora_B is missing",
                target.module()
            )));
        };
        let heads = match target {
            Target::Q => model.heads,
            Target::K => model.kv_heads,
            _ => 0,
        };
        let b = if heads > 0 && model.rope.interleaved { interleaved(&b, heads)? } else { b };
        for (place, shard) in places.iter().zip(&mut shards) {
            let (delta, size) = sliced(&a, &b, scale, target, place)?;
            bytes += size;
            shard.0[place_of(layer, target)] = Some(delta);
        }
    }
    Ok(LoraAdapter { name: name.to_owned(), id, rank: config.r, bytes, shards })
}

/// A shard's part of a pair, with its bytes. For a column-parallel layer that is the rows of B, for
/// a row-parallel one the columns of A; the other matrix is replicated on every shard.
fn sliced(
    a: &Tensor,
    b: &Tensor,
    scale: f64,
    target: Target,
    place: &Place,
) -> Result<(Delta, usize)> {
    let slice = &place.slice;
    let rows = |b: &Tensor, rows: std::ops::Range<usize>| b.narrow(0, rows.start, rows.len());
    let columns =
        |a: &Tensor, columns: std::ops::Range<usize>| a.narrow(1, columns.start, columns.len());
    let (a, b, chunks) = match target {
        Target::Q => (a.clone(), rows(b, slice.queries())?, 1),
        Target::K | Target::V => (a.clone(), rows(b, slice.keys())?, 1),
        Target::Gate | Target::Up => (a.clone(), rows(b, slice.inner())?, 1),
        Target::O => (columns(a, slice.queries())?, b.clone(), slice.own_chunks()),
        Target::Down => (columns(a, slice.inner())?, b.clone(), slice.own_chunks()),
    };
    if let Some(precision) = place.kernels {
        let (a, b) = (packed(&a, chunks, precision)?, packed(&b, 1, precision)?);
        let bytes = a.bytes() + b.bytes();
        return Ok((Delta::Packed { a, b, scale: scale as f32 }, bytes));
    }
    let (a, b) = (a.to_dtype(DType::F32)?.contiguous()?, (b.to_dtype(DType::F32)? * scale)?);
    let bytes = (a.elem_count() + b.elem_count()) * DType::F32.size_in_bytes();
    Ok((Delta::Tensors { a: a.to_device(&place.device)?, b: b.to_device(&place.device)? }, bytes))
}

/// Its columns in `chunks` parts.
fn packed(matrix: &Tensor, chunks: usize, precision: AdapterPrecision) -> Result<LoraMatrix> {
    let (rows, columns) = matrix.dims2()?;
    let flat = matrix.flatten_all()?;
    let in_f32 = || flat.to_dtype(DType::F32)?.to_vec1();
    Ok(match (precision, matrix.dtype()) {
        (AdapterPrecision::Int8, _) => {
            LoraMatrix::Rounded(RoundedMatrix::new(rows, columns, chunks, &in_f32()?))
        }
        (AdapterPrecision::File, DType::F16) => LoraMatrix::Dense(
            DenseMatrix::from_f16(rows, columns, &flat.to_vec1()?).in_chunks(chunks),
        ),
        (AdapterPrecision::File, _) => {
            LoraMatrix::Dense(DenseMatrix::from_f32(rows, columns, &in_f32()?).in_chunks(chunks))
        }
    })
}

impl AdapterConfig {
    /// The first unsupported setting, if any.
    fn check(&self) -> Result<(), String> {
        if let Some(kind) = self.peft_type.as_ref().filter(|kind| *kind != "LORA") {
            return Err(format!("peft_type is {kind:?}, expected \"LORA\""));
        }
        if self.r == 0 {
            return Err("r is 0, expected at least 1".into());
        }
        if !self.lora_alpha.is_finite() {
            return Err(format!("lora_alpha is {}, expected a finite number", self.lora_alpha));
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| *bias != "none") {
            return Err(format!("bias is {bias:?}, expected \"none\""));
        }
        let unsupported = [
            ("use_dora", self.use_dora),
            ("fan_in_fan_out", self.fan_in_fan_out),
            (
                "modules_to_save",
                self.modules_to_save.as_ref().is_some_and(|modules| !modules.is_empty()),
            ),
            ("rank_pattern", !self.rank_pattern.is_empty()),
            ("alpha_pattern", !self.alpha_pattern.is_empty()),
        ];
        match unsupported.iter().find(|(_, used)| *used) {
            Some((what, _)) => Err(format!("{what} is not supported")),
            None => Ok(()),
        }
    }
}

/// `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight` to (3, Q, true).
fn parse_key(key: &str) -> Option<(usize, Target, bool)> {
    let (_, rest) = key.split_once("layers.")?;
    let (layer, rest) = rest.split_once('.')?;
    let layer = layer.parse().ok()?;
    let target = Target::ALL.into_iter().find(|target| {
        rest.strip_prefix(target.module()).is_some_and(|end| end.starts_with('.'))
    })?;
    match rest.strip_prefix(target.module())? {
        ".lora_A.weight" | ".lora_A.default.weight" => Some((layer, target, true)),
        ".lora_B.weight" | ".lora_B.default.weight" => Some((layer, target, false)),
        _ => None,
    }
}

/// Permutes rows `[heads, 2, head_dim / 2]` (Hugging Face: halves) to `[heads, head_dim / 2, 2]`
/// (GGUF: adjacent pairs), as llama.cpp's converter does with the base's q and k.
pub(crate) fn interleaved(b: &Tensor, heads: usize) -> Result<Tensor> {
    let (out, rank) = b.dims2()?;
    let pairs = out / heads / 2;
    Ok(b.reshape((heads, 2, pairs, rank))?.transpose(1, 2)?.contiguous()?.reshape((out, rank))?)
}

/// The inverse: rows in GGUF's order to Hugging Face's.
pub(crate) fn deinterleaved(b: &Tensor, heads: usize) -> Result<Tensor> {
    let (out, rank) = b.dims2()?;
    let pairs = out / heads / 2;
    Ok(b.reshape((heads, pairs, 2, rank))?.transpose(1, 2)?.contiguous()?.reshape((out, rank))?)
}
