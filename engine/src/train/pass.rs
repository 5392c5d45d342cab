//! Forward pass of the frozen model with an adapter, and the activations stored for the backward
//! pass.
//!
//! The backward pass is written by hand instead of using autograd: gradients of frozen weights are
//! never computed, values that are cheap to recompute (norms, activation functions, attention
//! probabilities) are not stored, and logits are computed only at rows that contribute to the loss.

use super::adapter::Layout;
use super::frozen::{FrozenModel, Multiplier};
use crate::kernels::{
    Attended, Heads, Left, Right, Scaled, Tree, attend, gemm, rms_norm, rotate, swiglu, to_bf16,
    widen,
};
use crate::lora::Target;

/// Sequences of one forward pass, with their rows concatenated.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    pub(super) tokens: Vec<u32>,
    pub(super) trees: Vec<Tree>,
    /// The tokens whose log-probability is computed, ordered by row.
    pub(super) reads: Vec<Read>,
}

/// A request for the log-probability of `token` as the successor of row `row`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Read {
    pub(super) row: usize,
    pub(super) token: u32,
    /// Index of the result in the caller's vector.
    pub(super) place: usize,
}

/// The current parameters of an adapter; a pass without them computes the reference.
#[derive(Clone, Copy)]
pub(super) struct LoraActivations<'a> {
    pub(super) layout: &'a Layout,
    pub(super) values: &'a [f32],
}

/// An activation stored for the backward pass.
#[derive(Debug)]
pub(super) enum Kept {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
}

impl Kept {
    fn of(m: &Multiplier, x: &[f32]) -> Self {
        if !m.keep_bf16 {
            return Self::F32(x.to_vec());
        }
        let mut rounded = vec![0; x.len()];
        to_bf16(&m.threads, m.isa, x, &mut rounded);
        Self::Bf16(rounded)
    }

    pub(super) fn restore(&self, m: &Multiplier, into: &mut Vec<f32>) {
        match self {
            Self::F32(values) => values.clone_into(into),
            Self::Bf16(values) => {
                into.resize(values.len(), 0.0);
                widen(&m.threads, m.isa, values, into);
            }
        }
    }
}

/// Stored activations of one layer.
#[derive(Debug)]
pub(super) struct LayerTape {
    pub(super) input: Vec<f32>,
    pub(super) middle: Vec<f32>,
    pub(super) q: Kept,
    pub(super) k: Kept,
    pub(super) v: Kept,
    pub(super) attended: Kept,
    pub(super) gate: Kept,
    pub(super) up: Kept,
    /// Low-rank activations `x · Aᵀ` by target, `[tokens, padded rank]`; empty for targets without
    /// a pair.
    pub(super) low: [Vec<f32>; 7],
}

/// Activations that the forward pass stores for the backward pass.
#[derive(Debug, Default)]
pub(super) struct Tape {
    pub(super) layers: Vec<LayerTape>,
    /// With activation checkpointing, the inputs of the layers; the backward pass recomputes the
    /// rest.
    pub(super) inputs: Vec<Vec<f32>>,
    /// The residual stream after the last layer, `[rows, hidden]`.
    pub(super) last: Vec<f32>,
}

/// Buffers reused between layers and passes.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) normed: Vec<f32>,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) attended: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    pub(super) inner: Vec<f32>,
    pub(super) delta: Vec<f32>,
    pub(super) turned: Vec<f32>,
    pub(super) dlow: Vec<f32>,
    pub(super) dq: Vec<f32>,
    pub(super) dk: Vec<f32>,
    pub(super) dv: Vec<f32>,
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

/// The frozen model with its multiplier and buffers.
pub(super) struct Model {
    pub(super) frozen: FrozenModel,
    pub(super) m: Multiplier,
    /// Activation checkpointing: store only the layers' inputs.
    pub(super) checkpoint: bool,
    pub(super) buffers: Buffers,
    /// Called after each layer and each block of logits, so that other work can run.
    pub(super) pause: Box<dyn FnMut() + Send>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("config", &self.frozen.config).finish_non_exhaustive()
    }
}

impl Model {
    pub(super) fn new(frozen: FrozenModel, m: Multiplier, checkpoint: bool) -> Self {
        Self { frozen, m, checkpoint, buffers: Buffers::default(), pause: Box::new(|| {}) }
    }

