//! Input files of the benchmark: adapters from fixed seeds, as PEFT folders for Nyx and as GGUF for
//! llama.cpp, and the base model requantised to Q4_0.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use nyx_engine::ModelFiles;
use nyx_engine::lora::Target;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::Fallible;

/// Number of adapters.
pub const COUNT: usize = 5;
/// Rank of the adapters, which cover all seven projections of every layer.
const RANK: usize = 16;
const ALPHA: f32 = 32.0;

/// Paths of the adapter files; empty by default.
#[derive(Default)]
pub struct Adapters {
    paths: Vec<PathBuf>,
    /// Bytes of one adapter's weights.
    pub bytes: usize,
}

impl Adapters {
    /// The PEFT folders.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.paths.clone()
    }

    pub fn gguf_files(&self) -> Vec<PathBuf> {
        self.paths.iter().map(|path| path.join("adapter.gguf")).collect()
    }

    /// The adapters that another process has written to this folder.
    pub fn at(folder: &Path) -> Self {
        Self { paths: (0..COUNT).map(|index| folder.join(index.to_string())).collect(), bytes: 0 }
    }
}

/// Writes all adapters in f16, from fixed seeds.
pub fn make(files: &ModelFiles, folder: &Path) -> Fallible<Adapters> {
    let mut adapters = Adapters::at(folder);
    for (seed, path) in adapters.paths.iter().enumerate() {
        adapters.bytes = make_one(files, path, seed as u64)?;
    }
    Ok(adapters)
}

/// Copies an adapter with its `lora_alpha` multiplied by `times`.
pub fn stronger(folder: &Path, times: f32, into: &Path) -> Fallible<()> {
    std::fs::create_dir_all(into)?;
    write_config(into, ALPHA * times)?;
    std::fs::copy(
        folder.join("adapter_model.safetensors"),
        into.join("adapter_model.safetensors"),
    )?;
    Ok(())
}

fn write_config(folder: &Path, alpha: f32) -> Fallible<()> {
    let config =
        serde_json::json!({"peft_type": "LORA", "r": RANK, "lora_alpha": alpha, "bias": "none"});
    Ok(std::fs::write(folder.join("adapter_config.json"), config.to_string())?)
}

fn make_one(files: &ModelFiles, folder: &Path, seed: u64) -> Fallible<usize> {
    std::fs::create_dir_all(folder)?;
    write_config(folder, ALPHA)?;
    let mut random = StdRng::seed_from_u64(seed);
    let (mut peft, mut gguf, mut bytes) = (HashMap::new(), Vec::new(), 0);
    for layer in 0..files.config().layers {
        for target in Target::ALL {
            let [out, columns] = target.shape(files.config());
            for (matrix, rows, columns) in [("A", RANK, columns), ("B", out, RANK)] {
                let values: Vec<f32> =
                    (0..rows * columns).map(|_| random.random_range(-0.02..0.02)).collect();
                let weight = Tensor::from_vec(values, (rows, columns), &Device::Cpu)?
                    .to_dtype(DType::F16)?;
                bytes += rows * columns * DType::F16.size_in_bytes();
                let heads = match target {
                    Target::Q => files.config().heads,
                    Target::K => files.config().kv_heads,
                    _ => 0,
                };
                let theirs = if matrix == "B" && heads > 0 {
                    neighbours(&weight, heads)?
                } else {
                    weight.clone()
                };
                let name = format!(
                    "blk.{layer}.{}.weight.lora_{}",
                    gguf_module(target),
                    matrix.to_lowercase()
                );
                gguf.push((
                    name,
                    QTensor::quantize(&theirs.to_dtype(DType::F32)?, GgmlDType::F16)?,
                ));
                peft.insert(
                    format!(
                        "base_model.model.model.layers.{layer}.{}.lora_{matrix}.weight",
                        target.module()
                    ),
                    weight,
                );
            }
        }
    }
    candle_core::safetensors::save(&peft, folder.join("adapter_model.safetensors"))?;
    let metadata = [
        ("general.architecture", gguf_file::Value::String("llama".into())),
        ("general.type", gguf_file::Value::String("adapter".into())),
        ("adapter.type", gguf_file::Value::String("lora".into())),
        ("adapter.lora.alpha", gguf_file::Value::F32(ALPHA)),
    ];
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    write_gguf(&folder.join("adapter.gguf"), &metadata, &gguf)?;
    Ok(bytes)
}

fn gguf_module(target: Target) -> &'static str {
    match target {
        Target::Q => "attn_q",
        Target::K => "attn_k",
        Target::V => "attn_v",
        Target::O => "attn_output",
        Target::Gate => "ffn_gate",
        Target::Up => "ffn_up",
        Target::Down => "ffn_down",
    }
}

/// Permutes rows of q and k to GGUF's order for Llama: the two rows that rotate together are
/// adjacent; in PEFT they are half a head apart.
fn neighbours(b: &Tensor, heads: usize) -> Fallible<Tensor> {
    let (out, rank) = b.dims2()?;
    Ok(b.reshape((heads, 2, out / heads / 2, rank))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((out, rank))?)
}

fn write_gguf(
    path: &Path,
    metadata: &[(&str, &gguf_file::Value)],
    tensors: &[(String, QTensor)],
) -> Fallible<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut writer, metadata, &tensors)?;
    Ok(writer.flush()?)
}

/// Writes the model with its Q4_1 tensors requantised to Q4_0, for which llama.cpp has its fastest
/// kernels; returns `false` when it has no Q4_1 tensors.
pub fn write_q4_0(model: &Path, into: &Path) -> Fallible<bool> {
    let mut reader = BufReader::new(File::open(model)?);
    let content = gguf_file::Content::read(&mut reader)?;
    if !content.tensor_infos.values().any(|info| info.ggml_dtype == GgmlDType::Q4_1) {
        return Ok(false);
    }
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort();
    let mut tensors = Vec::new();
    for name in names {
        let tensor = content.tensor(&mut reader, name, &Device::Cpu)?;
        let tensor = match tensor.dtype() {
            GgmlDType::Q4_1 => {
                QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, GgmlDType::Q4_0)?
            }
            _ => tensor,
        };
        tensors.push((name.clone(), tensor));
    }
    // candle's writer aligns tensors to 32 bytes, whatever the source file's alignment
    let kept = content.metadata.iter().filter(|(key, _)| *key != "general.alignment");
    write_gguf(
        into,
        &kept.map(|(key, value)| (key.as_str(), value)).collect::<Vec<_>>(),
        &tensors,
    )?;
    Ok(true)
}
