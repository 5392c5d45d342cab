//! Loading of one rank's weights for the CPU kernels.

use candle_core::Device;

use super::weight::Weight;
use super::{Buffers, CpuShard, Layer};
use crate::Result;
use crate::comm::SharedComm;
use crate::kernels::{Isa, ThreadPool};
use crate::kv::{KvShape, KvStore};
use crate::model::{ModelConfig, Slice};
use crate::weights::{Quantisation, WeightReader};

impl Layer {
    fn load(
        reader: &mut WeightReader<'_>,
        config: &ModelConfig,
        quantisation: Quantisation,
        slice: &Slice,
        index: usize,
    ) -> Result<Self> {
        let device = Device::Cpu;
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let mut matrix = |part: &str, out: usize, columns: usize| {
            reader.matrix(&name(part), [out, columns], quantisation, &device)
        };
        let q = Weight::new(
            matrix("self_attn.q_proj", queries, hidden)?,
            slice.queries(),
            0..hidden,
            1,
        )?;
        let k = Weight::new(matrix("self_attn.k_proj", keys, hidden)?, slice.keys(), 0..hidden, 1)?;
        let v = Weight::new(matrix("self_attn.v_proj", keys, hidden)?, slice.keys(), 0..hidden, 1)?;
        let o = Weight::new(
            matrix("self_attn.o_proj", hidden, queries)?,
            0..hidden,
            slice.queries(),
            slice.own_chunks(),
        )?;
        let gate =
            Weight::new(matrix("mlp.gate_proj", inner, hidden)?, slice.inner(), 0..hidden, 1)?;
        let up = Weight::new(matrix("mlp.up_proj", inner, hidden)?, slice.inner(), 0..hidden, 1)?;
        let down = Weight::new(
            matrix("mlp.down_proj", hidden, inner)?,
            0..hidden,
            slice.inner(),
            slice.own_chunks(),
        )?;
        let mut vector = |part: &str| -> Result<Vec<f32>> {
            Ok(reader.dense(&name(part), &[hidden], &device)?.to_vec1()?)
        };
        let (input_norm, post_norm) =
            (vector("input_layernorm")?, vector("post_attention_layernorm")?);
        Ok(Self { input_norm, q, k, v, o, post_norm, gate, up, down })
    }
}

impl CpuShard {
    pub(in crate::model) fn load(
        reader: &mut WeightReader<'_>,
        config: &ModelConfig,
        quantisation: Quantisation,
        slice: Slice,
        comm: Option<SharedComm>,
        threads: ThreadPool,
    ) -> Result<Self> {
        let device = Device::Cpu;
        let hidden = config.hidden;
        let embedding = reader.matrix(
            "model.embed_tokens.weight",
            [config.vocabulary, hidden],
            quantisation,
            &device,
        )?;
        let embedding = Weight::new(embedding, slice.vocabulary(), 0..hidden, 1)?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            layers.push(Layer::load(reader, config, quantisation, &slice, index)?);
        }
        let norm = reader.dense("model.norm.weight", &[hidden], &device)?.to_vec1()?;
        let output = if config.tied && !reader.has("lm_head.weight") {
            None
        } else {
            let matrix = reader.matrix(
                "lm_head.weight",
                [config.vocabulary, hidden],
                quantisation,
                &device,
            )?;
            Some(Weight::new(matrix, slice.vocabulary(), 0..hidden, 1)?)
        };
        let factors = reader.rope_factors(config.head_dim / 2)?;
        let inverse_frequencies =
            config.rope.inverse_frequencies(config.head_dim, factors.as_deref());
        let isa = Isa::detect();
        // unquantised models keep f32 keys and values for precision, quantised ones f16 for size
        let half = !layers.iter().all(|layer| matches!(layer.k, Weight::Dense(_)));
        let shape = KvShape {
            layers: config.layers,
            kv_heads: slice.kv_heads.len(),
            head_dim: config.head_dim,
            half,
            isa,
        };
        let shard = format!("{} of {}", slice.rank + 1, slice.world);
        tracing::info!(
            ?isa,
            threads = threads.threads(),
            shard,
            kv = if half { "f16" } else { "f32" },
            "loaded shard on the CPU kernels"
        );
        let slices = (0..slice.world)
            .map(|rank| Slice::new(config, rank, slice.world))
            .collect::<Result<_>>()?;
        let (store, buffers) = (KvStore::new(shape), Buffers::default());
        Ok(Self {
            isa,
            threads,
            slice,
            slices,
            comm,
            embedding,
            layers,
            norm,
            output,
            inverse_frequencies,
            shape,
            store,
            buffers,
        })
    }
}
