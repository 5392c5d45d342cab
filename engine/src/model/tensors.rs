//! One shard of the model on candle tensors, for any device: used on GPUs, and on CPUs if the CPU
//! kernels do not support the model's shape.

use candle_core::{DType, Device, Tensor};
use candle_nn::ops::{rms_norm, silu};

use super::attention::Attention;
use super::linear::{Adapters, Embedding, Linear};
use super::step::Step;
use super::{ModelConfig, Slice};
use crate::Result;
use crate::comm::Communicator;
use crate::kv::TensorStore;
use crate::lora::Target;
use crate::weights::{Matrix, Quantisation, WeightReader};

/// Weights as candle tensors, and the KV cache.
pub(super) struct TensorShard {
    device: Device,
    slice: Slice,
    comm: Box<dyn Communicator>,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Tensor,
    output: Linear,
    /// `[head_dim / 2]`
    pub(super) inverse_frequencies: Vec<f32>,
    store: TensorStore,
    adapters: Adapters,
    /// Sequences are computed in shared products, which is faster; results then depend, within
    /// rounding, on the other sequences of the batch.
    grouped: bool,
}

/// Weights of one layer.
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

/// Loads a shard's part of each matrix onto its device.
struct Parts<'a, 'r> {
    reader: &'a mut WeightReader<'r>,
    quantisation: Quantisation,
    /// Device on which whole matrices are read: the CPU if they are then split.
    first: Device,
    device: &'a Device,
}

impl Parts<'_, '_> {
    fn matrix(
        &mut self,
        name: &str,
        shape: [usize; 2],
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
    ) -> Result<Matrix> {
        self.reader.matrix(name, shape, self.quantisation, &self.first)?.part(
            rows,
            columns,
            self.device,
        )
    }
}

impl Layer {
    fn load(
        parts: &mut Parts<'_, '_>,
        config: &ModelConfig,
        slice: &Slice,
        index: usize,
    ) -> Result<Self> {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let mut split_rows =
            |part: &str, out: usize, rows: std::ops::Range<usize>| -> Result<Linear> {
                Linear::new(parts.matrix(&name(part), [out, hidden], rows, 0..hidden)?)
            };
        let q = split_rows("self_attn.q_proj", queries, slice.queries())?;
        let (k, v) = (
            split_rows("self_attn.k_proj", keys, slice.keys())?,
            split_rows("self_attn.v_proj", keys, slice.keys())?,
        );
        let (gate, up) = (
            split_rows("mlp.gate_proj", inner, slice.inner())?,
            split_rows("mlp.up_proj", inner, slice.inner())?,
        );
        let o = Linear::new(parts.matrix(
            &name("self_attn.o_proj"),
            [hidden, queries],
            0..hidden,
            slice.queries(),
        )?)?;
        let down = Linear::new(parts.matrix(
            &name("mlp.down_proj"),
            [hidden, inner],
            0..hidden,
            slice.inner(),
        )?)?;
        let input_norm = parts.reader.dense(&name("input_layernorm"), &[hidden], parts.device)?;
        let post_norm =
            parts.reader.dense(&name("post_attention_layernorm"), &[hidden], parts.device)?;
        Ok(Self { input_norm, q, k, v, o, post_norm, gate, up, down })
    }
}

impl TensorShard {
    pub(super) fn load(
        reader: &mut WeightReader<'_>,
        config: &ModelConfig,
        quantisation: Quantisation,
        slice: Slice,
        comm: Box<dyn Communicator>,
        device: &Device,
    ) -> Result<Self> {
        let first = if slice.world == 1 { device.clone() } else { Device::Cpu };
        let tied = config.tied && !reader.has("lm_head.weight");
        let mut parts = Parts { reader, quantisation, first, device };
        let shape = [config.vocabulary, config.hidden];
        let table = parts.matrix(
            "model.embed_tokens.weight",
            shape,
            slice.vocabulary(),
            0..config.hidden,
        )?;
        let output = if tied {
            Linear::new(table.clone())?
        } else {
            Linear::new(parts.matrix(
                "lm_head.weight",
                shape,
                slice.vocabulary(),
                0..config.hidden,
            )?)?
        };
        let embedding = match table {
            Matrix::Quantised(table) => Embedding::Quantised(table),
            Matrix::Dense(table) => Embedding::Dense(table),
        };
        let layers = (0..config.layers)
            .map(|index| Layer::load(&mut parts, config, &slice, index))
            .collect::<Result<Vec<_>>>()?;
        let norm = reader.dense("model.norm.weight", &[config.hidden], device)?;
        let factors = reader.rope_factors(config.head_dim / 2)?;
        let inverse_frequencies =
            config.rope.inverse_frequencies(config.head_dim, factors.as_deref());
        let store = TensorStore::new(config.layers, slice.keys().len(), kv_dtype(device), device)?;
        let adapters = Adapters::new(slice.rank, device);
        let grouped = !device.is_cpu();
        let device = device.clone();
        Ok(Self {
            device,
            slice,
            comm,
            embedding,
            layers,
            norm,
            output,
            inverse_frequencies,
            store,
            adapters,
            grouped,
        })
    }

