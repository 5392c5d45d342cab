//! One rank of the model on the CPU kernels: repacked weights, a paged KV cache and one thread
//! pool.
//!
//! The order of operations of every row is fixed: results do not depend on the other rows of the
//! batch, on prefill chunks or on the number of shards. See [`kernels`](crate::kernels) and
//! [`Slice`].

mod load;
mod products;
mod weight;

use super::step::Step;
use super::{ModelConfig, Slice};
use crate::Result;
use crate::comm::SharedComm;
use crate::kernels::{
    Activations, AttentionShape, Isa, KV_BLOCK_SIZE, LoraActivations, Residual, Rounding,
    ThreadPool, attention, rotate,
};
use crate::kv::{KvShape, KvStore};
use crate::lora::Target;
use weight::Weight;

impl Layer {
    /// Rounding of the input of q, k and v. The norm before them amplifies single channels, and
    /// rounding to one int8 term there costs more accuracy than in all other products together, so
    /// the input has two int8 terms.
    fn attention_rounding(&self) -> Rounding {
        let all = [&self.q, &self.k, &self.v];
        if all.iter().all(|weight| matches!(weight, Weight::Packed(_))) {
            Rounding::Twice
        } else {
            rounding_for(all)
        }
    }
}

/// The rounding of an input that is shared by several weights.
fn rounding_for<const N: usize>(weights: [&Weight; N]) -> Rounding {
    weights
        .into_iter()
        .map(Weight::rounding)
        .find(|rounding| *rounding != Rounding::None)
        .unwrap_or(Rounding::None)
}

/// Weights of one layer.
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

/// One shard's weights for the CPU kernels, its KV cache, and the buffers of a step.
#[derive(Debug)]
pub(super) struct CpuShard {
    isa: Isa,
    threads: ThreadPool,
    slice: Slice,
    /// The slices of all ranks.
    slices: Vec<Slice>,
    /// `None` if this rank has the whole model.
    comm: Option<SharedComm>,
    /// The rows of this shard's part of the vocabulary, as for `output`.
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// The output layer; `None` if it is tied to the embedding.
    output: Option<Weight>,
    /// `[head_dim / 2]`
    pub(super) inverse_frequencies: Vec<f32>,
    shape: KvShape,
    store: KvStore,
    buffers: Buffers,
}

/// Buffers reused between steps; their capacity never shrinks.
#[derive(Debug, Default)]
struct Buffers {
    /// The residual stream, `[tokens, hidden]`.
    x: Vec<f32>,
    /// The normalised input of a product.
    normed: Vec<f32>,
    quants: Activations,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// The next addend of the residual stream.
    delta: Vec<f32>,
    /// Low-rank activations.
    low: LoraActivations,
    /// `[tokens, head_dim / 2]`
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Logits of this shard's part of the vocabulary.
    logits: Vec<f32>,
}

/// Minimum number of rows for using several threads; below it, waking them costs more than it
/// saves.
const SHARED_FROM: usize = 8;

impl CpuShard {
    /// Whether keys and values are held in f16.
    pub(super) fn half(&self) -> bool {
        self.shape.half
    }

    /// Runs the step; on the first shard, writes `logits`, `[rows read, vocabulary]`.
    pub(super) fn forward(
        &mut self,
        config: &ModelConfig,
        step: &Step,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.store.hold(step.blocks);
        step.copies.iter().for_each(|&(from, to)| self.store.copy(from, to));
        let mut buffers = std::mem::take(&mut self.buffers);
        let outcome = self.forward_with(config, step, &mut buffers, logits);
        self.buffers = buffers;
        outcome
    }

    fn forward_with(
        &mut self,
        config: &ModelConfig,
        step: &Step,
        buffers: &mut Buffers,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.embed(config, step, &mut buffers.x)?;
        self.angles(step, buffers);
        buffers.delta.clear();
        // int8 adapters read quantised activations, also if the weights do not; the activations
        // then have two int8 terms
        let rounded = step
            .runs
            .iter()
            .any(|run| run.adapter.as_ref().is_some_and(|adapter| adapter.0.is_rounded()));
        let at_least = |rounding: Rounding| {
            if rounded && rounding == Rounding::None { Rounding::Twice } else { rounding }
        };
        for index in 0..self.layers.len() {
            self.layer(config, step, index, buffers, &at_least)?;
        }
        self.logits(config, step, buffers, logits)
    }

