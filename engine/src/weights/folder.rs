//! Hugging Face folders: `config.json` and one or several safetensors files.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::digest;
use super::info::{ModelInfo, summarise};
use crate::model::{Llama3Scaling, ModelConfig, Rope};
use crate::{EngineError, Result};

/// Maximum size of a safetensors header (the format's own limit).
const MAX_HEADER: u64 = 100_000_000;

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// The file of each tensor.
    files: HashMap<String, PathBuf>,
}

#[derive(Deserialize)]
struct KindJson {
    #[serde(default)]
    model_type: String,
}

#[derive(Deserialize)]
struct ConfigJson {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeJson>,
    /// Replaces the two fields above in transformers 5.
    rope_parameters: Option<RopeJson>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

#[derive(Deserialize)]
struct RopeJson {
    rope_theta: Option<f32>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
}

#[derive(Deserialize)]
struct IndexJson {
    weight_map: HashMap<String, String>,
}

#[derive(Deserialize)]
struct TensorHeader {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<(ModelInfo, ModelConfig, Self)> {
        let config = read_config(&path.join("config.json"))?;
        let index = path.join("model.safetensors.index.json");
        let names: BTreeSet<String> = if index.is_file() {
            let index: IndexJson = read_json(&index)?;
            index.weight_map.into_values().collect()
        } else {
            BTreeSet::from(["model.safetensors".to_owned()])
        };
        let (mut files, mut kinds, mut digests) = (HashMap::new(), Vec::new(), Vec::new());
        let (mut bytes, mut parameters) = (0, 0);
        for name in names {
            if Path::new(&name).components().count() != 1 {
                return Err(EngineError::BadSafetensors {
                    path: index,
                    reason: format!("its shard {name:?} is outside the folder"),
                });
            }
            let file = path.join(name);
            for (tensor, header) in read_header(&file)? {
                parameters += header.shape.iter().map(|&dim| dim as u64).product::<u64>();
                kinds.push(header.dtype);
                files.insert(tensor, file.clone());
            }
            bytes += std::fs::metadata(&file)
                .map_err(|source| EngineError::Io { path: file.clone(), source })?
                .len();
            digests.push(digest::sha256_file(&file)?);
        }
        let info = ModelInfo {
            name: path
                .file_name()
                .map_or_else(|| "unnamed".into(), |name| name.to_string_lossy().into_owned()),
            path: path.to_owned(),
            sha256: digest::sha256_of(digests.iter().map(String::as_bytes)),
            format: "safetensors",
            tensors: summarise(kinds.into_iter()),
            parameters,
            context_length: config.context_length,
            vocabulary: config.vocabulary,
            layers: config.layers,
            bytes,
        };
        Ok((info, config, Self { path: path.to_owned(), files }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn reader(&self) -> FolderReader<'_> {
        FolderReader { folder: self, shard: None }
    }
}

/// Reads tensors; keeps the last shard open, since consecutive reads are usually in the same shard.
pub(crate) struct FolderReader<'a> {
    folder: &'a Folder,
    shard: Option<(PathBuf, HashMap<String, Tensor>)>,
}

impl FolderReader<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.folder.files.contains_key(name)
    }

    pub(super) fn read(&mut self, name: &str) -> Result<Tensor> {
        let missing = || EngineError::MissingTensor { name: name.to_owned() };
        let file = self.folder.files.get(name).ok_or_else(missing)?;
        if self.shard.as_ref().is_none_or(|(open, _)| open != file) {
            self.shard = Some((file.clone(), load_safetensors(file, &Device::Cpu)?));
        }
        self.shard.as_ref().and_then(|(_, tensors)| tensors.get(name)).cloned().ok_or_else(missing)
    }
}

/// All tensors of a safetensors file, after its header has been checked.
pub(crate) fn load_safetensors(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    read_header(path)?;
    candle_core::safetensors::load(path, device).map_err(|error| EngineError::BadSafetensors {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Reads and checks the header: 8 bytes of length, then JSON; every tensor must lie inside the
/// file.
fn read_header(path: &Path) -> Result<HashMap<String, TensorHeader>> {
    let io = |source| EngineError::Io { path: path.to_owned(), source };
    let bad = |reason: String| EngineError::BadSafetensors { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(io)?.len();
    let mut file = File::open(path).map_err(io)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| bad(format!("it has {size} bytes, too few for a header")))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length + 8 > size {
        return Err(bad(format!("its header claims {length} bytes, the file has {size}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    let mut header: HashMap<String, serde_json::Value> = serde_json::from_slice(&header)
        .map_err(|error| bad(format!("its header is not JSON: {error}")))?;
    header.remove("__metadata__");
    let room = size - 8 - length;
    let mut tensors = HashMap::with_capacity(header.len());
    for (name, value) in header {
        let tensor: TensorHeader = serde_json::from_value(value)
            .map_err(|error| bad(format!("tensor {name:?}: {error}")))?;
        if tensor.data_offsets.0 > tensor.data_offsets.1 || tensor.data_offsets.1 > room {
            return Err(bad(format!(
                "tensor {name:?} reaches beyond the file's {size} bytes: it is truncated; download it again"
            )));
        }
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| EngineError::Io { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|error| EngineError::BadModelConfig {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn read_config(path: &Path) -> Result<ModelConfig> {
    let bad = |reason: String| EngineError::BadModelConfig { path: path.to_owned(), reason };
    // checked before the shape, whose fields have other names in other architectures
    let KindJson { model_type } = read_json(path)?;
    if model_type != "llama" {
        return Err(EngineError::UnsupportedArchitecture {
            found: model_type,
            expected: "\"llama\"",
        });
    }
    let json: ConfigJson = read_json(path)?;
    if json.attention_bias || json.mlp_bias {
        return Err(bad("attention_bias and mlp_bias are not supported, expected false".into()));
    }
    let rope = json.rope_parameters.or(json.rope_scaling);
    let theta =
        rope.as_ref().and_then(|rope| rope.rope_theta).or(json.rope_theta).unwrap_or(10_000.0);
    let scaling = match rope {
        None => None,
        Some(rope) => match rope.rope_type.as_deref() {
            None | Some("default") => None,
            Some("llama3") => Some(Llama3Scaling {
                factor: rope.factor.ok_or_else(|| bad("rope_scaling has no factor".into()))?,
                low_freq_factor: rope.low_freq_factor.unwrap_or(1.0),
                high_freq_factor: rope.high_freq_factor.unwrap_or(4.0),
                original_context: rope.original_max_position_embeddings.unwrap_or(8192),
            }),
            Some(other) => {
                return Err(bad(format!(
                    "rope_type is {other:?}, expected \"default\" or \"llama3\""
                )));
            }
        },
    };
    let config = ModelConfig {
        hidden: json.hidden_size,
        intermediate: json.intermediate_size,
        layers: json.num_hidden_layers,
        heads: json.num_attention_heads,
        kv_heads: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
        head_dim: json.head_dim.unwrap_or(json.hidden_size / json.num_attention_heads.max(1)),
        vocabulary: json.vocab_size,
        context_length: json.max_position_embeddings,
        norm_eps: json.rms_norm_eps,
        rope: Rope { theta, interleaved: false, scaling },
        tied: json.tie_word_embeddings,
    };
    config.validate().map_err(bad)?;
    Ok(config)
}
