//! Attention over whole sequences with its backward pass, for training. Probabilities are not
//! stored: the backward pass recomputes them, one tile of rows at a time (as in FlashAttention, Dao
//! et al. 2022).

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ThreadPool;
use super::attention_tree::{Attended, Heads, Tree};
use super::gemm::{Left, Right, Scaled, Target, part};
use super::isa::Isa;
use super::lanes::{LANES, Lanes, exp, for_isa, largest, sum};

/// Rows of a tile.
const TILE: usize = 64;
/// Subtracted from each probability, with results below 0 set to 0: masked ones would otherwise be
/// subnormal numbers, which some processors multiply a hundred times slower.
const NOTHING: f32 = 1e-20;

/// A buffer of which threads write different parts: columns of different heads, rows of different
/// trees.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: tasks write different heads' columns or different trees' rows.
unsafe impl Sync for Shared {}

/// Scratch buffers of one thread.
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    p: Vec<f32>,
    dp: Vec<f32>,
}

/// A unit of work: one tree and the query heads of one KV head.
struct Task<'a> {
    isa: Isa,
    heads: Heads,
    tree: &'a Tree,
    kv_head: usize,
    x: Attended<'a>,
}

/// Runs `work(tree, kv_head, scratch)` for each tree and KV head; free threads take the next task.
fn tasks(
    threads: &ThreadPool,
    trees: &[Tree],
    heads: Heads,
    work: impl Fn(usize, usize, &mut Scratch) + Sync,
) {
    let next = AtomicUsize::new(0);
    let all = trees.len() * heads.kv_heads;
    threads.run(|_, _| {
        let mut scratch =
            Scratch { keys: Vec::new(), values: Vec::new(), p: Vec::new(), dp: Vec::new() };
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= all {
                return;
            }
            work(task / heads.kv_heads, task % heads.kv_heads, &mut scratch);
        }
    });
}

fn check(trees: &[Tree], heads: Heads, x: &Attended<'_>, queries: usize) {
    let rows = trees.iter().map(|tree| tree.start + tree.rows()).max().unwrap_or(0);
    assert!(trees.iter().all(|tree| tree.shared <= tree.start), "shared rows precede the tree");
    let (wide, narrow) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
    assert!(
        heads.head_dim.is_multiple_of(LANES) && heads.heads.is_multiple_of(heads.kv_heads),
        "head_dim is a multiple of 16, and kv_heads divides heads"
    );
    assert!(
        x.q.len() >= rows * wide
            && x.k.len() >= rows * narrow
            && x.v.len() >= rows * narrow
            && queries >= rows * wide,
        "one row per token"
    );
}

/// `out[rows, heads · head_dim] = softmax(q · kᵀ / √head_dim) · v`.
///
/// # Panics
/// When the shapes do not match.
pub fn attend(
    threads: &ThreadPool,
    isa: Isa,
    trees: &[Tree],
    heads: Heads,
    x: Attended<'_>,
    out: &mut [f32],
) {
    check(trees, heads, &x, out.len());
    let out = Shared(out.as_mut_ptr());
    tasks(threads, trees, heads, |tree, kv_head, scratch| {
        let out = &out;
        // SAFETY: `check` has checked the shapes, and each task writes the rows of its tree in the
        // columns of its head group.
        unsafe { Task { isa, heads, tree: &trees[tree], kv_head, x }.forward(out.0, scratch) }
    });
}

