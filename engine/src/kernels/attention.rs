//! Attention over paged keys and values, with an online softmax (Milakov and Gimelshein 2018; Dao
//! et al. 2022).

use super::ThreadPool;
use super::isa::Isa;
use super::lanes::{LANES, Lanes, exp, for_isa, largest, sum};

/// Positions per block of the KV cache.
pub const KV_BLOCK_SIZE: usize = 32;
/// Vectors of scores per block.
const KEY_VECTORS: usize = KV_BLOCK_SIZE / LANES;
/// Query rows per pass over keys and values.
const ROWS: usize = 6;
/// Query rows whose sums are kept in registers together.
const TOGETHER: usize = 3;

/// Keys and values of one block of positions, for one layer and one KV head: keys `[head_dim,
/// KV_BLOCK_SIZE]`, so that one vector holds the scores of 16 positions, then values
/// `[KV_BLOCK_SIZE, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub enum KvSlice<'a> {
    /// In f16, as bit patterns.
    F16(&'a [u16]),
    /// In f32.
    F32(&'a [f32]),
}

impl KvSlice<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F16(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }
}

/// The shape of grouped-query attention (Ainslie et al. 2023): `heads / kv_heads` query
/// heads share one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Columns of a head; a multiple of 16.
    pub head_dim: usize,
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first token's row among the batch's rows.
    pub row: usize,
    /// Number of tokens.
    pub tokens: usize,
    /// The first token's position. Each token attends to all positions up to its own.
    pub position: usize,
}

#[derive(Clone, Copy)]
struct Rows {
    start: *mut f32,
    width: usize,
}

// SAFETY: threads write different heads of different rows.
unsafe impl Sync for Rows {}

/// Computes `out[tokens, heads · head_dim]`: causal attention of each row of `queries` (same shape)
/// over the keys and values of its sequence.
///
/// `cache(span, block, kv_head)` returns one block of the keys and values of a span's sequence.
/// Each row processes its blocks in order, independently of other rows, so that its result is
/// bit-identical whatever else is in the batch.
///
/// # Panics
/// When the shapes do not match, `head_dim` is not a multiple of 16, or a block of the cache has
/// another size.
pub fn attention<'c>(
    threads: &ThreadPool,
    isa: Isa,
    shape: AttentionShape,
    spans: &[Span],
    cache: impl Fn(usize, usize, usize) -> KvSlice<'c> + Sync,
    queries: &[f32],
    out: &mut [f32],
) {
    let width = shape.heads * shape.head_dim;
    let group = shape.heads / shape.kv_heads;
    let tokens: usize = spans.iter().map(|span| span.tokens).sum();
    assert!(
        queries.len() == tokens * width && out.len() == queries.len(),
        "shapes of queries and output"
    );
    assert!(shape.head_dim.is_multiple_of(LANES), "whole vectors a head");
    assert!(spans.iter().all(|span| span.row + span.tokens <= tokens), "rows of the batch");
    let rows = Rows { start: out.as_mut_ptr(), width };
    let tile = (ROWS / group).max(1);
    threads.run(|thread, threads| {
        let rows = &rows;
        let mut unit = 0;
        for (index, span) in spans.iter().enumerate() {
            let blocks = |block: usize, head: usize| cache(index, block, head);
            for first in (0..span.tokens).step_by(tile) {
                for head in 0..shape.kv_heads {
                    // assigned round-robin, because later tokens see more positions and cost more
                    unit += 1;
                    if unit % threads != thread {
                        continue;
                    }
                    // SAFETY: no other unit writes these heads of these rows, which are within
                    // `out`.
                    unsafe {
                        one_tile(
                            isa,
                            shape,
                            span,
                            &blocks,
                            first..(first + tile).min(span.tokens),
                            head,
                            queries,
                            *rows,
                        )
                    };
                }
            }
        }
    });
}

