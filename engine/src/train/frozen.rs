//! The frozen base model. Weights keep the file's data type in memory and are dequantised for each
//! product.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QTensor};
use half::f16;

use crate::kernels::{
    Isa, Left, PairedPanels, Right, Scaled, ThreadPool, bf16_is_faster, gemm, gemm_bf16, has_bf16,
    pack_pairs, to_bf16, transposed,
};
use crate::lora::Target;
use crate::weights::{Matrix, Quantisation, WeightReader};
use crate::{EngineError, ModelConfig, ModelFiles, Result};

/// Data type of the matrix products of a training step; accumulation is always in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum TrainPrecision {
    /// bf16 products where the processor computes them faster than f32, else f32; activations for
    /// the backward pass are stored in bf16.
    #[default]
    Auto,
    /// bf16 products with f32 accumulation; activations are stored in bf16.
    Bf16,
    /// f32 products; activations are stored in f32.
    F32,
}

/// A weight matrix `[out, in]`.
#[derive(Debug)]
pub(super) struct Frozen {
    source: Source,
    pub(super) out: usize,
    pub(super) columns: usize,
}

#[derive(Debug)]
enum Source {
    Quantised(Arc<QTensor>),
    Dense(Vec<f32>),
}

/// Number of columns that share a scale in the block types decoded here.
const BLOCK: usize = 32;

impl Frozen {
    fn new(matrix: Matrix, out: usize, columns: usize) -> Result<Self> {
        let source = match matrix {
            Matrix::Quantised(tensor) => Source::Quantised(tensor),
            Matrix::Dense(tensor) => Source::Dense(tensor.flatten_all()?.to_vec1()?),
        };
        Ok(Self { source, out, columns })
    }

    /// Writes the given rows in f32 to `into`, `[rows, in]`; rows past the last one are 0.
    pub(super) fn rows(&self, rows: Range<usize>, into: &mut [f32]) {
        let there = rows.start.min(self.out)..rows.end.min(self.out);
        let (into, behind) = into.split_at_mut(there.len() * self.columns);
        behind.fill(0.0);
        self.read(there, into);
    }

    fn read(&self, rows: Range<usize>, into: &mut [f32]) {
        let tensor = match &self.source {
            Source::Dense(values) => {
                return into
                    .copy_from_slice(&values[rows.start * self.columns..rows.end * self.columns]);
            }
            Source::Quantised(tensor) => tensor,
        };
        let dtype = tensor.dtype();
        let row_bytes = self.columns / dtype.block_size() * dtype.type_size();
        // on a CPU the data is borrowed, not copied
        let Ok(data) = tensor.data() else { return into.fill(f32::NAN) };
        let bytes = &data[rows.start * row_bytes..rows.end * row_bytes];
        let scale =
            |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        match dtype {
            GgmlDType::Q4_1 => {
                for (block, values) in bytes.chunks_exact(20).zip(into.chunks_exact_mut(BLOCK)) {
                    nibbles(&block[4..], scale(block, 0), scale(block, 2), values);
                }
            }
            GgmlDType::Q4_0 => {
                for (block, values) in bytes.chunks_exact(18).zip(into.chunks_exact_mut(BLOCK)) {
                    let d = scale(block, 0);
                    nibbles(&block[2..], d, -8.0 * d, values);
                }
            }
            GgmlDType::Q8_0 => {
                for (block, values) in bytes.chunks_exact(34).zip(into.chunks_exact_mut(BLOCK)) {
                    let d = scale(block, 0);
                    values
                        .iter_mut()
                        .zip(&block[2..])
                        .for_each(|(value, byte)| *value = f32::from(byte.cast_signed()) * d);
                }
            }
            // candle decodes all other types; a failure gives NaN, and the trainer aborts on a loss
            // that is not finite
            other => {
                let part =
                    qtensor_from_ggml(other, bytes, vec![rows.len(), self.columns], &Device::Cpu);
                let read = part
                    .and_then(|part| part.dequantize(&Device::Cpu))
                    .and_then(|part| part.flatten_all()?.to_vec1::<f32>());
                match read {
                    Ok(values) => into.copy_from_slice(&values),
                    Err(_) => into.fill(f32::NAN),
                }
            }
        }
    }
}

