//! Grouped-query attention (Ainslie et al. 2023) on candle tensors, with a paged KV cache.

use candle_core::{Device, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::{rope, rope_i};

use super::step::Step;
use super::{ModelConfig, Slice};
use crate::Result;
use crate::kernels::{KV_BLOCK_SIZE, Span};
use crate::kv::TensorStore;

/// Data that depends on positions alone, built once per step and used by all layers.
pub(super) struct Attention {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    interleaved: bool,
    /// RoPE cosines of every token, `[tokens, 1, head_dim / 2]`.
    cos: Tensor,
    /// RoPE sines, as `cos`.
    sin: Tensor,
    batches: Vec<Batch>,
    /// Rows of one-row writes, and their slots repeated for every column: one scatter per layer.
    single: Option<(Tensor, Tensor)>,
    /// Permutation of the batches' rows into the step's order; `None` if it is the identity.
    order: Option<Tensor>,
}

/// Spans with equal numbers of tokens, computed in one product.
struct Batch {
    spans: usize,
    tokens: usize,
    /// The rows of all spans, concatenated.
    rows: Tensor,
    /// Cache slots of all positions that each span attends to, padded to the longest span:
    /// `[spans * longest]`.
    slots: Tensor,
    /// Number of positions of the longest span.
    longest: usize,
    /// Additive mask, 0 or -inf, `[spans, 1, tokens, longest]`; `None` if nothing is masked.
    mask: Option<Tensor>,
}

impl Attention {
    /// With `grouped`, all spans of one token are computed in one product; all other spans are
    /// computed separately.
    pub(super) fn new(
        config: &ModelConfig,
        slice: &Slice,
        step: &Step,
        inverse_frequencies: &[f32],
        grouped: bool,
        device: &Device,
    ) -> Result<Self> {
        let (tokens, pairs) = (step.tokens.len(), inverse_frequencies.len());
        let positions =
            step.spans.iter().flat_map(|span| span.position..span.position + span.tokens);
        let angles = positions.flat_map(|position| {
            inverse_frequencies.iter().map(move |frequency| position as f32 * frequency)
        });
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(f32::sin_cos).unzip();
        let single: Vec<usize> =
            (0..step.spans.len()).filter(|&span| grouped && step.spans[span].tokens == 1).collect();
        let mut batches = Vec::new();
        let mut order: Vec<usize> = Vec::with_capacity(tokens);
        let mut add = |spans: &[usize]| -> Result<()> {
            order.extend(spans.iter().flat_map(|&span| {
                step.spans[span].row..step.spans[span].row + step.spans[span].tokens
            }));
            batches.push(Batch::new(step, spans, device)?);
            Ok(())
        };
        if !single.is_empty() {
            add(&single)?;
        }
        (0..step.spans.len())
            .filter(|span| !single.contains(span))
            .try_for_each(|span| add(&[span]))?;
        let order = if order.iter().enumerate().all(|(at, row)| at == *row) {
            None
        } else {
            let mut back = vec![0_u32; tokens];
            order.iter().enumerate().for_each(|(at, &row)| back[row] = at as u32);
            Some(Tensor::new(back, device)?)
        };
        let alone: Vec<_> = step.writes.iter().filter(|write| grouped && write.rows == 1).collect();
        let single = if alone.is_empty() {
            None
        } else {
            let width = slice.keys().len();
            let rows: Vec<u32> = alone.iter().map(|write| write.row as u32).collect();
            let slots: Vec<u32> = alone
                .iter()
                .map(|write| write.block * KV_BLOCK_SIZE as u32 + write.column as u32)
                .collect();
            let slots = Tensor::new(slots, device)?
                .unsqueeze(1)?
                .broadcast_as((alone.len(), width))?
                .contiguous()?;
            Some((Tensor::new(rows, device)?, slots))
        };
        Ok(Self {
            single,
            heads: slice.heads(),
            kv_heads: slice.kv_heads.len(),
            head_dim: config.head_dim,
            interleaved: config.rope.interleaved,
            cos: Tensor::from_vec(cos, (tokens, 1, pairs), device)?,
            sin: Tensor::from_vec(sin, (tokens, 1, pairs), device)?,
            batches,
            order,
        })
    }

    /// Applies RoPE to `x` `[tokens, heads * head_dim]` at each token's position.
    fn rotate(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        // each token is a batch of one position: [tokens, heads, 1, head_dim] with angles [tokens,
        // 1, head_dim / 2]
        let x = x.reshape((tokens, heads, 1, self.head_dim))?;
        let turned = if self.interleaved {
            rope_i(&x, &self.cos, &self.sin)?
        } else {
            rope(&x, &self.cos, &self.sin)?
        };
        Ok(turned.reshape((tokens, heads * self.head_dim))?)
    }

    /// Rotates queries and keys, writes keys and values to the cache, and attends: from `q`
    /// `[tokens, heads * head_dim]`, `k` and `v` `[tokens, kv_heads * head_dim]` to `[tokens, heads
    /// * head_dim]`.
    pub(super) fn attend(
        &self,
        store: &TensorStore,
        layer: usize,
        step: &Step,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<Tensor> {
        let (q, k) = (self.rotate(q, self.heads)?, self.rotate(k, self.kv_heads)?);
        if let Some((rows, slots)) = &self.single {
            store.scatter(layer, slots, &k.index_select(rows, 0)?, &v.index_select(rows, 0)?)?;
        }
        for write in step.writes.iter().filter(|write| self.single.is_none() || write.rows > 1) {
            let slot = write.block as usize * KV_BLOCK_SIZE + write.column;
            store.write(
                layer,
                slot,
                &k.narrow(0, write.row, write.rows)?,
                &v.narrow(0, write.row, write.rows)?,
            )?;
        }
        let (kv_heads, head_dim, group) =
            (self.kv_heads, self.head_dim, self.heads / self.kv_heads);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let mut attended = Vec::with_capacity(self.batches.len());
        for Batch { spans, tokens, rows, slots, longest, mask } in &self.batches {
            let (keys, values) = store.read(layer, slots)?;
            // [spans, kv_heads, longest, head_dim]
            let by_head = |x: Tensor| {
                x.reshape((*spans, *longest, kv_heads, head_dim))?.transpose(1, 2)?.contiguous()
            };
            let (keys, values) = (by_head(keys)?, by_head(values)?);
            // query heads by KV head: [spans, kv_heads, group * tokens, head_dim]
            let queries =
                q.index_select(rows, 0)?.reshape((*spans, *tokens, kv_heads, group, head_dim))?;
            let queries = queries.permute((0, 2, 3, 1, 4))?.contiguous()?.reshape((
                *spans,
                kv_heads,
                group * tokens,
                head_dim,
            ))?;
            let scores = (queries.matmul(&keys.transpose(2, 3)?)? * scale)?;
            let scores = match mask {
                None => scores,
                Some(mask) => {
                    let grouped = scores
                        .reshape((*spans, kv_heads * group, *tokens, *longest))?
                        .broadcast_add(mask)?;
                    grouped.reshape((*spans, kv_heads, group * tokens, *longest))?
                }
            };
            let mixed = softmax_last_dim(&scores)?
                .matmul(&values)?
                .reshape((*spans, kv_heads, group, *tokens, head_dim))?;
            attended.push(
                mixed
                    .permute((0, 3, 1, 2, 4))?
                    .contiguous()?
                    .reshape((spans * tokens, self.heads * head_dim))?,
            );
        }
        let attended =
            if attended.len() == 1 { attended.swap_remove(0) } else { Tensor::cat(&attended, 0)? };
        Ok(match &self.order {
            None => attended,
            Some(order) => attended.index_select(order, 0)?,
        })
    }
}

impl Batch {
    fn new(step: &Step, spans: &[usize], device: &Device) -> Result<Self> {
        let all = || spans.iter().map(|&span| (span, step.spans[span]));
        let tokens = all().map(|(_, span)| span.tokens).max().unwrap_or(0);
        let end = |span: Span| span.position + span.tokens;
        let longest = all().map(|(_, span)| end(span)).max().unwrap_or(0);
        let rows: Vec<u32> =
            all().flat_map(|(_, span)| span.row as u32..(span.row + span.tokens) as u32).collect();
        let slot = |span: usize, position: usize| {
            step.table(span)[position / KV_BLOCK_SIZE] * KV_BLOCK_SIZE as u32
                + (position % KV_BLOCK_SIZE) as u32
        };
        // padding reads position 0, and the mask hides it
        let slots = all().flat_map(|(index, span)| {
            (0..longest).map(move |at| slot(index, if at < end(span) { at } else { 0 }))
        });
        let slots: Vec<u32> = slots.collect();
        let hidden = |span: Span, token: usize, at: usize| at > span.position + token;
        let mask = if tokens == 1 && all().all(|(_, span)| end(span) == longest) {
            None
        } else {
            let values = all().flat_map(|(_, span)| {
                (0..tokens).flat_map(move |token| {
                    (0..longest).map(
                        move |at| if hidden(span, token, at) { f32::NEG_INFINITY } else { 0.0 },
                    )
                })
            });
            Some(Tensor::from_vec(
                values.collect::<Vec<f32>>(),
                (spans.len(), 1, tokens, longest),
                device,
            )?)
        };
        Ok(Self {
            spans: spans.len(),
            tokens,
            rows: Tensor::new(rows, device)?,
            slots: Tensor::new(slots, device)?,
            longest,
            mask,
        })
    }
}