/// Attention of the query heads of one KV head, for a range of tokens.
///
/// # Safety
/// No other thread accesses these heads of these rows.
unsafe fn one_tile<'c>(
    isa: Isa,
    shape: AttentionShape,
    span: &Span,
    blocks: &impl Fn(usize, usize) -> KvSlice<'c>,
    tokens: std::ops::Range<usize>,
    kv_head: usize,
    queries: &[f32],
    out: Rows,
) {
    let (dim, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    // rows are ordered by token, then by head, and processed ROWS at a time
    let all = tokens.len() * group;
    for portion in (0..all).step_by(ROWS) {
        let rows = (all - portion).min(ROWS);
        let mut tile = Tile {
            rows,
            dim,
            queries: [std::ptr::null(); ROWS],
            outs: [std::ptr::null_mut(); ROWS],
            visible: [0; ROWS],
            max: [f32::NEG_INFINITY; ROWS],
            sum: [0.0; ROWS],
            scale: 1.0 / (dim as f32).sqrt(),
            weights: [0.0; TOGETHER * KV_BLOCK_SIZE],
        };
        for row in 0..rows {
            let (token, member) = (tokens.start + (portion + row) / group, (portion + row) % group);
            let at = (span.row + token) * out.width + (kv_head * group + member) * dim;
            tile.queries[row] = queries[at..at + dim].as_ptr();
            // SAFETY: the queries have the same shape, and their slice was in bounds.
            tile.outs[row] = unsafe { out.start.add(at) };
            tile.visible[row] = span.position + token + 1;
            // SAFETY: `dim` values of this row and head.
            unsafe { std::slice::from_raw_parts_mut(tile.outs[row], dim) }.fill(0.0);
        }
        let most = tile.visible.iter().copied().max().unwrap_or(0);
        for block in 0..most.div_ceil(KV_BLOCK_SIZE) {
            let slice = blocks(block, kv_head);
            assert!(slice.len() == 2 * KV_BLOCK_SIZE * dim, "a block of the cache");
            // SAFETY: the tile's pointers point to `dim` values each, the slice holds a block.
            unsafe {
                match slice {
                    KvSlice::F16(values) => f16_isa(isa, &mut tile, values.as_ptr(), block),
                    KvSlice::F32(values) => f32_isa(isa, &mut tile, values.as_ptr(), block),
                }
            }
        }
        for row in 0..rows {
            let inverse = 1.0 / tile.sum[row];
            // SAFETY: as above.
            unsafe { std::slice::from_raw_parts_mut(tile.outs[row], dim) }
                .iter_mut()
                .for_each(|value| *value *= inverse);
        }
    }
}

/// Query rows that attend to one KV head, with the state of their online softmaxes.
struct Tile {
    rows: usize,
    dim: usize,
    queries: [*const f32; ROWS],
    outs: [*mut f32; ROWS],
    /// Number of positions that each row attends to.
    visible: [usize; ROWS],
    max: [f32; ROWS],
    sum: [f32; ROWS],
    scale: f32,
    weights: [f32; TOGETHER * KV_BLOCK_SIZE],
}

for_isa! { unsafe fn f16_isa(tile: &mut Tile, kv: *const u16, block: usize) = f16_body }
for_isa! { unsafe fn f32_isa(tile: &mut Tile, kv: *const f32, block: usize) = f32_body }

#[inline(always)]
unsafe fn f16_body<V: Lanes>(tile: &mut Tile, kv: *const u16, block: usize) {
    // SAFETY: offsets stay within the block.
    unsafe { all_rows::<V>(tile, block, |at| V::load_half(kv.add(at))) }
}

#[inline(always)]
unsafe fn f32_body<V: Lanes>(tile: &mut Tile, kv: *const f32, block: usize) {
    // SAFETY: offsets stay within the block.
    unsafe { all_rows::<V>(tile, block, |at| V::load(kv.add(at))) }
}

#[inline(always)]
unsafe fn all_rows<V: Lanes>(tile: &mut Tile, block: usize, load: impl Fn(usize) -> V + Copy) {
    for first in (0..tile.rows).step_by(TOGETHER) {
        // SAFETY: as the caller guarantees.
        unsafe {
            match tile.rows - first {
                1 => some_rows::<V, 1>(tile, first, block, load),
                2 => some_rows::<V, 2>(tile, first, block, load),
                _ => some_rows::<V, TOGETHER>(tile, first, block, load),
            }
        }
    }
}

#[inline(always)]
unsafe fn some_rows<V: Lanes, const R: usize>(
    tile: &mut Tile,
    first: usize,
    block: usize,
    load: impl Fn(usize) -> V + Copy,
) {
    let dim = tile.dim;
    let mut seen = [0; R];
    for r in 0..R {
        seen[r] = tile.visible[first + r].saturating_sub(block * KV_BLOCK_SIZE).min(KV_BLOCK_SIZE);
    }
    let most = seen.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return;
    }
    // SAFETY: queries and outs hold `dim` values, `load` reads within the block, `weights` holds R
    // rows.
    unsafe {
        let mut scores = [[V::splat(0.0); KEY_VECTORS]; R];
        for d in 0..dim {
            let keys = [load(d * KV_BLOCK_SIZE), load(d * KV_BLOCK_SIZE + LANES)];
            for r in 0..R {
                let q = V::splat(*tile.queries[first + r].add(d));
                for v in 0..KEY_VECTORS {
                    scores[r][v] = keys[v].mul_add(q, scores[r][v]);
                }
            }
        }
        for r in 0..R {
            let (row, seen) = (first + r, seen[r]);
            if seen == 0 {
                continue;
            }
            let weights = tile.weights.as_mut_ptr().add(r * KV_BLOCK_SIZE);
            for v in 0..KEY_VECTORS {
                scores[r][v].mul(V::splat(tile.scale)).store(weights.add(v * LANES));
            }
            for hidden in seen..KV_BLOCK_SIZE {
                *weights.add(hidden) = f32::NEG_INFINITY;
            }
            let (a, b) = (V::load(weights), V::load(weights.add(LANES)));
            let max = tile.max[row].max(largest(a.max(b)));
            exp(a.sub(V::splat(max))).store(weights);
            exp(b.sub(V::splat(max))).store(weights.add(LANES));
            // masked positions have weight 0
            for hidden in seen..KV_BLOCK_SIZE {
                *weights.add(hidden) = 0.0;
            }
            let block_sum = sum(V::load(weights).add(V::load(weights.add(LANES))));
            let correction = if tile.max[row] == max {
                1.0
            } else if tile.max[row] == f32::NEG_INFINITY {
                0.0
            } else {
                exp_one::<V>(tile.max[row] - max)
            };
            tile.sum[row] = tile.sum[row].mul_add(correction, block_sum);
            tile.max[row] = max;
            if correction != 1.0 {
                for at in (0..dim).step_by(LANES) {
                    let out = tile.outs[row].add(at);
                    V::load(out).mul(V::splat(correction)).store(out);
                }
            }
        }
        // four vectors at a time, then single ones
        let mut at = 0;
        while at + 4 * LANES <= dim {
            mix::<V, R, 4>(tile, first, &seen, most, at, load);
            at += 4 * LANES;
        }
        while at < dim {
            mix::<V, R, 1>(tile, first, &seen, most, at, load);
            at += LANES;
        }
    }
}