    /// Sets whether sequences are computed in shared products.
    #[cfg(test)]
    pub(super) fn group(&mut self, grouped: bool) {
        self.grouped = grouped;
    }

    /// Runs the step; on the first shard, writes `logits`, `[rows read, vocabulary]`.
    pub(super) fn forward(
        &mut self,
        config: &ModelConfig,
        step: &Step,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.store.hold(step.blocks, step.most_blocks)?;
        step.copies.iter().try_for_each(|&(from, to)| self.store.copy(from, to))?;
        let attention = Attention::new(
            config,
            &self.slice,
            step,
            &self.inverse_frequencies,
            self.grouped,
            &self.device,
        )?;
        self.adapters.prepare(config, step, self.grouped)?;
        let (adapters, comm, eps) = (&self.adapters, &*self.comm, config.norm_eps);
        // [tokens, hidden]
        let mut x = self.embed(step)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = rms_norm(&x, &layer.input_norm, eps)?;
            let q = adapters.product(&layer.q, &normed, index, Target::Q)?;
            let k = adapters.product(&layer.k, &normed, index, Target::K)?;
            let v = adapters.product(&layer.v, &normed, index, Target::V)?;
            let attended = attention.attend(&self.store, index, step, &q, &k, &v)?;
            x = (x + comm.all_reduce(adapters.product(
                &layer.o,
                &attended,
                index,
                Target::O,
            )?)?)?;
            let normed = rms_norm(&x, &layer.post_norm, eps)?;
            let gate = adapters.product(&layer.gate, &normed, index, Target::Gate)?;
            let up = adapters.product(&layer.up, &normed, index, Target::Up)?;
            let inner = (silu(&gate)? * up)?;
            x = (x + comm.all_reduce(adapters.product(
                &layer.down,
                &inner,
                index,
                Target::Down,
            )?)?)?;
        }
        self.logits(config, step, &x, logits)
    }

    /// The embeddings of the step's tokens, `[tokens, hidden]`: an all-reduce of each shard's rows,
    /// which are zero for tokens of other shards.
    fn embed(&self, step: &Step) -> Result<Tensor> {
        let own = self.slice.vocabulary();
        if self.slice.world == 1 {
            return self.embedding.forward(&Tensor::new(step.tokens.as_slice(), &self.device)?);
        }
        let has = |token: &u32| own.contains(&(*token as usize));
        let local: Vec<u32> = step
            .tokens
            .iter()
            .map(|token| if has(token) { *token - own.start as u32 } else { 0 })
            .collect();
        let mask: Vec<f32> =
            step.tokens.iter().map(|token| if has(token) { 1.0 } else { 0.0 }).collect();
        let rows = self.embedding.forward(&Tensor::new(local.as_slice(), &self.device)?)?;
        let mask = Tensor::from_vec(mask, (step.tokens.len(), 1), &self.device)?;
        self.comm.all_reduce(rows.broadcast_mul(&mask)?)
    }

    /// Computes the output layer for the rows whose logits are read.
    fn logits(
        &self,
        config: &ModelConfig,
        step: &Step,
        x: &Tensor,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        logits.clear();
        if step.reads.is_empty() {
            return Ok(());
        }
        let read = if step.reads.len() == x.dim(0)? {
            x.clone()
        } else {
            x.index_select(&Tensor::new(step.reads.as_slice(), &self.device)?, 0)?
        };
        let own = self.output.forward(&rms_norm(&read, &self.norm, config.norm_eps)?)?;
        let own = if self.slice.world == 1 {
            own
        } else {
            // padded with zeros, so that the all-reduce concatenates the shards' logits
            let (has, rows) = (self.slice.vocabulary(), step.reads.len());
            let zeros = |columns: usize| Tensor::zeros((rows, columns), own.dtype(), &self.device);
            let placed =
                Tensor::cat(&[&zeros(has.start)?, &own, &zeros(config.vocabulary - has.end)?], 1)?;
            self.comm.all_reduce(placed)?
        };
        if self.slice.rank == 0 {
            logits.extend(own.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?);
        }
        Ok(())
    }
}

/// Data type of keys and values: f16 on GPUs, which halves the cache, f32 on CPUs.
pub(super) fn kv_dtype(device: &Device) -> DType {
    if device.is_cpu() { DType::F32 } else { DType::F16 }
}
