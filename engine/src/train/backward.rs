//! Backward pass of the frozen model with an adapter.

use super::frozen::Frozen;
use super::pass::{Batch, Buffers, LayerTape, LoraActivations, Model, Tape, turn};
use crate::kernels::{
    Attended, Left, Right, Scaled, attend_backward, gemm, rms_norm_backward, swiglu,
    swiglu_backward,
};
use crate::lora::Target;

impl Model {
    /// Adds the gradient by the adapter's parameters to `gradient` (same layout as the parameters),
    /// given `dx`, the gradient by the residual stream after the last layer, `[rows, hidden]`.
    pub(super) fn backward(
        &mut self,
        batch: &Batch,
        low: LoraActivations<'_>,
        tape: &mut Tape,
        mut dx: Vec<f32>,
        gradient: &mut [f32],
    ) {
        for layer in (0..self.frozen.layers.len()).rev() {
            let kept = match tape.layers.pop() {
                Some(kept) => Some(kept),
                None => tape
                    .inputs
                    .pop()
                    .and_then(|mut x| self.layer(layer, &mut x, batch, Some(low), true)),
            };
            if let Some(kept) = kept {
                self.layer_backward(layer, &kept, batch, low, &mut dx, gradient);
            }
            (self.pause)();
        }
    }

    /// Backward pass of the final norm: from `dy`, the gradient by the normalised `rows`, to the
    /// gradient by the residual stream of all rows, `[rows, hidden]`.
    pub(super) fn norm_backward(&self, tape: &Tape, rows: &[usize], dy: &[f32]) -> Vec<f32> {
        let hidden = self.frozen.config.hidden;
        let mut dx = vec![0.0; tape.last.len()];
        let x: Vec<f32> = rows
            .iter()
            .flat_map(|row| &tape.last[row * hidden..(row + 1) * hidden])
            .copied()
            .collect();
        let mut part = vec![0.0; x.len()];
        rms_norm_backward(
            &self.m.threads,
            self.m.isa,
            &x,
            &self.frozen.norm,
            self.frozen.config.norm_eps,
            dy,
            &mut part,
        );
        for (row, part) in rows.iter().zip(part.chunks_exact(hidden)) {
            dx[row * hidden..(row + 1) * hidden].copy_from_slice(part);
        }
        dx
    }

    /// Converts `dx` in place from the gradient by a layer's output to the gradient by its input.
    fn layer_backward(
        &mut self,
        layer: usize,
        kept: &LayerTape,
        batch: &Batch,
        low: LoraActivations<'_>,
        dx: &mut [f32],
        gradient: &mut [f32],
    ) {
        let mut b = std::mem::take(&mut self.buffers);
        (self.buffers.cos, self.buffers.sin) =
            (std::mem::take(&mut b.cos), std::mem::take(&mut b.sin));
        self.mlp_backward(layer, kept, batch, low, &mut b, dx, gradient);
        self.attention_backward(layer, kept, batch, low, &mut b, dx, gradient);
        (b.cos, b.sin) =
            (std::mem::take(&mut self.buffers.cos), std::mem::take(&mut self.buffers.sin));
        (b.turned, b.dlow) =
            (std::mem::take(&mut self.buffers.turned), std::mem::take(&mut self.buffers.dlow));
        self.buffers = b;
    }

