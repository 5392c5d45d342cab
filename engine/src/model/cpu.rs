//! The model on the CPU kernels: repacked weights, paged keys and values, one team of threads.
//!
//! Every number of a row is computed in one order, whatever else is in the batch and however a prompt was cut into chunks: see
//! [`kernels`](crate::kernels).

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};

use super::{ModelConfig, Segment, logit_rows};
use crate::Result;
use crate::kernels::{
    Activations, AttentionShape, BlockKind, DenseMatrix, Isa, LowRank, PackedMatrix, Product, Span, Team, add, attention, low_rank, matmul,
    matmul_dense, matmul_low_rank, rms_norm, rotate, silu_mul,
};
use crate::kv::KvShape;
use crate::lora::{Delta, Target};
use crate::weights::{Matrix, Quantisation, WeightReader};

/// A weight `[out, in]`.
#[derive(Debug)]
enum Weight {
    Packed(PackedMatrix),
    Dense(DenseMatrix),
    /// Block types that the kernels do not know: candle's product.
    Foreign {
        product: QMatMul,
        tensor: Arc<QTensor>,
    },
}

impl Weight {
    fn new(matrix: Matrix) -> Result<Self> {
        let tensor = match matrix {
            Matrix::Dense(tensor) => {
                let (rows, columns) = tensor.dims2()?;
                return Ok(Self::Dense(DenseMatrix::from_f32(rows, columns, &tensor.flatten_all()?.to_vec1::<f32>()?)));
            }
            Matrix::Quantised(tensor) => tensor,
        };
        let kind = match tensor.dtype() {
            GgmlDType::Q4_0 => BlockKind::Q4_0,
            GgmlDType::Q4_1 => BlockKind::Q4_1,
            GgmlDType::Q8_0 => BlockKind::Q8_0,
            _ => return Ok(Self::Foreign { product: QMatMul::from_arc(Arc::clone(&tensor))?, tensor }),
        };
        let (rows, columns) = tensor.shape().dims2()?;
        Ok(Self::Packed(PackedMatrix::pack(kind, rows, columns, &tensor.data()?, 1)))
    }

    fn rows(&self) -> usize {
        match self {
            Self::Packed(w) => w.rows(),
            Self::Dense(w) => w.rows(),
            Self::Foreign { tensor, .. } => tensor.shape().dims().first().copied().unwrap_or(0),
        }
    }

    /// candle's product, `x` `[rows, columns]` to `y`. It chooses its kernel, and with it the order of sums, by the number of rows: one, a
    /// few, many. So it always gets a few.
    fn foreign(product: &QMatMul, x: &[f32], columns: usize, y: &mut [f32]) -> Result<()> {
        let rows = x.len() / columns;
        let out = y.len() / rows.max(1);
        for (x, y) in x.chunks(FEW * columns).zip(y.chunks_mut(FEW * out)) {
            let rows = x.len() / columns;
            let tensor = if rows == 1 {
                Tensor::from_vec([x, x].concat(), (2, columns), &Device::Cpu)?
            } else {
                Tensor::from_slice(x, (rows, columns), &Device::Cpu)?
            };
            let found = product.forward(&tensor)?.flatten_all()?.to_vec1::<f32>()?;
            y.copy_from_slice(&found[..y.len()]);
        }
        Ok(())
    }

