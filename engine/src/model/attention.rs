//! Grouped-query attention (Ainslie et al. 2023), each sequence over its own cache.

use candle_core::{Device, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::{rope, rope_i};

use super::{ModelConfig, Segment};
use crate::Result;

/// What depends on positions alone, made once a step for all layers.
pub(super) struct Positions {
    /// Of every token of the batch: `[tokens, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
    /// Each segment's causal mask `[tokens, len + tokens]`, 0 or -inf; `None` for a single token.
    masks: Vec<Option<Tensor>>,
}

impl Positions {
    pub(super) fn new(batch: &[Segment<'_>], inverse_frequencies: &[f32], device: &Device) -> Result<Self> {
        let pairs = inverse_frequencies.len();
        let tokens = batch.iter().map(|segment| segment.tokens.len()).sum::<usize>();
        let (mut cos, mut sin) = (Vec::with_capacity(tokens * pairs), Vec::with_capacity(tokens * pairs));
        let mut masks = Vec::with_capacity(batch.len());
        for segment in batch {
            let (start, new) = (segment.kv.len(), segment.tokens.len());
            for position in start..start + new {
                for frequency in inverse_frequencies {
                    let (s, c) = (position as f32 * frequency).sin_cos();
                    sin.push(s);
                    cos.push(c);
                }
            }
            masks.push(if new == 1 { None } else { Some(causal_mask(start, new, device)?) });
        }
        Ok(Self { cos: Tensor::from_vec(cos, (tokens, pairs), device)?, sin: Tensor::from_vec(sin, (tokens, pairs), device)?, masks })
    }
}

/// `[new, start + new]`: token `i` sees positions up to `start + i`.
fn causal_mask(start: usize, new: usize, device: &Device) -> Result<Tensor> {
    let len = start + new;
    let mask = (0..new).flat_map(|row| (0..len).map(move |column| if column > start + row { f32::NEG_INFINITY } else { 0.0 }));
    Ok(Tensor::from_vec(mask.collect::<Vec<f32>>(), (new, len), device)?)
}

/// `q` `[tokens, heads * head_dim]`, `k` and `v` `[tokens, kv_heads * head_dim]` to `[tokens, heads * head_dim]`; writes the caches.
pub(super) fn attend(
    config: &ModelConfig,
    layer: usize,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    batch: &[Segment<'_>],
    positions: &Positions,
) -> Result<Tensor> {
    let (heads, kv_heads, head_dim) = (config.heads, config.kv_heads, config.head_dim);
    let (group, scale) = (heads / kv_heads, 1.0 / (head_dim as f64).sqrt());
    let tokens = q.dim(0)?;
    let rotate = |x: &Tensor, heads: usize| -> Result<Tensor> {
        // [1, heads, tokens, head_dim]
        let x = x.reshape((tokens, heads, head_dim))?.transpose(0, 1)?.contiguous()?.unsqueeze(0)?;
        let turned =
            if config.rope.interleaved { rope_i(&x, &positions.cos, &positions.sin)? } else { rope(&x, &positions.cos, &positions.sin)? };
        Ok(turned.squeeze(0)?)
    };
    let (q, k) = (rotate(q, heads)?, rotate(k, kv_heads)?);
    let v = v.reshape((tokens, kv_heads, head_dim))?.transpose(0, 1)?;
    let mut attended = Vec::with_capacity(batch.len());
    let mut start = 0;
    for (segment, mask) in batch.iter().zip(&positions.masks) {
        let new = segment.tokens.len();
        let (keys, values) = (k.narrow(1, start, new)?.contiguous()?, v.narrow(1, start, new)?.contiguous()?);
        let (keys, values) = segment.kv.append(layer, &keys, &values)?;
        // query heads of one group stand together: [kv_heads, group * new, head_dim]
        let queries = q.narrow(1, start, new)?.contiguous()?.reshape((kv_heads, group * new, head_dim))?;
        let scores = (queries.matmul(&keys.t()?)? * scale)?;
        let scores = match mask {
            None => scores,
            Some(mask) => {
                let len = keys.dim(1)?;
                scores.reshape((kv_heads, group, new, len))?.broadcast_add(mask)?.reshape((kv_heads, group * new, len))?
            }
        };
        let mixed = softmax_last_dim(&scores)?.matmul(&values)?;
        attended.push(mixed.reshape((heads, new, head_dim))?.transpose(0, 1)?.contiguous()?.reshape((new, heads * head_dim))?);
        start += new;
    }
    Ok(if attended.len() == 1 { attended.swap_remove(0) } else { Tensor::cat(&attended, 0)? })
}