    /// Backward pass of the MLP and its norm.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    fn mlp_backward(
        &mut self,
        layer: usize,
        kept: &LayerTape,
        batch: &Batch,
        low: LoraActivations<'_>,
        b: &mut Buffers,
        dx: &mut [f32],
        gradient: &mut [f32],
    ) {
        let config = self.frozen.config.clone();
        let rows = batch.tokens.len();
        kept.gate.restore(&self.m, &mut b.gate);
        kept.up.restore(&self.m, &mut b.up);
        b.inner.resize(b.gate.len(), 0.0);
        swiglu(&self.m.threads, self.m.isa, &b.gate, &b.up, config.intermediate, &mut b.inner);
        b.delta.resize(b.inner.len(), 0.0);
        self.product_backward(
            layer,
            Target::Down,
            &b.inner,
            dx,
            low,
            kept,
            &mut b.delta,
            false,
            gradient,
        );
        swiglu_backward(
            &self.m.threads,
            self.m.isa,
            &b.delta,
            config.intermediate,
            &mut b.gate,
            &mut b.up,
        );
        self.norm(&kept.middle, &self.frozen.layers[layer].post_norm, &mut b.normed);
        b.delta.resize(rows * config.hidden, 0.0);
        self.product_backward(
            layer,
            Target::Gate,
            &b.normed,
            &b.gate,
            low,
            kept,
            &mut b.delta,
            false,
            gradient,
        );
        self.product_backward(
            layer,
            Target::Up,
            &b.normed,
            &b.up,
            low,
            kept,
            &mut b.delta,
            true,
            gradient,
        );
        let weights = &self.frozen.layers[layer];
        rms_norm_backward(
            &self.m.threads,
            self.m.isa,
            &kept.middle,
            &weights.post_norm,
            config.norm_eps,
            &b.delta,
            dx,
        );
    }

    /// Backward pass of attention and its norm.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    fn attention_backward(
        &mut self,
        layer: usize,
        kept: &LayerTape,
        batch: &Batch,
        low: LoraActivations<'_>,
        b: &mut Buffers,
        dx: &mut [f32],
        gradient: &mut [f32],
    ) {
        let config = self.frozen.config.clone();
        let rows = batch.tokens.len();
        kept.attended.restore(&self.m, &mut b.attended);
        b.delta.resize(b.attended.len(), 0.0);
        self.product_backward(
            layer,
            Target::O,
            &b.attended,
            dx,
            low,
            kept,
            &mut b.delta,
            false,
            gradient,
        );
        for (kept, values) in [(&kept.q, &mut b.q), (&kept.k, &mut b.k), (&kept.v, &mut b.v)] {
            kept.restore(&self.m, values);
        }
        for (values, d) in [(&b.q, &mut b.dq), (&b.k, &mut b.dk), (&b.v, &mut b.dv)] {
            d.clear();
            d.resize(values.len(), 0.0);
        }
        let seen = Attended { q: &b.q, k: &b.k, v: &b.v };
        let heads = self.heads();
        attend_backward(
            &self.m.threads,
            self.m.isa,
            &batch.trees,
            heads,
            seen,
            &b.delta,
            &mut b.dq,
            &mut b.dk,
            &mut b.dv,
        );
        self.rotate(&mut b.dq, config.heads, true);
        self.rotate(&mut b.dk, config.kv_heads, true);
        self.norm(&kept.input, &self.frozen.layers[layer].input_norm, &mut b.normed);
        b.delta.resize(rows * config.hidden, 0.0);
        for (target, d, more) in
            [(Target::Q, &b.dq, false), (Target::K, &b.dk, true), (Target::V, &b.dv, true)]
        {
            self.product_backward(
                layer,
                target,
                &b.normed,
                d,
                low,
                kept,
                &mut b.delta,
                more,
                gradient,
            );
        }
        let weights = &self.frozen.layers[layer];
        rms_norm_backward(
            &self.m.threads,
            self.m.isa,
            &kept.input,
            &weights.input_norm,
            config.norm_eps,
            &b.delta,
            dx,
        );
    }

    /// Backward pass of one product: the gradient by its input, `dx (+)= dy · w + s (dy · B) · A`,
    /// and by its low-rank pair, `dA += s (dy · B)ᵀ · x`, `dB += s dyᵀ · (x · Aᵀ)`.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    fn product_backward(
        &mut self,
        layer: usize,
        target: Target,
        x: &[f32],
        dy: &[f32],
        low: LoraActivations<'_>,
        kept: &LayerTape,
        dx: &mut [f32],
        add: bool,
        gradient: &mut [f32],
    ) {
        let w: &Frozen = self.frozen.layers[layer].weight(target);
        // the embedding is frozen: the gradient by the first layer's input is not needed
        let wanted = layer > 0 || !matches!(target, Target::Q | Target::K | Target::V);
        if wanted {
            self.m.backward(w, 0..w.out, dy, dx, add);
        }
        let LoraActivations { layout, values } = low;
        let Some(pair) = layout.pair(layer, target) else { return };
        let (threads, isa, rank) = (&self.m.threads, self.m.isa, layout.padded);
        let Buffers { turned, dlow, .. } = &mut self.buffers;
        turn(layout.b(values, pair), pair.out, turned);
        dlow.resize(dy.len() / pair.out * rank, 0.0);
        let scale = layout.scale();
        gemm(
            threads,
            isa,
            Left::rows(dy, pair.out),
            Right::rows(turned, rank),
            dlow,
            rank,
            Scaled { by: scale, add: false },
        );
        let (da, db) = layout.both(gradient, pair);
        gemm(
            threads,
            isa,
            Left::transposed(dlow, rank),
            Right::rows(x, pair.columns),
            da,
            pair.columns,
            Scaled::ADD,
        );
        let scaled = Scaled { by: scale, add: true };
        gemm(
            threads,
            isa,
            Left::transposed(&kept.low[target.index()], rank),
            Right::rows(dy, pair.out),
            db,
            pair.out,
            scaled,
        );
        if wanted {
            gemm(
                threads,
                isa,
                Left::rows(dlow, rank),
                Right::rows(layout.a(values, pair), pair.columns),
                dx,
                pair.columns,
                Scaled::ADD,
            );
        }
    }
}
