//! Products of activations with a layer's weights and the sequences' adapters.

use smallvec::SmallVec;

use super::weight::Weight;
use super::{Buffers, CpuShard, Layer};
use crate::Result;
use crate::kernels::{
    Activations, LoraActivations, LowRank, Product, add, add_low, low_rank, low_rank_partial,
    matmul, matmul_dense, matmul_dense_partial, matmul_low_rank, matmul_partial,
};
use crate::lora::{Delta, Target};
use crate::model::Step;

/// The low-rank products of one phase; up to 32 need no heap allocation.
type Items<'a> = SmallVec<[LowRank<'a>; 32]>;

impl CpuShard {
    /// Products of the rows `x` `[tokens, columns]` (`quants` is `x` in int8) with several weights,
    /// each plus the low-rank products of the sequences' adapters.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    pub(super) fn products<const N: usize>(
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
            let mut products: SmallVec<[Product<'_>; 3]> = pairs
                .filter_map(|(weight, y)| {
                    if let Weight::Packed(w) = weight { Some(Product { w, y }) } else { None }
                })
                .collect();
            matmul_low_rank(&self.threads, self.isa, &mut products, quants, &items, x, low);
            return Ok(());
        }
        for (weight, y) in weights.iter().zip(&mut outputs) {
            self.product(weight, x, columns, quants, y)?;
        }
        low_rank(&self.threads, self.isa, &items, x, quants, low, &mut outputs);
        Ok(())
    }

    /// Computes queries, keys and values. With packed weights the buffers have two rows per token,
    /// for inputs with two int8 terms; the first half is the result, the second half is scratch.
    pub(super) fn attention_products(
        &self,
        step: &Step,
        index: usize,
        buffers: &mut Buffers,
    ) -> Result<()> {
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

    /// The product of `x` `[rows, columns]` with one weight, without adapters.
    pub(super) fn product(
        &self,
        weight: &Weight,
        x: &[f32],
        columns: usize,
        quants: &Activations,
        y: &mut [f32],
    ) -> Result<()> {
        match weight {
            Weight::Packed(w) => matmul(&self.threads, self.isa, &mut [Product { w, y }], quants),
            Weight::Dense(w) => matmul_dense(&self.threads, self.isa, w, x, false, y),
            Weight::Candle { product, .. } => Weight::candle_matmul(product, x, columns, y)?,
        }
        Ok(())
    }

    /// A product whose columns are split over the shards, followed by an all-reduce: every shard
    /// gets `y` `[tokens, hidden]`. Chunks are added from left to right; then the adapters'
    /// products are added, whose low-rank activations are reduced in the same order.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    pub(super) fn summed_product(
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
                    matmul_partial(
                        &self.threads,
                        self.isa,
                        Product { w, y: sums },
                        quants,
                        &items,
                        x,
                        low,
                    );
                }
                Weight::Dense(w) => {
                    matmul_dense_partial(&self.threads, self.isa, w, x, sums);
                    low_rank_partial(&self.threads, self.isa, &items, x, quants, low);
                }
                // `Weight::new` refuses sharded weights of this type
                Weight::Candle { .. } => return Err(crate::EngineError::ShardLost),
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
                lows.chunks_exact(low_size).for_each(|chunk| {
                    sums.iter_mut().zip(chunk).for_each(|(sum, part)| *sum += part)
                });
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

    /// The low-rank products for `targets` of a layer, for every run of rows whose adapter has such
    /// a target.
    pub(super) fn low_rank_items<'a>(
        &self,
        step: &'a Step,
        layer: usize,
        targets: &[Target],
    ) -> Items<'a> {
        let mut items = Items::new();
        for run in &step.runs {
            let Some(adapter) = &run.adapter else { continue };
            for (output, target) in targets.iter().enumerate() {
                if let Some(Delta::Packed { a, b, scale }) =
                    adapter.0.delta(self.slice.rank, layer, *target)
                {
                    items.push(LowRank {
                        a,
                        b,
                        scale: *scale,
                        row: run.row,
                        rows: run.rows,
                        output,
                    });
                }
            }
        }
        items
    }
}