/// Decodes a block of 4-bit values; the low nibbles hold the first half of the values.
#[inline]
fn nibbles(bytes: &[u8], scale: f32, least: f32, values: &mut [f32]) {
    let (low, high) = values.split_at_mut(BLOCK / 2);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = f32::from(byte & 15) * scale + least;
        *high = f32::from(byte >> 4) * scale + least;
    }
}

/// Weights of one layer.
#[derive(Debug)]
pub(super) struct FrozenLayer {
    pub(super) input_norm: Vec<f32>,
    pub(super) post_norm: Vec<f32>,
    weights: [Frozen; 7],
}

impl FrozenLayer {
    pub(super) fn weight(&self, target: Target) -> &Frozen {
        &self.weights[target.index()]
    }
}

/// All weights of the base model.
#[derive(Debug)]
pub(super) struct FrozenModel {
    pub(super) config: ModelConfig,
    pub(super) embedding: Frozen,
    pub(super) layers: Vec<FrozenLayer>,
    pub(super) norm: Vec<f32>,
    /// The output layer; `None` if it is tied to the embedding.
    output: Option<Frozen>,
    pub(super) inverse_frequencies: Vec<f32>,
}

impl FrozenModel {
    /// Loads the base model.
    ///
    /// # Errors
    /// The files cannot be read, or the CPU kernels do not support the model's shape.
    pub(super) fn load(files: &ModelFiles) -> Result<Self> {
        let config = files.config().clone();
        if !config.suits_kernels() {
            let reason =
                "training needs hidden and intermediate sizes divisible by 32 and a head size divisible by 16"
                    .to_owned();
            return Err(EngineError::Training { reason });
        }
        let (device, mut reader) = (Device::Cpu, files.reader()?);
        let matrix = |reader: &mut WeightReader<'_>,
                      name: &str,
                      [out, columns]: [usize; 2]|
         -> Result<Frozen> {
            Frozen::new(
                reader.matrix(name, [out, columns], Quantisation::None, &device)?,
                out,
                columns,
            )
        };
        let embedding =
            matrix(&mut reader, "model.embed_tokens.weight", [config.vocabulary, config.hidden])?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let name = |part: &str| format!("model.layers.{index}.{part}.weight");
            let mut weights = Vec::with_capacity(Target::ALL.len());
            for target in Target::ALL {
                weights.push(matrix(&mut reader, &name(target.module()), target.shape(&config))?);
            }
            let weights = <[Frozen; 7]>::try_from(weights).map_err(|_| EngineError::Training {
                reason: "a layer has seven weights".into(),
            })?;
            let mut vector = |part: &str| -> Result<Vec<f32>> {
                Ok(reader.dense(&name(part), &[config.hidden], &device)?.to_vec1()?)
            };
            layers.push(FrozenLayer {
                input_norm: vector("input_layernorm")?,
                post_norm: vector("post_attention_layernorm")?,
                weights,
            });
        }
        let norm = reader.dense("model.norm.weight", &[config.hidden], &device)?.to_vec1()?;
        let tied = config.tied && !reader.has("lm_head.weight");
        let output = if tied {
            None
        } else {
            Some(matrix(&mut reader, "lm_head.weight", [config.vocabulary, config.hidden])?)
        };
        let factors = reader.rope_factors(config.head_dim / 2)?;
        let inverse_frequencies =
            config.rope.inverse_frequencies(config.head_dim, factors.as_deref());
        Ok(Self { config, embedding, layers, norm, output, inverse_frequencies })
    }

    pub(super) fn output(&self) -> &Frozen {
        self.output.as_ref().unwrap_or(&self.embedding)
    }
}

/// Multiplies activations with frozen weights; holds the weight that is currently dequantised.
#[derive(Debug)]
pub(super) struct Multiplier {
    pub(super) threads: ThreadPool,
    pub(super) isa: Isa,
    /// Products are computed in bf16.
    pub(super) bf16: bool,
    /// Activations for the backward pass are stored in bf16.
    pub(super) keep_bf16: bool,
    panels: PairedPanels,
    dense: Vec<f32>,
    turned: Vec<f32>,
    rounded: Vec<u16>,
}

