//! Attention over paged keys and values, with an online softmax (Milakov and Gimelshein 2018; Dao
//! et al. 2022).

use super::ThreadPool;
use super::isa::Isa;
use super::lanes::{LANES, Lanes, exp, for_isa, largest, sum};

/// Positions of one block of the cache.
pub const KV_BLOCK_SIZE: usize = 32;
const KEY_VECTORS: usize = KV_BLOCK_SIZE / LANES;
/// Query rows per pass over keys and values.
const ROWS: usize = 6;
/// Of those, rows whose sums stay in registers.
const TOGETHER: usize = 3;

/// Keys and values of one block of positions, of one layer and one KV head: keys `[head_dim,
/// KV_BLOCK_SIZE]`, so that the scores of 16 positions stand side by side, then values
/// `[KV_BLOCK_SIZE, head_dim]`.
#[derive(Debug, Clone, Copy)]
pub enum KvSlice<'a> {
    F16(&'a [u16]),
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

/// The shape of attention with grouped queries (Ainslie et al. 2023): `heads / kv_heads` query
/// heads share one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first token's row among the batch's rows.
    pub row: usize,
    pub tokens: usize,
    /// The first token's position; it attends to all positions up to its own.
    pub position: usize,
}

#[derive(Clone, Copy)]
struct Rows {
    start: *mut f32,
    width: usize,
}

// SAFETY: threads write different heads of different rows.
unsafe impl Sync for Rows {}

/// `out[tokens, heads · head_dim]`: each query row of `queries` (of the same shape) over its
/// sequence's keys and values.
///
/// `cache` gives the keys and values of span `.0`'s block `.1` for KV head `.2`. A row takes its
/// blocks in order, whatever stands beside it: its bits depend on its sequence alone.
///
/// # Panics
/// When shapes do not fit, or a block of the cache has another size.
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
                    // dealt out in turn: later tokens see more, and cost more
                    unit += 1;
                    if unit % threads != thread {
                        continue;
                    }
                    // SAFETY: no other unit has these heads of these rows, and `out` holds them.
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

/// The query heads of one KV head, of some tokens.
///
/// # Safety
/// Nobody else touches these heads of these rows.
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
    // token by token, and of each its heads, in portions of ROWS
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
            // SAFETY: `dim` floats of this row and head.
            unsafe { std::slice::from_raw_parts_mut(tile.outs[row], dim) }.fill(0.0);
        }
        let most = tile.visible.iter().copied().max().unwrap_or(0);
        for block in 0..most.div_ceil(KV_BLOCK_SIZE) {
            let slice = blocks(block, kv_head);
            assert!(slice.len() == 2 * KV_BLOCK_SIZE * dim, "a block of the cache");
            // SAFETY: the tile's pointers hold `dim` floats each, the slice a block.
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

/// Query rows over one KV head, and where the online softmax of each stands.
struct Tile {
    rows: usize,
    dim: usize,
    queries: [*const f32; ROWS],
    outs: [*mut f32; ROWS],
    /// Positions that each row sees.
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
        // SAFETY: as the caller promises.
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
    // SAFETY: queries and outs hold `dim` floats, `load` reads within the block, `weights` holds R
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
            // invisible positions have weight 0
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
        // four vectors at a time, where there are as many
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

/// Adds a block's values, weighted, to `W` vectors of each row's output from `at` on.
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