/// Adds the gradients of queries, keys and values to `dq`, `dk` and `dv` (same shapes), given
/// `dout`, the gradient of the output of [`attend`].
///
/// # Panics
/// When the shapes do not match.
#[allow(clippy::too_many_arguments, reason = "each is a separate buffer")]
pub fn attend_backward(
    threads: &ThreadPool,
    isa: Isa,
    trees: &[Tree],
    heads: Heads,
    x: Attended<'_>,
    dout: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    check(trees, heads, &x, dout.len());
    assert!(
        dq.len() >= x.q.len() && dk.len() >= x.k.len() && dv.len() >= x.v.len(),
        "sizes of the gradients"
    );
    let (shared, narrow) =
        (trees.iter().map(|tree| tree.shared).max().unwrap_or(0), heads.kv_heads * heads.head_dim);
    let room = trees.len() * shared * narrow;
    // each tree's gradients of the shared rows, `[trees, shared, kv_heads · head_dim]`; they are
    // added up below in the order of the trees, so that the result does not depend on scheduling
    let [mut shared_dk, mut shared_dv] = [(); 2].map(|()| vec![0.0_f32; room]);
    {
        let [dq, dk, dv] =
            [Shared(dq.as_mut_ptr()), Shared(dk.as_mut_ptr()), Shared(dv.as_mut_ptr())];
        let [trunk_dk, trunk_dv] = [Shared(shared_dk.as_mut_ptr()), Shared(shared_dv.as_mut_ptr())];
        tasks(threads, trees, heads, |tree, kv_head, scratch| {
            let (dq, dk, dv, trunk_dk, trunk_dv) = (&dq, &dk, &dv, &trunk_dk, &trunk_dv);
            let at = tree * shared * narrow;
            // SAFETY: as in `attend`; each tree has its own gradients of the shared rows.
            unsafe {
                let trunk = [trunk_dk.0.add(at), trunk_dv.0.add(at)];
                Task { isa, heads, tree: &trees[tree], kv_head, x }.backward(
                    dout,
                    [dq.0, dk.0, dv.0],
                    trunk,
                    scratch,
                );
            }
        });
    }
    if room > 0 {
        for (sum, parts) in [(dk, &shared_dk), (dv, &shared_dv)] {
            threads.for_rows(&mut sum[..shared * narrow], narrow, |row, sum| {
                for tree in 0..trees.len() {
                    let part = &parts[(tree * shared + row) * narrow..][..narrow];
                    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
            });
        }
    }
}

impl Task<'_> {
    fn wide(&self) -> usize {
        self.heads.heads * self.heads.head_dim
    }

    fn narrow(&self) -> usize {
        self.heads.kv_heads * self.heads.head_dim
    }

    /// Offset of the group's keys and values of the tree's own rows.
    fn kv_start(&self) -> usize {
        self.tree.start * self.narrow() + self.kv_head_start()
    }

    /// Offset of the group's keys and values of the shared rows.
    fn kv_head_start(&self) -> usize {
        self.kv_head * self.heads.head_dim
    }

    /// Offset of an own row of a query head.
    fn q_start(&self, head: usize, row: usize) -> usize {
        (self.tree.start + row) * self.wide() + head * self.heads.head_dim
    }

    /// The query heads of the KV head.
    fn group(&self) -> Range<usize> {
        let size = self.heads.heads / self.heads.kv_heads;
        self.kv_head * size..(self.kv_head + 1) * size
    }

    /// Transposes keys or values of the group, shared rows first, into `[head_dim, padded rows]`;
    /// returns the number of padded rows.
    fn transpose(&self, values: &[f32], into: &mut Vec<f32>) -> usize {
        let (shared, dim) = (self.tree.shared, self.heads.head_dim);
        let rows = shared + self.tree.rows();
        let padded = rows.next_multiple_of(LANES);
        into.clear();
        into.resize(dim * padded, 0.0);
        for row in 0..rows {
            let start = if row < shared {
                self.kv_head_start() + row * self.narrow()
            } else {
                self.kv_start() + (row - shared) * self.narrow()
            };
            for (d, value) in values[start..][..dim].iter().enumerate() {
                into[d * padded + row] = *value;
            }
        }
        padded
    }

    /// Tiles of own rows, each with the number of own keys that its rows may attend to.
    fn tiles(&self) -> impl Iterator<Item = (Range<usize>, usize)> + '_ {
        let rows = self.tree.rows();
        (0..rows).step_by(TILE).map(move |first| {
            let last = (first + TILE).min(rows);
            (first..last, last)
        })
    }

    fn left<'a>(&self, values: &'a [f32], head: usize, rows: &Range<usize>) -> Left<'a> {
        Left {
            values: &values[self.q_start(head, rows.start)..],
            rows: rows.len(),
            inner: self.heads.head_dim,
            row_stride: self.wide(),
            inner_stride: 1,
        }
    }

    /// Computes the attention probabilities of a tile, `[rows, shared + keys padded]`, into `p`.
    ///
    /// # Safety
    /// The shapes are as checked by [`check`].
    unsafe fn probabilities(
        &self,
        head: usize,
        rows: &Range<usize>,
        keys: usize,
        transposed: &[f32],
        padded: usize,
        p: &mut Vec<f32>,
    ) {
        let width = self.width(keys);
        p.resize(rows.len() * width, 0.0);
        let scale = 1.0 / (self.heads.head_dim as f32).sqrt();
        let right = Right { values: transposed, columns: width, stride: padded };
        let to = Target { start: p.as_mut_ptr(), stride: width };
        // SAFETY: `p` was resized to `[rows, width]` and belongs to this thread.
        unsafe {
            part(
                self.isa,
                self.left(self.x.q, head, rows),
                right,
                to,
                0..rows.len(),
                0..width / LANES,
                Scaled { by: scale, add: false },
            );
            for (row, p) in rows.clone().zip(p.chunks_exact_mut(width)) {
                let (before, own) = self.tree.seen(row);
                // mask the keys between the prompt and the row's branch, and those after the row
                let own = own.start.max(before)..own.end.max(before);
                p[before..own.start].fill(f32::NEG_INFINITY);
                p[own.end..].fill(f32::NEG_INFINITY);
                softmax_isa(self.isa, p.as_mut_ptr(), width);
            }
        }
    }

    /// Columns of a tile whose rows attend to `keys` own keys: with the shared keys, padded to
    /// whole lanes.
    fn width(&self, keys: usize) -> usize {
        (self.tree.shared + keys).next_multiple_of(LANES)
    }

    /// The group's keys or values in their stored layout, of the shared and of the own rows.
    fn stored<'a>(&self, values: &'a [f32]) -> [Right<'a>; 2] {
        let right = |start: usize| Right {
            values: &values[start..],
            columns: self.heads.head_dim,
            stride: self.narrow(),
        };
        [right(self.kv_head_start()), right(self.kv_start())]
    }

    /// Rows of a head's queries, or of their gradients, as a right operand.
    fn tall<'a>(&self, values: &'a [f32], start: usize) -> Right<'a> {
        Right { values: &values[start..], columns: self.heads.head_dim, stride: self.wide() }
    }

    /// `to (+)= p · values`, where `p` is a tile `[rows, width]` over shared and own keys.
    ///
    /// # Safety
    /// The shapes are as checked by [`check`]; no other task writes these rows and columns.
    unsafe fn weighted_sum(
        &self,
        p: &[f32],
        rows: usize,
        keys: usize,
        [shared, own]: [Right<'_>; 2],
        to: Target,
        scaled: Scaled,
    ) {
        let (width, panels) = (self.width(keys), 0..self.heads.head_dim / LANES);
        let left = |values, inner| Left { values, rows, inner, row_stride: width, inner_stride: 1 };
        // SAFETY: as the caller guarantees.
        unsafe {
            let mut scaled = scaled;
            if self.tree.shared > 0 {
                part(
                    self.isa,
                    left(p, self.tree.shared),
                    shared,
                    to,
                    0..rows,
                    panels.clone(),
                    scaled,
                );
                scaled.add = true;
            }
            part(self.isa, left(&p[self.tree.shared..], keys), own, to, 0..rows, panels, scaled);
        }
    }

    /// `to += by · pᵀ · x`, where `p` is a tile `[rows, width]`: rows of the shared keys are added
    /// to the first target, those of the own keys to the second.
    ///
    /// # Safety
    /// Same requirements as [`weighted_sum`](Self::weighted_sum).
    unsafe fn spread(
        &self,
        p: &[f32],
        rows: usize,
        keys: usize,
        x: Right<'_>,
        [shared, own]: [Target; 2],
        by: f32,
    ) {
        let (width, panels, scaled) =
            (self.width(keys), 0..self.heads.head_dim / LANES, Scaled { by, add: true });
        let turned = |values, keys| Left {
            values,
            rows: keys,
            inner: rows,
            row_stride: 1,
            inner_stride: width,
        };
        // SAFETY: as the caller guarantees.
        unsafe {
            if self.tree.shared > 0 {
                part(
                    self.isa,
                    turned(p, self.tree.shared),
                    x,
                    shared,
                    0..self.tree.shared,
                    panels.clone(),
                    scaled,
                );
            }
            part(self.isa, turned(&p[self.tree.shared..], keys), x, own, 0..keys, panels, scaled);
        }
    }

    unsafe fn forward(&self, out: *mut f32, scratch: &mut Scratch) {
        let padded = self.transpose(self.x.k, &mut scratch.keys);
        let values = self.stored(self.x.v);
        for (rows, keys) in self.tiles() {
            for head in self.group() {
                // SAFETY: as `attend` has checked; no other task writes these rows and columns.
                unsafe {
                    self.probabilities(head, &rows, keys, &scratch.keys, padded, &mut scratch.p);
                    let to = Target {
                        start: out.add(self.q_start(head, rows.start)),
                        stride: self.wide(),
                    };
                    self.weighted_sum(&scratch.p, rows.len(), keys, values, to, Scaled::WRITE);
                }
            }
        }
    }

    unsafe fn backward(
        &self,
        dout: &[f32],
        [dq, dk, dv]: [*mut f32; 3],
        [trunk_dk, trunk_dv]: [*mut f32; 2],
        scratch: &mut Scratch,
    ) {
        let padded = self.transpose(self.x.k, &mut scratch.keys);
        self.transpose(self.x.v, &mut scratch.values);
        let (dim, narrow) = (self.heads.head_dim, self.narrow());
        let scale = 1.0 / (dim as f32).sqrt();
        let keys_stored = self.stored(self.x.k);
        for (rows, keys) in self.tiles() {
            let width = self.width(keys);
            for head in self.group() {
                let start = self.q_start(head, rows.start);
                let (dout_right, q_right) = (self.tall(dout, start), self.tall(self.x.q, start));
                // SAFETY: as `attend_backward` has checked; no other task writes these rows and
                // columns, nor this tree's gradients of the shared rows.
                unsafe {
                    let kv = |shared: *mut f32, own: *mut f32| {
                        let at = |start: *mut f32| Target { start, stride: narrow };
                        [
                            at(shared.wrapping_add(self.kv_head_start())),
                            at(own.add(self.kv_start())),
                        ]
                    };
                    self.probabilities(head, &rows, keys, &scratch.keys, padded, &mut scratch.p);
                    // dv += pᵀ · dout
                    self.spread(&scratch.p, rows.len(), keys, dout_right, kv(trunk_dv, dv), 1.0);
                    // dp = dout · vᵀ, then ds = p (dp - Σ p dp)
                    scratch.dp.resize(rows.len() * width, 0.0);
                    let values = Right { values: &scratch.values, columns: width, stride: padded };
                    let to = Target { start: scratch.dp.as_mut_ptr(), stride: width };
                    part(
                        self.isa,
                        self.left(dout, head, &rows),
                        values,
                        to,
                        0..rows.len(),
                        0..width / LANES,
                        Scaled::WRITE,
                    );
                    for (p, dp) in
                        scratch.p.chunks_exact(width).zip(scratch.dp.chunks_exact_mut(width))
                    {
                        softmax_backward_isa(self.isa, p.as_ptr(), dp.as_mut_ptr(), width);
                    }
                    // dq += ds · k, dk += dsᵀ · q
                    let to = Target {
                        start: dq.add(self.q_start(head, rows.start)),
                        stride: self.wide(),
                    };
                    self.weighted_sum(
                        &scratch.dp,
                        rows.len(),
                        keys,
                        keys_stored,
                        to,
                        Scaled { by: scale, add: true },
                    );
                    self.spread(&scratch.dp, rows.len(), keys, q_right, kv(trunk_dk, dk), scale);
                }
            }
        }
    }
}