impl Multiplier {
    pub(super) fn new(threads: usize, precision: TrainPrecision) -> Result<Self> {
        let can = has_bf16();
        if precision == TrainPrecision::Bf16 && !can {
            let reason =
                "precision is bf16, which this processor does not support, expected auto or f32"
                    .to_owned();
            return Err(EngineError::Training { reason });
        }
        Ok(Self {
            threads: ThreadPool::new(threads),
            isa: Isa::detect(),
            bf16: match precision {
                TrainPrecision::Auto => bf16_is_faster(),
                TrainPrecision::Bf16 => true,
                TrainPrecision::F32 => false,
            },
            keep_bf16: precision != TrainPrecision::F32,
            panels: PairedPanels::default(),
            dense: Vec::new(),
            turned: Vec::new(),
            rounded: Vec::new(),
        })
    }

    /// Computes `y = x · wᵀ` with the given rows of each weight, for the same `x` `[tokens, in]`;
    /// each `y` is `[tokens, rows]`.
    pub(super) fn forward(
        &mut self,
        x: &[f32],
        products: &mut [(&Frozen, Range<usize>, &mut Vec<f32>)],
    ) {
        self.round(x);
        for (w, rows, y) in products {
            let (out, columns) = (rows.len(), w.columns);
            y.resize(x.len() / columns * out, 0.0);
            if self.bf16 {
                let read = |part: Range<usize>, into: &mut [f32]| {
                    w.rows(rows.start + part.start..rows.start + part.end, into)
                };
                pack_pairs(
                    &self.threads,
                    self.isa,
                    out,
                    columns,
                    read,
                    Some(&mut self.panels),
                    None,
                );
                gemm_bf16(&self.threads, &self.rounded, &self.panels, y, false);
            } else {
                self.turned.resize(out * columns, 0.0);
                let read = |part: Range<usize>, into: &mut [f32]| {
                    w.rows(rows.start + part.start..rows.start + part.end, into)
                };
                transposed(&self.threads, out, columns, read, &mut self.turned);
                gemm(
                    &self.threads,
                    self.isa,
                    Left::rows(x, columns),
                    Right::rows(&self.turned, out),
                    y,
                    out,
                    Scaled::WRITE,
                );
            }
        }
    }

    /// Computes `dx = dy · w`, or `dx += dy · w` with `add`; `dy` is `[tokens, rows]`, `dx`
    /// `[tokens, in]`.
    pub(super) fn backward(
        &mut self,
        w: &Frozen,
        rows: Range<usize>,
        dy: &[f32],
        dx: &mut [f32],
        add: bool,
    ) {
        let (out, columns) = (rows.len(), w.columns);
        if self.bf16 {
            self.round(dy);
            let read = |part: Range<usize>, into: &mut [f32]| {
                w.rows(rows.start + part.start..rows.start + part.end, into)
            };
            pack_pairs(&self.threads, self.isa, out, columns, read, None, Some(&mut self.panels));
            gemm_bf16(&self.threads, &self.rounded, &self.panels, dx, add);
        } else {
            self.dequantise(w, rows);
            let scaled = Scaled { by: 1.0, add };
            gemm(
                &self.threads,
                self.isa,
                Left::rows(dy, out),
                Right::rows(&self.dense, columns),
                dx,
                columns,
                scaled,
            );
        }
    }

    fn round(&mut self, x: &[f32]) {
        if self.bf16 {
            self.rounded.resize(x.len(), 0);
            to_bf16(&self.threads, self.isa, x, &mut self.rounded);
        }
    }

    fn dequantise(&mut self, w: &Frozen, rows: Range<usize>) {
        self.dense.resize(rows.len() * w.columns, 0.0);
        self.threads.for_rows(&mut self.dense, w.columns, |row, values| {
            w.rows(rows.start + row..rows.start + row + 1, values)
        });
    }
}
