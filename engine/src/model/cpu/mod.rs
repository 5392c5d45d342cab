//! One rank of the model on the CPU kernels: repacked weights, paged keys and values, one thread
//! pool.
//!
//! Every number of a row is computed in one order, whatever else is in the batch, however a prompt
//! was cut into chunks and however many shards there are: see [`kernels`](crate::kernels) and
//! [`Slice`].

mod weight;

use candle_core::Device;
use smallvec::SmallVec;

use super::step::Step;
use super::{ModelConfig, Slice};
use crate::Result;
use crate::comm::SharedComm;
use crate::kernels::{
    Activations, AttentionShape, Isa, KV_BLOCK_SIZE, LoraActivations, LowRank, Product, Residual, Rounding, ThreadPool, add, add_low,
    attention, low_rank, low_rank_apart, matmul, matmul_apart, matmul_dense, matmul_dense_apart, matmul_low_rank, rotate,
};
use crate::kv::{KvShape, KvStore};
use crate::lora::{Delta, Target};
use crate::weights::{Quantisation, WeightReader};
use weight::Weight;
impl Layer {
    /// Queries, keys and values determine attention, and their norm amplifies single channels:
    /// 8-bit rounding there costs more accuracy than in all other products together, so their input
    /// has two int8 terms.
    fn attention_rounding(&self) -> Rounding {
        let all = [&self.q, &self.k, &self.v];
        if all.iter().all(|weight| matches!(weight, Weight::Packed(_))) { Rounding::Twice } else { rounding_for(all) }
    }
}

/// The rounding of an input that several weights share.
fn rounding_for<const N: usize>(weights: [&Weight; N]) -> Rounding {
    weights.into_iter().map(Weight::rounding).find(|rounding| *rounding != Rounding::None).unwrap_or(Rounding::None)
}

#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    q: Weight,
    k: Weight,
    v: Weight,
    o: Weight,
    post_norm: Vec<f32>,
    gate: Weight,
    up: Weight,
    down: Weight,
}