    /// Computes one layer; `rounding` maps the rounding that the weights need to the one used.
    fn layer(
        &mut self,
        config: &ModelConfig,
        step: &Step,
        index: usize,
        buffers: &mut Buffers,
        rounding: &dyn Fn(Rounding) -> Rounding,
    ) -> Result<()> {
        let layer = &self.layers[index];
        self.norm(
            buffers,
            &layer.input_norm,
            config.norm_eps,
            rounding(layer.attention_rounding()),
        );
        self.attention_products(step, index, buffers)?;
        self.attend(config, index, step, buffers);
        let layer = &self.layers[index];
        let Buffers { attended, quants, low, delta, .. } = &mut *buffers;
        let queries = self.slice.queries().len();
        quants.quantise(&self.threads, self.isa, attended, queries, rounding(layer.o.rounding()));
        self.summed_product(
            step,
            index,
            (Target::O, &layer.o),
            attended,
            queries,
            quants,
            low,
            delta,
        )?;
        self.norm(
            buffers,
            &layer.post_norm,
            config.norm_eps,
            rounding(rounding_for([&layer.gate, &layer.up])),
        );
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
        quants.silu_mul(&self.threads, self.isa, gate, up, inner, rounding(layer.down.rounding()));
        self.summed_product(
            step,
            index,
            (Target::Down, &layer.down),
            gate,
            inner,
            quants,
            low,
            delta,
        )?;
        Ok(())
    }

    /// Writes the embeddings of the step's tokens, `[tokens, hidden]`; each comes from the shard
    /// that has its row.
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
            for ((token, x), embedded) in
                step.tokens.iter().zip(x.chunks_exact_mut(hidden)).zip(theirs.chunks_exact(hidden))
            {
                if has.contains(&(*token as usize)) {
                    x.copy_from_slice(embedded);
                }
            }
        }
        Ok(())
    }

    /// Runs `work` on each row, on several threads from [`SHARED_FROM`] rows.
    fn rows(&self, values: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        if values.len() >= SHARED_FROM * width {
            self.threads.for_rows(values, width, work);
        } else {
            values.chunks_exact_mut(width).enumerate().for_each(|(row, values)| work(row, values));
        }
    }

    /// Adds the delta to the residual stream, and normalises and quantises the sum.
    fn norm(&self, buffers: &mut Buffers, weight: &[f32], eps: f32, rounding: Rounding) {
        let Buffers { x, delta, normed, quants, .. } = buffers;
        normed.resize(x.len(), 0.0);
        quants.add_norm(
            &self.threads,
            self.isa,
            Residual { x, delta, weight, eps },
            normed,
            rounding,
        );
    }

    /// Fills the RoPE cosines and sines of every token's position.
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

    /// Rotates queries and keys, writes keys and values to the cache, and computes attention.
    fn attend(&mut self, config: &ModelConfig, layer: usize, step: &Step, buffers: &mut Buffers) {
        let Buffers { q, k, v, attended, cos, sin, .. } = buffers;
        let (queries, keys, pairs) =
            (self.slice.queries().len(), self.slice.keys().len(), config.head_dim / 2);
        // the second half of each buffer is scratch: see `attention_products`
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
                self.store.write(
                    layer,
                    write.block,
                    write.column + offset,
                    &k[row.clone()],
                    &v[row],
                );
            }
        }
        attended.resize(q.len(), 0.0);
        let shape = AttentionShape {
            heads: self.slice.heads(),
            kv_heads: self.slice.kv_heads.len(),
            head_dim: config.head_dim,
        };
        debug_assert!(
            step.spans
                .iter()
                .zip(&step.table_of)
                .all(|(span, table)| (span.position + span.tokens).div_ceil(KV_BLOCK_SIZE)
                    <= table.len())
        );
        let cache = |span: usize, block: usize, head: usize| {
            self.store.slice(layer, step.table(span)[block], head)
        };
        attention(&self.threads, self.isa, shape, &step.spans, cache, q, attended);
    }

    /// Computes the output layer for the rows whose logits are read.
    fn logits(
        &self,
        config: &ModelConfig,
        step: &Step,
        buffers: &mut Buffers,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let hidden = config.hidden;
        if step.reads.is_empty() {
            logits.clear();
            return Ok(());
        }
        // keeps only the rows with logits; `attended` is unused here and serves as scratch
        let Buffers { x, delta, attended: kept, .. } = buffers;
        for rows in [x, delta] {
            kept.clear();
            step.reads.iter().for_each(|row| {
                kept.extend_from_slice(&rows[*row as usize * hidden..(*row as usize + 1) * hidden])
            });
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
            for (row, part) in logits
                .chunks_exact_mut(config.vocabulary)
                .zip(theirs.chunks_exact(has.len().max(1)))
            {
                row[has.clone()].copy_from_slice(part);
            }
        }
        Ok(())
    }
}