    pub(super) fn heads(&self) -> Heads {
        let config = &self.frozen.config;
        Heads { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim }
    }

    /// Computes the residual stream after the last layer, `[rows, hidden]`, without an adapter if
    /// `low` is `None`; stores activations in `tape` if one is given.
    pub(super) fn forward(
        &mut self,
        batch: &Batch,
        low: Option<LoraActivations<'_>>,
        mut tape: Option<&mut Tape>,
    ) -> Vec<f32> {
        let hidden = self.frozen.config.hidden;
        self.angles(batch);
        let mut x = vec![0.0; batch.tokens.len() * hidden];
        for (token, x) in batch.tokens.iter().zip(x.chunks_exact_mut(hidden)) {
            self.frozen.embedding.rows(*token as usize..*token as usize + 1, x);
        }
        if let Some(tape) = tape.as_deref_mut() {
            *tape = Tape::default();
        }
        for layer in 0..self.frozen.layers.len() {
            let keep = tape.is_some() && !self.checkpoint;
            let input = (tape.is_some() && self.checkpoint).then(|| x.clone());
            let kept = self.layer(layer, &mut x, batch, low, keep);
            if let Some(tape) = tape.as_deref_mut() {
                match kept {
                    Some(kept) => tape.layers.push(kept),
                    None => tape.inputs.extend(input),
                }
            }
            (self.pause)();
        }
        if let Some(tape) = tape {
            tape.last.clone_from(&x);
        }
        x
    }

    /// Applies the final norm to the given rows of the residual stream `x`.
    pub(super) fn final_norm(&self, x: &[f32], rows: &[usize]) -> Vec<f32> {
        let hidden = self.frozen.config.hidden;
        let mut out = vec![0.0; rows.len() * hidden];
        let (isa, weight, eps) = (self.m.isa, &self.frozen.norm, self.frozen.config.norm_eps);
        self.m.threads.for_rows(&mut out, hidden, |at, out| {
            rms_norm(isa, &x[rows[at] * hidden..(rows[at] + 1) * hidden], weight, eps, out)
        });
        out
    }

    /// Fills the RoPE cosines and sines of every row's position, `[rows, head_dim / 2]`.
    fn angles(&mut self, batch: &Batch) {
        let (cos, sin) = (&mut self.buffers.cos, &mut self.buffers.sin);
        cos.clear();
        sin.clear();
        for position in batch.trees.iter().flat_map(Tree::positions) {
            for frequency in &self.frozen.inverse_frequencies {
                let (s, c) = (position as f32 * frequency).sin_cos();
                cos.push(c);
                sin.push(s);
            }
        }
    }

    pub(super) fn norm(&self, x: &[f32], weight: &[f32], out: &mut Vec<f32>) {
        let (isa, width, eps) = (self.m.isa, weight.len(), self.frozen.config.norm_eps);
        out.resize(x.len(), 0.0);
        self.m.threads.for_rows(out, width, |row, out| {
            rms_norm(isa, &x[row * width..(row + 1) * width], weight, eps, out)
        });
    }

    /// Applies RoPE to every row of queries or keys, or its inverse with `back`.
    pub(super) fn rotate(&self, values: &mut [f32], heads: usize, back: bool) {
        let config = &self.frozen.config;
        let (pairs, interleaved, Buffers { cos, sin, .. }) =
            (config.head_dim / 2, config.rope.interleaved, &self.buffers);
        self.m.threads.for_rows(values, heads * config.head_dim, |row, values| {
            let (cos, sin) =
                (&cos[row * pairs..(row + 1) * pairs], &sin[row * pairs..(row + 1) * pairs]);
            if back {
                let sin: smallvec::SmallVec<[f32; 128]> = sin.iter().map(|sin| -sin).collect();
                rotate(values, cos, &sin, interleaved);
            } else {
                rotate(values, cos, sin, interleaved);
            }
        });
    }