/// Weights for the kernels, the cache, and the buffers of a step.
#[derive(Debug)]
pub(super) struct CpuShard {
    isa: Isa,
    threads: ThreadPool,
    slice: Slice,
    /// This rank's slice.
    slices: Vec<Slice>,
    /// `None`: this rank is the whole model.
    comm: Option<SharedComm>,
    /// The rows of this shard's vocabulary, as are those of `output`.
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None`: the embedding.
    output: Option<Weight>,
    /// `[head_dim / 2]`
    pub(super) inverse_frequencies: Vec<f32>,
    shape: KvShape,
    store: KvStore,
    buffers: Buffers,
}

/// Reused between steps: they grow and are never reallocated smaller.
#[derive(Debug, Default)]
struct Buffers {
    /// The residual stream, `[tokens, hidden]`.
    x: Vec<f32>,
    /// The input of a product, after the norm.
    normed: Vec<f32>,
    quants: Activations,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// The addend of the residual stream.
    delta: Vec<f32>,
    /// Low-rank activations.
    low: LoraActivations,
    /// `[tokens, head_dim / 2]`
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Logits of this shard's part of the vocabulary.
    logits: Vec<f32>,
}

/// The low-rank products beside one phase's products; as many as this without taking memory.
type Items<'a> = SmallVec<[LowRank<'a>; 32]>;

/// Minimum number of rows for using several threads: below, waking them costs more.
const SHARED_FROM: usize = 8;

impl CpuShard {
    pub(super) fn load(
        reader: &mut WeightReader<'_>,
        config: &ModelConfig,
        quantisation: Quantisation,
        slice: Slice,
        comm: Option<SharedComm>,
        threads: ThreadPool,
    ) -> Result<Self> {
        let device = Device::Cpu;
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut matrix = |name: &str, out: usize, columns: usize| reader.matrix(name, [out, columns], quantisation, &device);
        let embedding = Weight::new(matrix("model.embed_tokens.weight", config.vocabulary, hidden)?, slice.vocabulary(), 0..hidden, 1)?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let name = |part: &str| format!("model.layers.{index}.{part}.weight");
            let mut matrix = |part: &str, out: usize, columns: usize| reader.matrix(&name(part), [out, columns], quantisation, &device);
            let q = Weight::new(matrix("self_attn.q_proj", queries, hidden)?, slice.queries(), 0..hidden, 1)?;
            let k = Weight::new(matrix("self_attn.k_proj", keys, hidden)?, slice.keys(), 0..hidden, 1)?;
            let v = Weight::new(matrix("self_attn.v_proj", keys, hidden)?, slice.keys(), 0..hidden, 1)?;
            let o = Weight::new(matrix("self_attn.o_proj", hidden, queries)?, 0..hidden, slice.queries(), slice.own_chunks())?;
            let gate = Weight::new(matrix("mlp.gate_proj", inner, hidden)?, slice.inner(), 0..hidden, 1)?;
            let up = Weight::new(matrix("mlp.up_proj", inner, hidden)?, slice.inner(), 0..hidden, 1)?;
            let down = Weight::new(matrix("mlp.down_proj", hidden, inner)?, 0..hidden, slice.inner(), slice.own_chunks())?;
            let mut vector = |part: &str| -> Result<Vec<f32>> { Ok(reader.dense(&name(part), &[hidden], &device)?.to_vec1()?) };
            let (input_norm, post_norm) = (vector("input_layernorm")?, vector("post_attention_layernorm")?);
            layers.push(Layer { input_norm, q, k, v, o, post_norm, gate, up, down });
        }
        let norm = reader.dense("model.norm.weight", &[hidden], &device)?.to_vec1()?;
        let output = if config.tied && !reader.has("lm_head.weight") {
            None
        } else {
            let matrix = reader.matrix("lm_head.weight", [config.vocabulary, hidden], quantisation, &device)?;
            Some(Weight::new(matrix, slice.vocabulary(), 0..hidden, 1)?)
        };
        let factors = reader.rope_factors(config.head_dim / 2)?;
        let inverse_frequencies = config.rope.inverse_frequencies(config.head_dim, factors.as_deref());
        let isa = Isa::detect();
        // f32 models are for exactness, quantised ones for size
        let half = !layers.iter().all(|layer| matches!(layer.k, Weight::Dense(_)));
        let shape = KvShape { layers: config.layers, kv_heads: slice.kv_heads.len(), head_dim: config.head_dim, half, isa };
        let shard = format!("{} of {}", slice.rank + 1, slice.world);
        tracing::info!(?isa, threads = threads.threads(), shard, kv = if half { "f16" } else { "f32" }, "the CPU's kernels");
        let slices = (0..slice.world).map(|rank| Slice::new(config, rank, slice.world)).collect::<Result<_>>()?;
        let (store, buffers) = (KvStore::new(shape), Buffers::default());
        Ok(Self { isa, threads, slice, slices, comm, embedding, layers, norm, output, inverse_frequencies, shape, store, buffers })
    }

    /// Whether keys and values are held in f16.
    pub(super) fn half(&self) -> bool {
        self.shape.half
    }

    /// Fills `logits` `[rows read, vocabulary]`, on the first shard.
    pub(super) fn forward(&mut self, config: &ModelConfig, step: &Step, logits: &mut Vec<f32>) -> Result<()> {
        self.store.hold(step.blocks);
        step.copies.iter().for_each(|&(from, to)| self.store.copy(from, to));
        let mut buffers = std::mem::take(&mut self.buffers);
        let outcome = self.forward_with(config, step, &mut buffers, logits);
        self.buffers = buffers;
        outcome
    }

    fn forward_with(&mut self, config: &ModelConfig, step: &Step, buffers: &mut Buffers, logits: &mut Vec<f32>) -> Result<()> {
        self.embed(config, step, &mut buffers.x)?;
        self.angles(step, buffers);
        buffers.delta.clear();
        // int8 adapters read rounded activations, also beside weights that do not: with two terms
        // then
        let rounded = step.runs.iter().any(|run| run.adapter.as_ref().is_some_and(|adapter| adapter.0.is_rounded()));
        let at_least = |rounding: Rounding| if rounded && rounding == Rounding::None { Rounding::Twice } else { rounding };
        for index in 0..self.layers.len() {
            let layer = &self.layers[index];
            self.norm(buffers, &layer.input_norm, config.norm_eps, at_least(layer.attention_rounding()));
            self.attention_products(step, index, buffers)?;
            self.attend(config, index, step, buffers);
            let layer = &self.layers[index];
            let Buffers { attended, quants, low, delta, .. } = &mut *buffers;
            let queries = self.slice.queries().len();
            quants.quantise(&self.threads, self.isa, attended, queries, at_least(layer.o.rounding()));
            self.summed_product(step, index, (Target::O, &layer.o), attended, queries, quants, low, delta)?;
            self.norm(buffers, &layer.post_norm, config.norm_eps, at_least(rounding_for([&layer.gate, &layer.up])));
            let Buffers { normed, quants, gate, up, low, delta, .. } = &mut *buffers;
            self.products(
                step,
                index,
                [(Target::Gate, &layer.gate, &mut *gate), (Target::Up, &layer.up, &mut *up)],
                normed,
                config.hidden,
                quants,
                low,
            )?;
            let inner = self.slice.inner().len();
            quants.silu_mul(&self.threads, self.isa, gate, up, inner, at_least(layer.down.rounding()));
            self.summed_product(step, index, (Target::Down, &layer.down), gate, inner, quants, low, delta)?;
        }
        self.logits(config, step, buffers, logits)
    }

    /// The embeddings of the step's tokens, each from the shard that has it.
    fn embed(&self, config: &ModelConfig, step: &Step, x: &mut Vec<f32>) -> Result<()> {
        let hidden = config.hidden;
        x.resize(step.tokens.len() * hidden, 0.0);
        let own = self.slice.vocabulary();
        let fill = |x: &mut [f32]| -> Result<()> {
            for (token, x) in step.tokens.iter().zip(x.chunks_exact_mut(hidden)) {
                if own.contains(&(*token as usize)) {
                    self.embedding.embed(*token as usize - own.start, x)?;
                }
            }
            Ok(())
        };
        let Some(comm) = &self.comm else { return fill(x) };
        {
            let mut mine = comm.mine();
            mine.resize(x.len(), 0.0);
            fill(&mut mine)?;
        }
        comm.meet()?;
        for (rank, slice) in self.slices.iter().enumerate() {
            let (theirs, has) = (comm.theirs(rank), slice.vocabulary());
            for ((token, x), embedded) in step.tokens.iter().zip(x.chunks_exact_mut(hidden)).zip(theirs.chunks_exact(hidden)) {
                if has.contains(&(*token as usize)) {
                    x.copy_from_slice(embedded);
                }
            }
        }
        Ok(())
    }

    /// Runs `work` on each row, shared out where there are many.
    fn rows(&self, values: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        if values.len() >= SHARED_FROM * width {
            self.threads.for_rows(values, width, work);
        } else {
            values.chunks_exact_mut(width).enumerate().for_each(|(row, values)| work(row, values));
        }
    }

    /// Adds the delta to the residual stream, and norms that.
    fn norm(&self, buffers: &mut Buffers, weight: &[f32], eps: f32, rounding: Rounding) {
        let Buffers { x, delta, normed, quants, .. } = buffers;
        normed.resize(x.len(), 0.0);
        quants.add_norm(&self.threads, self.isa, Residual { x, delta, weight, eps }, normed, rounding);
    }

    /// The cosine and sine of every token's position.
    fn angles(&self, step: &Step, buffers: &mut Buffers) {
        buffers.cos.clear();
        buffers.sin.clear();
        for span in &step.spans {
            for position in span.position..span.position + span.tokens {
                for frequency in &self.inverse_frequencies {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    buffers.sin.push(sin);
                    buffers.cos.push(cos);
                }
            }
        }
    }

    /// Products of the same rows `x` `[tokens, columns]`, which `quants` holds rounded, each with
    /// what its sequences' adapters add.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    fn products<const N: usize>(
        &self,
        step: &Step,
        layer: usize,
        products: [(Target, &Weight, &mut Vec<f32>); N],
        x: &[f32],
        columns: usize,
        quants: &Activations,
        low: &mut LoraActivations,
    ) -> Result<()> {
        let tokens = x.len() / columns;
        let targets = products.each_ref().map(|(target, ..)| *target);
        let weights = products.each_ref().map(|(_, weight, _)| *weight);
        let mut outputs: [&mut [f32]; N] = products.map(|(_, weight, out)| {
            out.resize(tokens * weight.rows(), 0.0);
            out.as_mut_slice()
        });
        let items = self.low_rank_items(step, layer, &targets);
        if weights.iter().all(|weight| matches!(weight, Weight::Packed(_))) {
            let pairs = weights.iter().zip(outputs);
            let mut products: SmallVec<[Product<'_>; 3]> =
                pairs.filter_map(|(weight, y)| if let Weight::Packed(w) = weight { Some(Product { w, y }) } else { None }).collect();
            matmul_low_rank(&self.threads, self.isa, &mut products, quants, &items, x, low);
            return Ok(());
        }
        for (weight, y) in weights.iter().zip(&mut outputs) {
            self.product(weight, x, columns, quants, y)?;
        }
        low_rank(&self.threads, self.isa, &items, x, quants, low, &mut outputs);
        Ok(())
    }

    /// Queries, keys and values. Their buffers may hold two rows a token, of which the first half
    /// is left.
    fn attention_products(&self, step: &Step, index: usize, buffers: &mut Buffers) -> Result<()> {
        let Layer { q, k, v, .. } = &self.layers[index];
        let Buffers { normed, quants, low, q: to_q, k: to_k, v: to_v, .. } = buffers;
        let tokens = step.tokens.len();
        let columns = normed.len() / tokens;
        let (Weight::Packed(wq), Weight::Packed(wk), Weight::Packed(wv)) = (q, k, v) else {
            let products = [(Target::Q, q, to_q), (Target::K, k, to_k), (Target::V, v, to_v)];
            return self.products(step, index, products, normed, columns, quants, low);
        };
        let items = self.low_rank_items(step, index, &[Target::Q, Target::K, Target::V]);
        let mut products = [(wq, &mut *to_q), (wk, &mut *to_k), (wv, &mut *to_v)].map(|(w, y)| {
            y.resize(2 * tokens * w.rows(), 0.0);
            Product { w, y: y.as_mut_slice() }
        });
        matmul_low_rank(&self.threads, self.isa, &mut products, quants, &items, normed, low);
        Ok(())
    }

    fn product(&self, weight: &Weight, x: &[f32], columns: usize, quants: &Activations, y: &mut [f32]) -> Result<()> {
        match weight {
            Weight::Packed(w) => matmul(&self.threads, self.isa, &mut [Product { w, y }], quants),
            Weight::Dense(w) => matmul_dense(&self.threads, self.isa, w, x, false, y),
            Weight::Foreign { product, .. } => Weight::foreign(product, x, columns, y)?,
        }
        Ok(())
    }

    /// A product whose columns are split over the shards, `y` `[tokens, hidden]` on each of them:
    /// chunk after chunk from left to right, then what the adapters add, whose inner sums are taken
    /// the same way.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    fn summed_product(
        &self,
        step: &Step,
        layer: usize,
        (target, weight): (Target, &Weight),
        x: &[f32],
        columns: usize,
        quants: &Activations,
        low: &mut LoraActivations,
        y: &mut Vec<f32>,
    ) -> Result<()> {
        let Some(comm) = &self.comm else {
            return self.products(step, layer, [(target, weight, y)], x, columns, quants, low);
        };
        let items = self.low_rank_items(step, layer, &[target]);
        let size = x.len() / columns * weight.rows();
        let low_size: usize = items.iter().map(LowRank::low_len).sum();
        let chunks = self.slice.own_chunks();
        {
            let mut mine = comm.mine();
            mine.resize(chunks * (size + low_size), 0.0);
            let (sums, low) = mine.split_at_mut(chunks * size);
            match weight {
                Weight::Packed(w) => {
                    matmul_apart(&self.threads, self.isa, Product { w, y: sums }, quants, &items, x, low);
                }
                Weight::Dense(w) => {
                    matmul_dense_apart(&self.threads, self.isa, w, x, sums);
                    low_rank_apart(&self.threads, self.isa, &items, x, quants, low);
                }
                // refused when it was loaded
                Weight::Foreign { .. } => return Err(crate::EngineError::ShardLost),
            }
        }
        comm.meet()?;
        y.clear();
        y.resize(size, 0.0);
        let sums = &mut low.values;
        sums.clear();
        sums.resize(low_size, 0.0);
        for (rank, slice) in self.slices.iter().enumerate() {
            let theirs = comm.theirs(rank);
            let (whole, lows) = theirs.split_at(slice.own_chunks() * size);
            whole.chunks_exact(size).for_each(|chunk| add(self.isa, y, chunk));
            if low_size > 0 {
                lows.chunks_exact(low_size).for_each(|chunk| sums.iter_mut().zip(chunk).for_each(|(sum, part)| *sum += part));
            }
        }
        if items.is_empty() {
            return Ok(());
        }
        let mut start = 0;
        for item in &items {
            let end = start + item.low_len();
            sums[start..end].iter_mut().for_each(|value| *value *= item.scale);
            start = end;
        }
        add_low(&self.threads, self.isa, &items, low, &mut [y.as_mut_slice()]);
        Ok(())
    }

    /// The low-rank products beside `targets` of a layer, for every run of rows with an adapter
    /// that has some.
    fn low_rank_items<'a>(&self, step: &'a Step, layer: usize, targets: &[Target]) -> Items<'a> {
        let mut items = Items::new();
        for run in &step.runs {
            let Some(adapter) = &run.adapter else { continue };
            for (output, target) in targets.iter().enumerate() {
                if let Some(Delta::Packed { a, b, scale }) = adapter.0.delta(self.slice.rank, layer, *target) {
                    items.push(LowRank { a, b, scale: *scale, row: run.row, rows: run.rows, output });
                }
            }
        }
        items
    }

    /// Rotates queries and keys, keeps keys and values, attends.
    fn attend(&mut self, config: &ModelConfig, layer: usize, step: &Step, buffers: &mut Buffers) {
        let Buffers { q, k, v, attended, cos, sin, .. } = buffers;
        let (queries, keys, pairs) = (self.slice.queries().len(), self.slice.keys().len(), config.head_dim / 2);
        // behind them, what has been added: see `attention_products`
        let tokens = step.tokens.len();
        let (q, k, v) = (&mut q[..tokens * queries], &mut k[..tokens * keys], &v[..tokens * keys]);
        let interleaved = config.rope.interleaved;
        let turn = |row: usize, heads: &mut [f32]| {
            let at = row * pairs..(row + 1) * pairs;
            rotate(heads, &cos[at.clone()], &sin[at], interleaved);
        };
        self.rows(q, queries, turn);
        self.rows(k, keys, turn);
        for write in &step.writes {
            for offset in 0..write.rows {
                let row = (write.row + offset) * keys..(write.row + offset + 1) * keys;
                self.store.write(layer, write.block, write.column + offset, &k[row.clone()], &v[row]);
            }
        }
        attended.resize(q.len(), 0.0);
        let shape = AttentionShape { heads: self.slice.heads(), kv_heads: self.slice.kv_heads.len(), head_dim: config.head_dim };
        debug_assert!(
            step.spans.iter().zip(&step.table_of).all(|(span, table)| (span.position + span.tokens).div_ceil(KV_BLOCK_SIZE) <= table.len())
        );
        let cache = |span: usize, block: usize, head: usize| self.store.slice(layer, step.table(span)[block], head);
        attention(&self.threads, self.isa, shape, &step.spans, cache, q, attended);
    }

    /// The output layer, for the rows where logits are read.
    fn logits(&self, config: &ModelConfig, step: &Step, buffers: &mut Buffers, logits: &mut Vec<f32>) -> Result<()> {
        let hidden = config.hidden;
        if step.reads.is_empty() {
            logits.clear();
            return Ok(());
        }
        // rows without logits are dropped; `attended` is free
        let Buffers { x, delta, attended: kept, .. } = buffers;
        for rows in [x, delta] {
            kept.clear();
            step.reads.iter().for_each(|row| kept.extend_from_slice(&rows[*row as usize * hidden..(*row as usize + 1) * hidden]));
            rows.clear();
            rows.extend_from_slice(kept);
        }
        let weight = self.output.as_ref().unwrap_or(&self.embedding);
        self.norm(buffers, &self.norm, config.norm_eps, weight.rounding());
        let Buffers { normed, quants, logits: own, .. } = buffers;
        let Some(comm) = &self.comm else {
            logits.resize(step.reads.len() * config.vocabulary, 0.0);
            return self.product(weight, normed, hidden, quants, logits);
        };
        own.resize(step.reads.len() * weight.rows(), 0.0);
        self.product(weight, normed, hidden, quants, own)?;
        std::mem::swap(&mut *comm.mine(), own);
        comm.meet()?;
        if self.slice.rank > 0 {
            return Ok(());
        }
        logits.resize(step.reads.len() * config.vocabulary, 0.0);
        for (rank, slice) in self.slices.iter().enumerate() {
            let (theirs, has) = (comm.theirs(rank), slice.vocabulary());
            for (row, part) in logits.chunks_exact_mut(config.vocabulary).zip(theirs.chunks_exact(has.len().max(1))) {
                row[has.clone()].copy_from_slice(part);
            }
        }
        Ok(())
    }
}
