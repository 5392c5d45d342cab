//! The Llama architecture (Touvron et al. 2023, with Llama 3's GQA and RoPE scaling) over a ragged batch.

mod attention;
mod config;
mod linear;
#[cfg(test)]
mod tests;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{rms_norm, silu};

pub use config::{Llama3Scaling, ModelConfig, Rope};

use crate::comm::Communicator;
use crate::kv::KvCache;
use crate::lora::{AdapterHandle, Target};
use crate::weights::{Matrix, ModelFiles, Quantisation, WeightReader};
use crate::{EngineError, Result};
use attention::Positions;
use linear::{Embedding, Linear, Run};

/// For which of a segment's rows logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    None,
    Last,
    All,
}

/// A run of consecutive tokens of one sequence, after what its cache already holds.
#[derive(Debug)]
pub struct Segment<'a> {
    pub tokens: &'a [u32],
    pub kv: &'a mut KvCache,
    pub adapter: Option<AdapterHandle>,
    pub logits: LogitRows,
}

/// The base model on one device, read-only once loaded.
#[derive(Debug)]
pub struct Llama {
    config: ModelConfig,
    device: Device,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Tensor,
    output: Linear,
    /// `[head_dim / 2]`
    inverse_frequencies: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    input_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn load(
        reader: &mut WeightReader<'_>,
        config: &ModelConfig,
        index: usize,
        quantisation: Quantisation,
        device: &Device,
    ) -> Result<Self> {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let mut matrix = |part: &str, out: usize, rows_of: usize| -> Result<Linear> {
            Linear::new(reader.matrix(&name(part), [out, rows_of], quantisation, device)?)
        };
        let (q, k) = (matrix("self_attn.q_proj", queries, hidden)?, matrix("self_attn.k_proj", keys, hidden)?);
        let (v, o) = (matrix("self_attn.v_proj", keys, hidden)?, matrix("self_attn.o_proj", hidden, queries)?);
        let (gate, up) = (matrix("mlp.gate_proj", inner, hidden)?, matrix("mlp.up_proj", inner, hidden)?);
        let down = matrix("mlp.down_proj", hidden, inner)?;
        let input_norm = reader.dense(&name("input_layernorm"), &[hidden], device)?;
        let post_norm = reader.dense(&name("post_attention_layernorm"), &[hidden], device)?;
        Ok(Self { input_norm, q, k, v, o, post_norm, gate, up, down })
    }
}

impl Llama {
    /// Reads the weights onto `device`; those that the file does not quantise are quantised as asked.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape is named.
    pub fn load(files: &ModelFiles, quantisation: Quantisation, device: &Device) -> Result<Self> {
        let config = files.config().clone();
        let mut reader = files.reader()?;
        let shape = [config.vocabulary, config.hidden];
        let table = reader.matrix("model.embed_tokens.weight", shape, quantisation, device)?;
        let output = if config.tied && !reader.has("lm_head.weight") {
            Linear::new(table.clone())?
        } else {
            Linear::new(reader.matrix("lm_head.weight", shape, quantisation, device)?)?
        };
        let embedding = match table {
            Matrix::Quantised(table) => Embedding::Quantised(table),
            Matrix::Dense(table) => Embedding::Dense(table),
        };
        let layers =
            (0..config.layers).map(|index| Layer::load(&mut reader, &config, index, quantisation, device)).collect::<Result<Vec<_>>>()?;
        let norm = reader.dense("model.norm.weight", &[config.hidden], device)?;
        let factors = reader.rope_factors(config.head_dim / 2)?;
        let inverse_frequencies = config.rope.inverse_frequencies(config.head_dim, factors.as_deref());
        Ok(Self { config, device: device.clone(), embedding, layers, norm, output, inverse_frequencies })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// An empty cache for a sequence of this model.
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(self.config.layers, self.config.kv_heads, self.config.head_dim, &self.device)
    }

