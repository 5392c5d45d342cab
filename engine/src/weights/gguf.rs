//! GGUF files, through candle's reader.

use std::fs::File;
use std::io::BufReader;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::{QTensor, gguf_file};

use super::digest;
use super::info::{ModelInfo, summarise};
use crate::model::{ModelConfig, Rope};
use crate::{EngineError, Result};

#[derive(Debug)]
pub(super) struct GgufFile {
    path: PathBuf,
    content: gguf_file::Content,
}

impl GgufFile {
    pub(super) fn open(path: &Path) -> Result<(ModelInfo, ModelConfig, Self)> {
        let bad = |reason: String| EngineError::BadGguf { path: path.to_owned(), reason };
        let io = |source| EngineError::Io { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        // candle checks lengths against the file, but an alignment of 0 causes a division by zero
        // there
        let content =
            catch_unwind(std::panic::AssertUnwindSafe(|| gguf_file::Content::read(&mut reader)))
                .map_err(|_| bad("its header makes no sense".into()))?
                .map_err(|error| bad(format!("{error}; download it again")))?;
        for (name, info) in &content.tensor_infos {
            let elements =
                info.shape.dims().iter().try_fold(1_usize, |count, &dim| count.checked_mul(dim));
            let size = elements.and_then(|count| {
                (count / info.ggml_dtype.block_size()).checked_mul(info.ggml_dtype.type_size())
            });
            let end = size.and_then(|size| {
                content.tensor_data_offset.checked_add(info.offset)?.checked_add(size as u64)
            });
            if end.is_none_or(|end| end > bytes) {
                return Err(bad(format!(
                    "tensor {name:?} reaches beyond the file's {bytes} bytes: it is truncated; download it again"
                )));
            }
        }
        let config = read_config(path, &content)?;
        let parameters =
            content.tensor_infos.values().map(|info| info.shape.elem_count() as u64).sum();
        let info = ModelInfo {
            name: string(&content, "general.name").unwrap_or_else(|| "unnamed".into()),
            path: path.to_owned(),
            sha256: digest::sha256_file(path)?,
            format: "gguf",
            tensors: summarise(
                content.tensor_infos.values().map(|info| format!("{:?}", info.ggml_dtype)),
            ),
            parameters,
            context_length: config.context_length,
            vocabulary: config.vocabulary,
            layers: config.layers,
            bytes,
        };
        Ok((info, config, Self { path: path.to_owned(), content }))
    }

    pub(super) fn content(&self) -> &gguf_file::Content {
        &self.content
    }

    pub(super) fn reader(&self) -> Result<GgufReader<'_>> {
        let file = File::open(&self.path)
            .map_err(|source| EngineError::Io { path: self.path.clone(), source })?;
        Ok(GgufReader { file: self, reader: BufReader::with_capacity(1 << 20, file) })
    }
}

pub(crate) struct GgufReader<'a> {
    file: &'a GgufFile,
    reader: BufReader<File>,
}

impl GgufReader<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.file.content.tensor_infos.contains_key(&gguf_name(name))
    }

    pub(super) fn read(&mut self, name: &str, device: &Device) -> Result<QTensor> {
        let gguf = gguf_name(name);
        if !self.file.content.tensor_infos.contains_key(&gguf) {
            return Err(EngineError::MissingTensor { name: gguf });
        }
        let read = self.file.content.tensor(&mut self.reader, &gguf, device);
        read.map_err(|error| EngineError::BadGguf {
            path: self.file.path.clone(),
            reason: format!("tensor {gguf:?}: {error}"),
        })
    }
}

/// Translates Hugging Face's tensor name to GGUF's.
pub(super) fn gguf_name(name: &str) -> String {
    let name = match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        other => other,
    };
    let mut gguf = name.replace("model.layers.", "blk.");
    for (theirs, ours) in [
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        gguf = gguf.replace(theirs, ours);
    }
    gguf
}

fn string(content: &gguf_file::Content, key: &str) -> Option<String> {
    content.metadata.get(key)?.to_string().ok().cloned()
}

fn read_config(path: &Path, content: &gguf_file::Content) -> Result<ModelConfig> {
    let bad = |reason: String| EngineError::BadGguf { path: path.to_owned(), reason };
    let architecture = string(content, "general.architecture")
        .ok_or_else(|| bad("it has no general.architecture".into()))?;
    if architecture != "llama" {
        return Err(EngineError::UnsupportedArchitecture {
            found: architecture,
            expected: "\"llama\"",
        });
    }
    let number = |key: &str| {
        let value = content.metadata.get(&format!("llama.{key}"))?;
        value
            .to_u64()
            .ok()
            .or_else(|| value.to_u32().ok().map(u64::from))
            .map(|number| number as usize)
    };
    let needed = |key: &str| number(key).ok_or_else(|| bad(format!("it has no llama.{key}")));
    let float = |key: &str| {
        content.metadata.get(&format!("llama.{key}")).and_then(|value| value.to_f32().ok())
    };
    // Llama 3's scaling is stored as the tensor rope_freqs; the other types would change every
    // logit
    if let Some(kind) = string(content, "llama.rope.scaling.type").filter(|kind| kind != "none") {
        return Err(bad(format!(
            "its llama.rope.scaling.type is {kind:?}, expected \"none\" (or Llama 3's rope_freqs.weight)"
        )));
    }
    let (hidden, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
    let embedding = content
        .tensor_infos
        .get("token_embd.weight")
        .ok_or(EngineError::MissingTensor { name: "token_embd.weight".into() })?;
    let config = ModelConfig {
        hidden,
        intermediate: needed("feed_forward_length")?,
        layers: needed("block_count")?,
        heads,
        kv_heads: number("attention.head_count_kv").unwrap_or(heads),
        head_dim: number("attention.key_length").unwrap_or(hidden / heads.max(1)),
        vocabulary: embedding.shape.dims().first().copied().unwrap_or(0),
        context_length: needed("context_length")?,
        norm_eps: float("attention.layer_norm_rms_epsilon")
            .ok_or_else(|| bad("it has no llama.attention.layer_norm_rms_epsilon".into()))?,
        rope: Rope {
            theta: float("rope.freq_base").unwrap_or(10_000.0),
            interleaved: true,
            scaling: None,
        },
        tied: !content.tensor_infos.contains_key("output.weight"),
    };
    config.validate().map_err(bad)?;
    Ok(config)
}
