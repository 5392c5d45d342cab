//! The model on candle's tensors, on any device: what runs on GPUs, and on CPUs where the shape does not suit the kernels.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::{rms_norm, silu};

use super::attention::{self, Positions};
use super::linear::{Embedding, Linear, Run};
use super::{ModelConfig, Segment, logit_rows};
use crate::Result;
use crate::comm::Communicator;
use crate::lora::Target;
use crate::weights::{Matrix, Quantisation, WeightReader};

/// Weights as tensors.
#[derive(Debug)]
pub(super) struct TensorModel {
    device: Device,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Tensor,
    output: Linear,
    /// `[head_dim / 2]`
    pub(super) inverse_frequencies: Vec<f32>,
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

impl TensorModel {
    pub(super) fn load(reader: &mut WeightReader<'_>, config: &ModelConfig, quantisation: Quantisation, device: &Device) -> Result<Self> {
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
            (0..config.layers).map(|index| Layer::load(reader, config, index, quantisation, device)).collect::<Result<Vec<_>>>()?;
        let norm = reader.dense("model.norm.weight", &[config.hidden], device)?;
        let factors = reader.rope_factors(config.head_dim / 2)?;
        let inverse_frequencies = config.rope.inverse_frequencies(config.head_dim, factors.as_deref());
        Ok(Self { device: device.clone(), embedding, layers, norm, output, inverse_frequencies })
    }

    /// As [`Llama::forward`](super::Llama::forward), after its checks.
    pub(super) fn forward(&self, config: &ModelConfig, batch: &mut [Segment<'_>], comm: &dyn Communicator) -> Result<Tensor> {
        let tokens: Vec<u32> = batch.iter().flat_map(|segment| segment.tokens.iter().copied()).collect();
        let positions = Positions::new(batch, &self.inverse_frequencies, &self.device)?;
        let runs = runs(batch);
        let eps = config.norm_eps;
        // [tokens, hidden]
        let mut x = self.embedding.forward(&Tensor::new(tokens.as_slice(), &self.device)?)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = rms_norm(&x, &layer.input_norm, eps)?;
            let q = layer.q.forward_with(&normed, &runs, index, Target::Q)?;
            let k = layer.k.forward_with(&normed, &runs, index, Target::K)?;
            let v = layer.v.forward_with(&normed, &runs, index, Target::V)?;
            let attended = attention::attend(config, index, &q, &k, &v, batch, &positions)?;
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
        self.logits(config, &x, batch)
    }

    /// The output layer, for the rows where logits are read.
    fn logits(&self, config: &ModelConfig, x: &Tensor, batch: &[Segment<'_>]) -> Result<Tensor> {
        let rows: Vec<u32> = logit_rows(batch).map(|row| row as u32).collect();
        if rows.is_empty() {
            return Ok(Tensor::zeros((0, config.vocabulary), DType::F32, &self.device)?);
        }
        let read = if rows.len() == x.dim(0)? { x.clone() } else { x.index_select(&Tensor::new(rows.as_slice(), &self.device)?, 0)? };
        self.output.forward(&rms_norm(&read, &self.norm, config.norm_eps)?)
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