    /// One forward pass over a ragged batch: appends each segment's keys and values to its cache and returns f32 logits
    /// `[rows, vocabulary]` for the rows asked for, in the order of the segments.
    ///
    /// On an error the caches' lengths are unchanged.
    ///
    /// # Errors
    /// An empty segment, a token outside the vocabulary, a sequence over the context window, or a device failure.
    pub fn forward(&self, batch: &mut [Segment<'_>], comm: &dyn Communicator) -> Result<Tensor> {
        for segment in batch.iter_mut() {
            self.check(segment)?;
            segment.kv.reserve(segment.tokens.len())?;
        }
        let tokens: Vec<u32> = batch.iter().flat_map(|segment| segment.tokens.iter().copied()).collect();
        let positions = Positions::new(batch, &self.inverse_frequencies, &self.device)?;
        let runs = runs(batch);
        let eps = self.config.norm_eps;
        // [tokens, hidden]
        let mut x = self.embedding.forward(&Tensor::new(tokens.as_slice(), &self.device)?)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = rms_norm(&x, &layer.input_norm, eps)?;
            let q = layer.q.forward_with(&normed, &runs, index, Target::Q)?;
            let k = layer.k.forward_with(&normed, &runs, index, Target::K)?;
            let v = layer.v.forward_with(&normed, &runs, index, Target::V)?;
            let attended = attention::attend(&self.config, index, &q, &k, &v, batch, &positions)?;
            x = (x + comm.all_reduce(layer.o.forward_with(&attended, &runs, index, Target::O)?)?)?;
            let normed = rms_norm(&x, &layer.post_norm, eps)?;
            let gate = layer.gate.forward_with(&normed, &runs, index, Target::Gate)?;
            let up = layer.up.forward_with(&normed, &runs, index, Target::Up)?;
            let inner = (silu(&gate)? * up)?;
            x = (x + comm.all_reduce(layer.down.forward_with(&inner, &runs, index, Target::Down)?)?)?;
        }
        for segment in batch.iter_mut() {
            segment.kv.advance(segment.tokens.len());
        }
        self.logits(&x, batch)
    }

    /// The output layer, for the rows where logits are read.
    fn logits(&self, x: &Tensor, batch: &[Segment<'_>]) -> Result<Tensor> {
        let mut rows = Vec::new();
        let mut start = 0_u32;
        for segment in batch {
            let end = start + segment.tokens.len() as u32;
            match segment.logits {
                LogitRows::None => {}
                LogitRows::Last => rows.push(end - 1),
                LogitRows::All => rows.extend(start..end),
            }
            start = end;
        }
        if rows.is_empty() {
            return Ok(Tensor::zeros((0, self.config.vocabulary), DType::F32, &self.device)?);
        }
        let read = if rows.len() == x.dim(0)? { x.clone() } else { x.index_select(&Tensor::new(rows.as_slice(), &self.device)?, 0)? };
        self.output.forward(&rms_norm(&read, &self.norm, self.config.norm_eps)?)
    }

    fn check(&self, segment: &Segment<'_>) -> Result<()> {
        if segment.tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&token) = segment.tokens.iter().find(|&&token| token as usize >= self.config.vocabulary) {
            return Err(EngineError::TokenOutOfRange { token, vocabulary: self.config.vocabulary });
        }
        let end = segment.kv.len() + segment.tokens.len();
        if end > self.config.context_length {
            return Err(EngineError::ContextOverflow { prompt: end, max_tokens: 0, window: self.config.context_length });
        }
        Ok(())
    }
}

/// One run a segment: products of a sequence must not depend on its neighbours.
fn runs(batch: &[Segment<'_>]) -> Vec<Run> {
    let mut start = 0;
    batch
        .iter()
        .map(|segment| {
            let run = Run { start, rows: segment.tokens.len(), adapter: segment.adapter.clone() };
            start += run.rows;
            run
        })
        .collect()
}

/// The best token of each row of logits `[rows, vocabulary]`; the lowest id of equals.
///
/// # Errors
/// When the device fails.
pub fn argmax(logits: &Tensor) -> Result<Vec<u32>> {
    Ok(logits.argmax(D::Minus1)?.to_vec1()?)
}