    /// Products of the rows `x` with some of a layer's weights, plus the low-rank products of the
    /// adapter. Stores the low-rank activations in `keep`, by target.
    fn products<const N: usize>(
        &mut self,
        layer: usize,
        x: &[f32],
        outputs: [(Target, &mut Vec<f32>); N],
        low: Option<LoraActivations<'_>>,
        keep: &mut [Vec<f32>; 7],
    ) {
        let weights = &self.frozen.layers[layer];
        let targets = outputs.each_ref().map(|(target, _)| *target);
        let mut products = outputs.map(|(target, y)| {
            let w = weights.weight(target);
            (w, 0..w.out, y)
        });
        self.m.forward(x, &mut products);
        let Some(LoraActivations { layout, values }) = low else { return };
        let (threads, isa) = (&self.m.threads, self.m.isa);
        for (target, (_, _, y)) in targets.into_iter().zip(products) {
            let Some(pair) = layout.pair(layer, target) else { continue };
            let (rank, kept) = (layout.padded, &mut keep[target.index()]);
            turn(layout.a(values, pair), pair.columns, &mut self.buffers.turned);
            kept.resize(x.len() / pair.columns * rank, 0.0);
            gemm(
                threads,
                isa,
                Left::rows(x, pair.columns),
                Right::rows(&self.buffers.turned, rank),
                kept,
                rank,
                Scaled::WRITE,
            );
            let scaled = Scaled { by: layout.scale(), add: true };
            gemm(
                threads,
                isa,
                Left::rows(kept, rank),
                Right::rows(layout.b(values, pair), pair.out),
                y,
                pair.out,
                scaled,
            );
        }
    }

    /// Computes one layer in place on the residual stream `x`; with `keep`, returns the activations
    /// for the backward pass.
    pub(super) fn layer(
        &mut self,
        layer: usize,
        x: &mut [f32],
        batch: &Batch,
        low: Option<LoraActivations<'_>>,
        keep: bool,
    ) -> Option<LayerTape> {
        let mut b = std::mem::take(&mut self.buffers);
        // `rotate` reads the cosines and sines from `self.buffers`
        (self.buffers.cos, self.buffers.sin) =
            (std::mem::take(&mut b.cos), std::mem::take(&mut b.sin));
        let config = self.frozen.config.clone();
        let mut lows: [Vec<f32>; 7] = Default::default();
        let input = keep.then(|| x.to_vec());
        self.norm(x, &self.frozen.layers[layer].input_norm, &mut b.normed);
        let outputs = [(Target::Q, &mut b.q), (Target::K, &mut b.k), (Target::V, &mut b.v)];
        self.products(layer, &b.normed, outputs, low, &mut lows);
        self.rotate(&mut b.q, config.heads, false);
        self.rotate(&mut b.k, config.kv_heads, false);
        b.attended.resize(b.q.len(), 0.0);
        let seen = Attended { q: &b.q, k: &b.k, v: &b.v };
        attend(&self.m.threads, self.m.isa, &batch.trees, self.heads(), seen, &mut b.attended);
        self.products(layer, &b.attended, [(Target::O, &mut b.delta)], low, &mut lows);
        add(x, &b.delta);
        let middle = keep.then(|| x.to_vec());
        self.norm(x, &self.frozen.layers[layer].post_norm, &mut b.normed);
        self.products(
            layer,
            &b.normed,
            [(Target::Gate, &mut b.gate), (Target::Up, &mut b.up)],
            low,
            &mut lows,
        );
        b.inner.resize(b.gate.len(), 0.0);
        swiglu(&self.m.threads, self.m.isa, &b.gate, &b.up, config.intermediate, &mut b.inner);
        self.products(layer, &b.inner, [(Target::Down, &mut b.delta)], low, &mut lows);
        add(x, &b.delta);
        let kept = input.zip(middle).map(|(input, middle)| LayerTape {
            input,
            middle,
            q: Kept::of(&self.m, &b.q),
            k: Kept::of(&self.m, &b.k),
            v: Kept::of(&self.m, &b.v),
            attended: Kept::of(&self.m, &b.attended),
            gate: Kept::of(&self.m, &b.gate),
            up: Kept::of(&self.m, &b.up),
            low: lows,
        });
        (b.cos, b.sin) =
            (std::mem::take(&mut self.buffers.cos), std::mem::take(&mut self.buffers.sin));
        b.turned = std::mem::take(&mut self.buffers.turned);
        self.buffers = b;
        kept
    }
}

/// Transposes a matrix with rows of `width` into `into`.
pub(super) fn turn(values: &[f32], width: usize, into: &mut Vec<f32>) {
    let rows = values.len() / width;
    into.resize(values.len(), 0.0);
    for (row, values) in values.chunks_exact(width).enumerate() {
        values.iter().enumerate().for_each(|(column, value)| into[column * rows + row] = *value);
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
