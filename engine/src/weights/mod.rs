//! Model files: GGUF, or a Hugging Face folder. Opened and checked here, loaded onto a device by
//! [`Llama::load`](crate::Llama::load).

mod digest;
mod folder;
mod gguf;
mod info;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{EngineError, ModelConfig, Result};

pub use digest::sha256_file;
pub(crate) use digest::sha256_of;
pub(crate) use folder::{load_safetensors, read_json};
pub use info::ModelInfo;

/// Format in which weights are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Quantisation {
    /// As in the file.
    #[default]
    #[serde(rename = "none")]
    None,
    /// f32, including weights that are quantised in the file: four to eight times the memory, for
    /// comparisons.
    #[serde(rename = "f32")]
    F32,
    /// This variant and the next quantise weights that the file does not.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Rows whose length is not a multiple of 256 fall back to Q8_0.
    #[serde(rename = "q4_k")]
    Q4K,
}

/// A model's files, opened and checked, not yet on a device.
#[derive(Debug)]
pub struct ModelFiles {
    info: ModelInfo,
    config: ModelConfig,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Gguf(gguf::GgufFile),
    Folder(folder::Folder),
}

impl ModelFiles {
    /// Opens a `.gguf` file or a folder with `config.json` and safetensors.
    ///
    /// # Errors
    /// When the path does not exist, the files are damaged, or the architecture is not Llama.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| EngineError::ModelNotFound {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        if metadata.is_dir() {
            let (info, config, folder) = folder::Folder::open(path)?;
            return Ok(Self { info, config, source: Source::Folder(folder) });
        }
        let (info, config, file) = gguf::GgufFile::open(path)?;
        Ok(Self { info, config, source: Source::Gguf(file) })
    }

    /// What is known of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// A value of the GGUF's metadata, such as `tokenizer.chat_template`; `None` for a folder.
    pub fn gguf(&self) -> Option<&gguf_file::Content> {
        match &self.source {
            Source::Gguf(file) => Some(file.content()),
            Source::Folder(_) => None,
        }
    }

    /// The folder of a Hugging Face model; `None` for a GGUF file.
    pub fn folder(&self) -> Option<&Path> {
        match &self.source {
            Source::Gguf(_) => None,
            Source::Folder(folder) => Some(folder.path()),
        }
    }

    pub(crate) fn reader(&self) -> Result<WeightReader<'_>> {
        Ok(match &self.source {
            Source::Gguf(file) => WeightReader::Gguf(file.reader()?),
            Source::Folder(folder) => WeightReader::Folder(folder.reader()),
        })
    }
}

/// A weight matrix in the format it is multiplied in: quantised blocks, or f32.
#[derive(Debug, Clone)]
pub(crate) enum Matrix {
    Quantised(Arc<QTensor>),
    Dense(Tensor),
}

impl Matrix {
    /// Selects rows and columns of it, on `device`. Columns must be whole blocks.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn part(
        self,
        rows: Range<usize>,
        columns: Range<usize>,
        device: &Device,
    ) -> Result<Self> {
        match self {
            Self::Dense(tensor) => {
                if tensor.dims2()? == (rows.len(), columns.len()) {
                    return Ok(Self::Dense(tensor.to_device(device)?));
                }
                let part = tensor.narrow(0, rows.start, rows.len())?.narrow(
                    1,
                    columns.start,
                    columns.len(),
                )?;
                Ok(Self::Dense(part.contiguous()?.to_device(device)?))
            }
            Self::Quantised(tensor) => {
                let (all_rows, all_columns) = tensor.shape().dims2()?;
                if (all_rows, all_columns) == (rows.len(), columns.len())
                    && device.same_device(&tensor.device())
                {
                    return Ok(Self::Quantised(tensor));
                }
                let (size, dtype) = (tensor.dtype().block_size(), tensor.dtype());
                if !columns.start.is_multiple_of(size) || !columns.end.is_multiple_of(size) {
                    let reason = format!(
                        "columns {columns:?} of {dtype:?} weights are not whole blocks of {size}"
                    );
                    return Err(EngineError::Sharding { reason });
                }
                let bytes = |columns: usize| columns / size * dtype.type_size();
                let data = tensor.data()?;
                let row_bytes = bytes(all_columns);
                let wanted = data.chunks_exact(row_bytes).take(rows.end).skip(rows.start);
                let blocks: Vec<u8> = wanted
                    .flat_map(|row| &row[bytes(columns.start)..bytes(columns.end)])
                    .copied()
                    .collect();
                let part =
                    qtensor_from_ggml(dtype, &blocks, vec![rows.len(), columns.len()], device)?;
                Ok(Self::Quantised(Arc::new(part)))
            }
        }
    }
}