    /// The rows of `tokens` one after the other, in f32.
    fn embed(&self, tokens: &[u32], out: &mut [f32]) -> Result<()> {
        let columns = out.len() / tokens.len().max(1);
        if let Self::Foreign { tensor, .. } = self {
            let rows = tensor.embedding(&Tensor::new(tokens, &Device::Cpu)?)?;
            out.copy_from_slice(&rows.flatten_all()?.to_vec1::<f32>()?);
            return Ok(());
        }
        for (token, out) in tokens.iter().zip(out.chunks_exact_mut(columns)) {
            match self {
                Self::Packed(w) => w.dequantise_row(*token as usize, out),
                Self::Dense(w) => w.row(*token as usize, out),
                Self::Foreign { .. } => {}
            }
        }
        Ok(())
    }
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

/// Weights for the kernels, and the buffers of a step.
#[derive(Debug)]
pub(super) struct CpuModel {
    isa: Isa,
    team: Team,
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None`: the embedding.
    output: Option<Weight>,
    /// `[head_dim / 2]`
    pub(super) inverse_frequencies: Vec<f32>,
    kv: KvShape,
    buffers: Mutex<Buffers>,
}

/// Kept from step to step: once they have grown, what is as large as the batch is not taken anew.
#[derive(Debug, Default)]
struct Buffers {
    /// The residual stream, `[tokens, hidden]`.
    x: Vec<f32>,
    /// What a product reads, normed.
    normed: Vec<f32>,
    quants: Activations,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// What is added to the residual stream.
    delta: Vec<f32>,
    /// Low-rank products.
    low: Vec<f32>,
    /// `[tokens, head_dim / 2]`
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Rows of one of candle's products.
const FEW: usize = 16;
/// Rows from which work on single rows is shared out: below, waking the others costs more.
const SHARED_FROM: usize = 8;

impl CpuModel {
    pub(super) fn load(reader: &mut WeightReader<'_>, config: &ModelConfig, quantisation: Quantisation) -> Result<Self> {
        let device = Device::Cpu;
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut matrix =
            |name: &str, out: usize, columns: usize| Weight::new(reader.matrix(name, [out, columns], quantisation, &device)?);
        let embedding = matrix("model.embed_tokens.weight", config.vocabulary, hidden)?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let name = |part: &str| format!("model.layers.{index}.{part}.weight");
            let mut matrix =
                |part: &str, out: usize, columns: usize| Weight::new(reader.matrix(&name(part), [out, columns], quantisation, &device)?);
            let (q, k) = (matrix("self_attn.q_proj", queries, hidden)?, matrix("self_attn.k_proj", keys, hidden)?);
            let (v, o) = (matrix("self_attn.v_proj", keys, hidden)?, matrix("self_attn.o_proj", hidden, queries)?);
            let (gate, up) = (matrix("mlp.gate_proj", inner, hidden)?, matrix("mlp.up_proj", inner, hidden)?);
            let down = matrix("mlp.down_proj", hidden, inner)?;
            let mut vector = |part: &str| -> Result<Vec<f32>> { Ok(reader.dense(&name(part), &[hidden], &device)?.to_vec1()?) };
            let (input_norm, post_norm) = (vector("input_layernorm")?, vector("post_attention_layernorm")?);
            layers.push(Layer { input_norm, q, k, v, o, post_norm, gate, up, down });
        }
        let norm = reader.dense("model.norm.weight", &[hidden], &device)?.to_vec1()?;
        let output = if config.tied && !reader.has("lm_head.weight") {
            None
        } else {
            Some(Weight::new(reader.matrix("lm_head.weight", [config.vocabulary, hidden], quantisation, &device)?)?)
        };
        let factors = reader.rope_factors(config.head_dim / 2)?;
        let inverse_frequencies = config.rope.inverse_frequencies(config.head_dim, factors.as_deref());
        let isa = Isa::detect();
        // a model in f32 is asked for exactness, a quantised one for size
        let half = !layers.iter().all(|layer| matches!(layer.k, Weight::Dense(_)));
        let kv = KvShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim, half, isa };
        let team = Team::new(std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get));
        tracing::info!(?isa, threads = team.threads(), kv = if half { "f16" } else { "f32" }, "the CPU's kernels");
        Ok(Self { isa, team, embedding, layers, norm, output, inverse_frequencies, kv, buffers: Mutex::default() })
    }

    pub(super) fn kv_shape(&self) -> KvShape {
        self.kv
    }

    /// As [`Llama::forward`](super::Llama::forward), after its checks.
    pub(super) fn forward(&self, config: &ModelConfig, batch: &mut [Segment<'_>]) -> Result<Tensor> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let buffers = &mut *buffers;
        let tokens: Vec<u32> = batch.iter().flat_map(|segment| segment.tokens.iter().copied()).collect();
        buffers.x.resize(tokens.len() * config.hidden, 0.0);
        self.embedding.embed(&tokens, &mut buffers.x)?;
        self.angles(batch, buffers);
        for (index, layer) in self.layers.iter().enumerate() {
            self.norm(&buffers.x, &layer.input_norm, config.norm_eps, &mut buffers.normed);
            self.products(
                batch,
                index,
                [(Target::Q, &layer.q, &mut buffers.q), (Target::K, &layer.k, &mut buffers.k), (Target::V, &layer.v, &mut buffers.v)],
                &buffers.normed,
                config.hidden,
                &mut buffers.quants,
                &mut buffers.low,
            )?;
            self.attend(config, index, batch, buffers)?;
            self.products(
                batch,
                index,
                [(Target::O, &layer.o, &mut buffers.delta)],
                &buffers.attended,
                config.heads * config.head_dim,
                &mut buffers.quants,
                &mut buffers.low,
            )?;
            add(self.isa, &mut buffers.x, &buffers.delta);
            self.norm(&buffers.x, &layer.post_norm, config.norm_eps, &mut buffers.normed);
            self.products(
                batch,
                index,
                [(Target::Gate, &layer.gate, &mut buffers.gate), (Target::Up, &layer.up, &mut buffers.up)],
                &buffers.normed,
                config.hidden,
                &mut buffers.quants,
                &mut buffers.low,
            )?;
            let (isa, inner, up) = (self.isa, config.intermediate, &buffers.up);
            self.rows(&mut buffers.gate, inner, |row, gate| silu_mul(isa, gate, &up[row * inner..(row + 1) * inner]));
            self.products(
                batch,
                index,
                [(Target::Down, &layer.down, &mut buffers.delta)],
                &buffers.gate,
                inner,
                &mut buffers.quants,
                &mut buffers.low,
            )?;
            add(self.isa, &mut buffers.x, &buffers.delta);
        }
        for segment in batch.iter_mut() {
            segment.kv.advance(segment.tokens.len());
        }
        self.logits(config, batch, buffers)
    }

    /// Runs `work` on each row, shared out where there are many.
    fn rows(&self, values: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        if values.len() >= SHARED_FROM * width {
            self.team.for_rows(values, width, work);
        } else {
            values.chunks_exact_mut(width).enumerate().for_each(|(row, values)| work(row, values));
        }
    }

    fn norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut Vec<f32>) {
        let (isa, width) = (self.isa, weight.len());
        out.resize(x.len(), 0.0);
        self.rows(out, width, |row, out| rms_norm(isa, &x[row * width..(row + 1) * width], weight, eps, out));
    }

    /// The cosine and sine of every token's position.
    fn angles(&self, batch: &[Segment<'_>], buffers: &mut Buffers) {
        buffers.cos.clear();
        buffers.sin.clear();
        for segment in batch {
            for position in segment.kv.len()..segment.kv.len() + segment.tokens.len() {
                for frequency in &self.inverse_frequencies {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    buffers.sin.push(sin);
                    buffers.cos.push(cos);
                }
            }
        }
    }

    /// Products of the same rows `x` `[tokens, columns]`, each with what its sequences' adapters add.
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    fn products<const N: usize>(
        &self,
        batch: &[Segment<'_>],
        layer: usize,
        products: [(Target, &Weight, &mut Vec<f32>); N],
        x: &[f32],
        columns: usize,
        quants: &mut Activations,
        low: &mut Vec<f32>,
    ) -> Result<()> {
        let tokens = x.len() / columns;
        if products.iter().any(|(_, weight, _)| matches!(weight, Weight::Packed(_))) {
            quants.quantise(&self.team, self.isa, x, columns);
        }
        let targets = products.each_ref().map(|(target, ..)| *target);
        let mut weights = Vec::with_capacity(N);
        let mut outputs: [&mut [f32]; N] = products.map(|(_, weight, out)| {
            out.resize(tokens * weight.rows(), 0.0);
            weights.push(weight);
            out.as_mut_slice()
        });
        let items = low_rank_items(batch, layer, &targets);
        if weights.iter().all(|weight| matches!(weight, Weight::Packed(_))) {
            let pairs = weights.iter().zip(outputs);
            let mut products: Vec<Product<'_>> =
                pairs.filter_map(|(weight, y)| if let Weight::Packed(w) = weight { Some(Product { w, y }) } else { None }).collect();
            matmul_low_rank(&self.team, self.isa, &mut products, quants, &items, x, low);
            return Ok(());
        }
        for (weight, y) in weights.iter().zip(&mut outputs) {
            match weight {
                Weight::Packed(w) => matmul(&self.team, self.isa, &mut [Product { w, y }], quants),
                Weight::Dense(w) => matmul_dense(&self.team, self.isa, w, x, false, y),
                Weight::Foreign { product, .. } => Weight::foreign(product, x, columns, y)?,
            }
        }
        low_rank(&self.team, self.isa, &items, x, low, &mut outputs);
        Ok(())
    }

    /// Rotates queries and keys, keeps keys and values, attends.
    fn attend(&self, config: &ModelConfig, layer: usize, batch: &mut [Segment<'_>], buffers: &mut Buffers) -> Result<()> {
        let Buffers { q, k, v, attended, cos, sin, .. } = buffers;
        let (queries, keys, pairs) = (config.heads * config.head_dim, config.kv_heads * config.head_dim, config.head_dim / 2);
        let interleaved = config.rope.interleaved;
        let turn = |row: usize, heads: &mut [f32]| {
            let at = row * pairs..(row + 1) * pairs;
            rotate(heads, &cos[at.clone()], &sin[at], interleaved);
        };
        self.rows(q, queries, turn);
        self.rows(k, keys, turn);
        let mut row = 0;
        for segment in batch.iter_mut() {
            let rows = row * keys..(row + segment.tokens.len()) * keys;
            segment.kv.write(layer, &k[rows.clone()], &v[rows])?;
            row += segment.tokens.len();
        }
        let caches: Vec<_> = batch.iter().map(|segment| |block: usize, head: usize| segment.kv.slice(layer, block, head)).collect();
        let mut row = 0;
        let spans: Vec<Span<'_>> = batch
            .iter()
            .zip(&caches)
            .map(|(segment, cache)| {
                let span = Span { row, tokens: segment.tokens.len(), position: segment.kv.len(), cache };
                row += span.tokens;
                span
            })
            .collect();
        attended.resize(q.len(), 0.0);
        let shape = AttentionShape { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim };
        attention(&self.team, self.isa, shape, &spans, q, attended);
        Ok(())
    }

    /// The output layer, for the rows where logits are read.
    fn logits(&self, config: &ModelConfig, batch: &[Segment<'_>], buffers: &mut Buffers) -> Result<Tensor> {
        let hidden = config.hidden;
        // the delta of the last layer has been added: its buffer is free
        let Buffers { x, normed, delta: read, quants, .. } = buffers;
        read.clear();
        for row in logit_rows(batch) {
            read.extend_from_slice(&x[row * hidden..(row + 1) * hidden]);
        }
        let rows = read.len() / hidden;
        if rows == 0 {
            return Ok(Tensor::zeros((0, config.vocabulary), candle_core::DType::F32, &Device::Cpu)?);
        }
        self.norm(read, &self.norm, config.norm_eps, normed);
        let weight = self.output.as_ref().unwrap_or(&self.embedding);
        let mut logits = vec![0.0; rows * config.vocabulary];
        match weight {
            Weight::Packed(w) => {
                quants.quantise(&self.team, self.isa, normed, hidden);
                matmul(&self.team, self.isa, &mut [Product { w, y: &mut logits }], quants);
            }
            Weight::Dense(w) => matmul_dense(&self.team, self.isa, w, normed, false, &mut logits),
            Weight::Foreign { product, .. } => Weight::foreign(product, normed, hidden, &mut logits)?,
        }
        Ok(Tensor::from_vec(logits, (rows, config.vocabulary), &Device::Cpu)?)
    }
}

/// The low-rank products beside `targets` of a layer, for every sequence that speaks through an adapter with some.
fn low_rank_items<'a>(batch: &'a [Segment<'_>], layer: usize, targets: &[Target]) -> Vec<LowRank<'a>> {
    let mut items = Vec::new();
    let mut row = 0;
    for segment in batch {
        let rows = segment.tokens.len();
        for (output, target) in targets.iter().enumerate() {
            let delta = segment.adapter.as_ref().and_then(|adapter| adapter.0.delta(layer, *target));
            if let Some(Delta::Packed { a, b, scale }) = delta {
                items.push(LowRank { a, b, scale: *scale, row, rows, output });
            }
        }
        row += rows;
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_types_without_a_kernel_give_the_same_bits_batched_or_alone() {
        let (rows, columns, tokens) = (48, 512, 37);
        let values = |count: usize, step: f32| -> Vec<f32> { (0..count).map(|at| ((at as f32 * step).sin() * 43.7).fract()).collect() };
        let dense = Tensor::from_vec(values(rows * columns, 0.37), (rows, columns), &Device::Cpu).unwrap();
        let x = values(tokens * columns, 1.13);
        for kind in [GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K] {
            let tensor = Arc::new(QTensor::quantize(&dense, kind).unwrap());
            let Weight::Foreign { product, .. } = Weight::new(Matrix::Quantised(tensor)).unwrap() else { panic!("{kind:?} has a kernel") };
            let product = |x: &[f32]| {
                let mut y = vec![0.0; x.len() / columns * rows];
                Weight::foreign(&product, x, columns, &mut y).unwrap();
                y
            };
            let together = product(&x);
            for (x, y) in x.chunks_exact(columns).zip(together.chunks_exact(rows)) {
                assert_eq!(product(x), y, "{kind:?}");
            }
            assert_eq!(product(&x[columns..4 * columns]), together[rows..4 * rows], "{kind:?}");
        }
    }
}