/// Adds a block's weighted values to `W` vectors of each row's output, starting at column `at`.
#[inline(always)]
unsafe fn mix<V: Lanes, const R: usize, const W: usize>(
    tile: &Tile,
    first: usize,
    seen: &[usize; R],
    most: usize,
    at: usize,
    load: impl Fn(usize) -> V + Copy,
) {
    // SAFETY: as `some_rows`.
    unsafe {
        let values = KV_BLOCK_SIZE * tile.dim;
        let mut mixed = [[V::splat(0.0); W]; R];
        for r in 0..R {
            for w in 0..W {
                mixed[r][w] = V::load(tile.outs[first + r].add(at + w * LANES));
            }
        }
        for key in 0..most {
            let mut value = [V::splat(0.0); W];
            for w in 0..W {
                value[w] = load(values + key * tile.dim + at + w * LANES);
            }
            for r in 0..R {
                let weight = V::splat(tile.weights[r * KV_BLOCK_SIZE + key]);
                for w in 0..W {
                    mixed[r][w] = value[w].mul_add(weight, mixed[r][w]);
                }
            }
        }
        for r in 0..R {
            if seen[r] > 0 {
                for w in 0..W {
                    mixed[r][w].store(tile.outs[first + r].add(at + w * LANES));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn exp_one<V: Lanes>(x: f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    // SAFETY: the array holds all lanes.
    unsafe { exp(V::splat(x)).store(lanes.as_mut_ptr()) };
    lanes[0]
}