for_isa! { unsafe fn softmax_isa(x: *mut f32, width: usize) = softmax_body }

#[inline(always)]
unsafe fn softmax_body<V: Lanes>(x: *mut f32, width: usize) {
    // SAFETY: `x` points to `width` values, a multiple of the lanes.
    unsafe {
        let mut most = V::load(x);
        for at in (LANES..width).step_by(LANES) {
            most = most.max(V::load(x.add(at)));
        }
        let most = V::splat(largest(most));
        let mut total = V::splat(0.0);
        for at in (0..width).step_by(LANES) {
            // masked scores are -∞, for which `exp` returns e^-87: too small to change the sum,
            // whose largest term is 1
            let value = exp(V::load(x.add(at)).sub(most));
            value.store(x.add(at));
            total = total.add(value);
        }
        let (by, nothing, least) = (V::splat(1.0 / sum(total)), V::splat(0.0), V::splat(NOTHING));
        for at in (0..width).step_by(LANES) {
            nothing.max(V::load(x.add(at)).mul(by).sub(least)).store(x.add(at));
        }
    }
}

for_isa! { unsafe fn softmax_backward_isa(p: *const f32, dp: *mut f32, width: usize) = softmax_backward_body }

/// `dp = p (dp - Σ p dp)`.
#[inline(always)]
unsafe fn softmax_backward_body<V: Lanes>(p: *const f32, dp: *mut f32, width: usize) {
    // SAFETY: both point to `width` values, a multiple of the lanes.
    unsafe {
        let mut total = V::splat(0.0);
        for at in (0..width).step_by(LANES) {
            total = V::load(p.add(at)).mul_add(V::load(dp.add(at)), total);
        }
        let total = V::splat(sum(total));
        for at in (0..width).step_by(LANES) {
            V::load(p.add(at)).mul(V::load(dp.add(at)).sub(total)).store(dp.add(at));
        }
    }
}