/// Reads tensors by their Hugging Face names, whatever the file format.
pub(crate) enum WeightReader<'a> {
    Gguf(gguf::GgufReader<'a>),
    Folder(folder::FolderReader<'a>),
}

impl WeightReader<'_> {
    /// A vector or small tensor in f32.
    pub(crate) fn dense(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        let tensor = match self {
            Self::Gguf(reader) => reader.read(name, device)?.dequantize(device)?,
            Self::Folder(reader) => reader.read(name)?.to_dtype(DType::F32)?.to_device(device)?,
        };
        check_shape(name, tensor.dims(), shape)?;
        Ok(tensor)
    }

    /// A weight matrix `[out, in]`, quantised at load if requested and possible.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        shape: [usize; 2],
        quantisation: Quantisation,
        device: &Device,
    ) -> Result<Matrix> {
        let dense = match self {
            Self::Gguf(reader) => {
                let tensor = reader.read(name, device)?;
                check_shape(name, tensor.shape().dims(), &shape)?;
                let quantised =
                    !matches!(tensor.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
                if quantised && quantisation != Quantisation::F32 {
                    return Ok(Matrix::Quantised(Arc::new(tensor)));
                }
                tensor.dequantize(device)?
            }
            Self::Folder(reader) => reader.read(name)?.to_dtype(DType::F32)?.to_device(device)?,
        };
        check_shape(name, dense.dims(), &shape)?;
        let dtype = match quantisation {
            Quantisation::None | Quantisation::F32 => return Ok(Matrix::Dense(dense)),
            Quantisation::Q4K if shape[1].is_multiple_of(GgmlDType::Q4K.block_size()) => {
                GgmlDType::Q4K
            }
            Quantisation::Q8_0 | Quantisation::Q4K => {
                if quantisation == Quantisation::Q4K {
                    tracing::info!(
                        tensor = name,
                        row = shape[1],
                        "256 does not divide the row: q8_0 instead of q4_k"
                    );
                }
                GgmlDType::Q8_0
            }
        };
        if !shape[1].is_multiple_of(dtype.block_size()) {
            tracing::info!(
                tensor = name,
                row = shape[1],
                "32 does not divide the row: kept in f32"
            );
            return Ok(Matrix::Dense(dense));
        }
        Ok(Matrix::Quantised(Arc::new(QTensor::quantize(&dense, dtype)?)))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Gguf(reader) => reader.has(name),
            Self::Folder(reader) => reader.has(name),
        }
    }

    /// GGUF's divisors of the inverse RoPE frequencies, `[head_dim / 2]`.
    pub(crate) fn rope_factors(&mut self, pairs: usize) -> Result<Option<Vec<f32>>> {
        match self {
            Self::Gguf(reader) if reader.has("rope_freqs.weight") => {
                let factors =
                    reader.read("rope_freqs.weight", &Device::Cpu)?.dequantize(&Device::Cpu)?;
                check_shape("rope_freqs.weight", factors.dims(), &[pairs])?;
                Ok(Some(factors.to_vec1()?))
            }
            _ => Ok(None),
        }
    }
}

fn check_shape(name: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(EngineError::BadShape {
        name: name.to_owned(),
        found: found.to_vec(),
        expected: expected.to_vec(),
    })
}
