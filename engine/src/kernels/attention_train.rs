//! Attention over whole sequences with its backward pass, for training. Probabilities are not
//! stored: the backward pass recomputes them, a tile of rows at a time (as FlashAttention does, Dao
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
/// Probabilities up to this are 0: masked ones would be subnormal numbers otherwise, which some
/// processors multiply a hundred times slower.
const NOTHING: f32 = 1e-20;

/// A buffer whose columns of different heads, and rows of different trees, different threads write.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: tasks write different heads' columns or different trees' rows.
unsafe impl Sync for Shared {}

/// Buffers of one thread.
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    p: Vec<f32>,
    dp: Vec<f32>,
}

/// One tree's group of heads.
struct Task<'a> {
    isa: Isa,
    heads: Heads,
    tree: &'a Tree,
    kv_head: usize,
    x: Attended<'a>,
}

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
    assert!(trees.iter().all(|tree| tree.shared <= tree.start), "what is shared stands before");
    let (wide, narrow) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
    assert!(
        heads.head_dim.is_multiple_of(LANES) && heads.heads.is_multiple_of(heads.kv_heads),
        "heads of whole lanes, in whole groups"
    );
    assert!(
        x.q.len() >= rows * wide
            && x.k.len() >= rows * narrow
            && x.v.len() >= rows * narrow
            && queries >= rows * wide,
        "a row a token"
    );
}

/// `out[rows, heads · head_dim] = softmax(q · kᵀ / √head_dim) · v`.
///
/// # Panics
/// When the shapes do not fit.
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
        // SAFETY: `check` has checked the shapes, and each task has a tree's rows and a group's
        // columns of its own.
        unsafe { Task { isa, heads, tree: &trees[tree], kv_head, x }.forward(out.0, scratch) }
    });
}

/// Adds the gradients of queries, keys and values (shaped as they are) to `dq`, `dk` and `dv`,
/// given that of what [`attend`] gave.
///
/// # Panics
/// When the shapes do not fit.
#[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
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
        "a gradient a value"
    );
    let (shared, narrow) =
        (trees.iter().map(|tree| tree.shared).max().unwrap_or(0), heads.kv_heads * heads.head_dim);
    let room = trees.len() * shared * narrow;
    // the gradients of what is shared, `[trees, shared, kv_heads · head_dim]`, until they are added
    // up in the trees' order
    let [mut shared_dk, mut shared_dv] = [(); 2].map(|()| vec![0.0_f32; room]);
    {
        let [dq, dk, dv] =
            [Shared(dq.as_mut_ptr()), Shared(dk.as_mut_ptr()), Shared(dv.as_mut_ptr())];
        let [trunk_dk, trunk_dv] = [Shared(shared_dk.as_mut_ptr()), Shared(shared_dv.as_mut_ptr())];
        tasks(threads, trees, heads, |tree, kv_head, scratch| {
            let (dq, dk, dv, trunk_dk, trunk_dv) = (&dq, &dk, &dv, &trunk_dk, &trunk_dv);
            let at = tree * shared * narrow;
            // SAFETY: as in `attend`; of what is shared, each tree has a place of its own.
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

    /// Where the group's keys and values of the tree's own rows begin.
    fn kv_start(&self) -> usize {
        self.tree.start * self.narrow() + self.kv_head_start()
    }

    /// Where those of the shared rows begin.
    fn kv_head_start(&self) -> usize {
        self.kv_head * self.heads.head_dim
    }

    /// Where a head's row begins.
    fn q_start(&self, head: usize, row: usize) -> usize {
        (self.tree.start + row) * self.wide() + head * self.heads.head_dim
    }

    fn group(&self) -> Range<usize> {
        let size = self.heads.heads / self.heads.kv_heads;
        self.kv_head * size..(self.kv_head + 1) * size
    }

    /// Keys or values of the group, shared ones first, `[head_dim, padded rows]`.
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

    /// Tiles of own rows with the own keys that any of their rows may see.
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

    /// The probabilities of a tile, `[rows, shared + keys padded]`.
    ///
    /// # Safety
    /// As [`attend`] has checked.
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
        // SAFETY: `p` was made as large, and is this thread's own.
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
                // between the prompt and its own branch, and behind itself
                let own = own.start.max(before)..own.end.max(before);
                p[before..own.start].fill(f32::NEG_INFINITY);
                p[own.end..].fill(f32::NEG_INFINITY);
                softmax_isa(self.isa, p.as_mut_ptr(), width);
            }
        }
    }

    /// Columns of a tile whose rows see so many own keys.
    fn width(&self, keys: usize) -> usize {
        (self.tree.shared + keys).next_multiple_of(LANES)
    }

    /// The group's keys or values as they stand, of shared and of own rows.
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

    /// `to (+)= p · values`, of a tile `[rows, width]` of shared and own keys.
    ///
    /// # Safety
    /// As [`attend`] has checked; the rows and columns are this task's.
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
        // SAFETY: as the caller promises.
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

    /// `to += pᵀ · x`, of a tile `[rows, width]`: rows of the shared keys go to the first target,
    /// those of its own keys to the second.
    ///
    /// # Safety
    /// As [`weighted_sum`](Self::weighted_sum).
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
        // SAFETY: as the caller promises.
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
                // SAFETY: as `attend` has checked; these rows and columns are this task's.
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
                // SAFETY: as `attend_backward` has checked; these rows and columns, and these
                // places in the trunk, are this task's.
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
    // SAFETY: `x` holds `width` values, whole lanes.
    unsafe {
        let mut most = V::load(x);
        for at in (LANES..width).step_by(LANES) {
            most = most.max(V::load(x.add(at)));
        }
        let most = V::splat(largest(most));
        let mut total = V::splat(0.0);
        for at in (0..width).step_by(LANES) {
            // what is hidden is -∞, which `exp` takes for e^-87: 0 in the sum of what is at most 1
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
    // SAFETY: both hold `width` values, whole lanes.
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
