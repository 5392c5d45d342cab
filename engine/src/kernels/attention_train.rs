//! Attention over whole sequences with its backward, for training. Probabilities are not kept: the backward computes them again, a tile of
//! rows at a time (as FlashAttention does, Dao et al. 2022).

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::gemm::{Left, Right, Scaled, Target, part};
use super::lanes::{LANES, Lanes, exp, for_isa, largest, sum};
use super::{Isa, Team};

/// Rows of a tile.
const TILE: usize = 64;

/// A sequence among the rows of a batch: a prompt, and what may follow it. Every branch sees the prompt and itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The first row.
    pub start: usize,
    pub prompt: usize,
    /// Rows of each branch, which follow the prompt's one after the other.
    pub branches: Vec<usize>,
}

impl Tree {
    pub fn rows(&self) -> usize {
        self.prompt + self.branches.iter().sum::<usize>()
    }

    /// Which keys a row sees, both counted within the tree: of the prompt those before the first, and those of the second range.
    fn seen(&self, row: usize) -> (usize, Range<usize>) {
        if row < self.prompt {
            return (row + 1, 0..0);
        }
        let mut first = self.prompt;
        for length in &self.branches {
            if row < first + length {
                return (self.prompt, first..row + 1);
            }
            first += length;
        }
        (self.prompt, first..first)
    }

    /// Position of each row, as in a text of its own.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.prompt).chain(self.branches.iter().flat_map(|length| self.prompt..self.prompt + length))
    }
}

/// Heads of the model.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    /// A multiple of 16.
    pub head_dim: usize,
}

/// Rotated queries `[rows, heads · head_dim]`, rotated keys and values `[rows, kv_heads · head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

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

fn tasks(team: &Team, trees: &[Tree], heads: Heads, work: impl Fn(&Tree, usize, &mut Scratch) + Sync) {
    let next = AtomicUsize::new(0);
    let all = trees.len() * heads.kv_heads;
    team.run(|_, _| {
        let mut scratch = Scratch { keys: Vec::new(), values: Vec::new(), p: Vec::new(), dp: Vec::new() };
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            let Some(tree) = trees.get(task / heads.kv_heads).filter(|_| task < all) else { return };
            work(tree, task % heads.kv_heads, &mut scratch);
        }
    });
}

fn check(trees: &[Tree], heads: Heads, x: &Attended<'_>, queries: usize) {
    let rows = trees.iter().map(|tree| tree.start + tree.rows()).max().unwrap_or(0);
    let (wide, narrow) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
    assert!(heads.head_dim.is_multiple_of(LANES) && heads.heads.is_multiple_of(heads.kv_heads), "heads of whole lanes, in whole groups");
    assert!(
        x.q.len() >= rows * wide && x.k.len() >= rows * narrow && x.v.len() >= rows * narrow && queries >= rows * wide,
        "a row a token"
    );
}

/// `out[rows, heads · head_dim] = softmax(q · kᵀ / √head_dim) · v`.
///
/// # Panics
/// When the shapes do not fit.
pub fn attend(team: &Team, isa: Isa, trees: &[Tree], heads: Heads, x: Attended<'_>, out: &mut [f32]) {
    check(trees, heads, &x, out.len());
    let out = Shared(out.as_mut_ptr());
    tasks(team, trees, heads, |tree, kv_head, scratch| {
        let out = &out;
        // SAFETY: `check` has checked the shapes, and each task has a tree's rows and a group's columns of its own.
        unsafe { Task { isa, heads, tree, kv_head, x }.forward(out.0, scratch) }
    });
}

/// Adds the gradients of queries, keys and values (shaped as they are) to `dq`, `dk` and `dv`, given that of what [`attend`] gave.
///
/// # Panics
/// When the shapes do not fit.
#[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
pub fn attend_backward(
    team: &Team,
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
    assert!(dq.len() >= x.q.len() && dk.len() >= x.k.len() && dv.len() >= x.v.len(), "a gradient a value");
    let [dq, dk, dv] = [Shared(dq.as_mut_ptr()), Shared(dk.as_mut_ptr()), Shared(dv.as_mut_ptr())];
    tasks(team, trees, heads, |tree, kv_head, scratch| {
        let (dq, dk, dv) = (&dq, &dk, &dv);
        // SAFETY: as in `attend`.
        unsafe { Task { isa, heads, tree, kv_head, x }.backward(dout, [dq.0, dk.0, dv.0], scratch) }
    });
}

impl Task<'_> {
    fn wide(&self) -> usize {
        self.heads.heads * self.heads.head_dim
    }

    fn narrow(&self) -> usize {
        self.heads.kv_heads * self.heads.head_dim
    }

    /// Where the group's keys and values of the tree begin.
    fn kv_start(&self) -> usize {
        self.tree.start * self.narrow() + self.kv_head * self.heads.head_dim
    }

    /// Where a head's row begins.
    fn q_start(&self, head: usize, row: usize) -> usize {
        (self.tree.start + row) * self.wide() + head * self.heads.head_dim
    }

    fn group(&self) -> Range<usize> {
        let size = self.heads.heads / self.heads.kv_heads;
        self.kv_head * size..(self.kv_head + 1) * size
    }

    /// Keys or values of the group, `[head_dim, padded rows]`.
    fn transpose(&self, values: &[f32], into: &mut Vec<f32>) -> usize {
        let (rows, dim) = (self.tree.rows(), self.heads.head_dim);
        let padded = rows.next_multiple_of(LANES);
        into.clear();
        into.resize(dim * padded, 0.0);
        for row in 0..rows {
            let from = &values[self.kv_start() + row * self.narrow()..][..dim];
            for (d, value) in from.iter().enumerate() {
                into[d * padded + row] = *value;
            }
        }
        padded
    }

    /// Tiles of rows with the keys that any of their rows may see.
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

    /// The probabilities of a tile, `[rows, keys padded]`.
    ///
    /// # Safety
    /// As [`attend`] has checked.
    unsafe fn probabilities(&self, head: usize, rows: &Range<usize>, keys: usize, transposed: &[f32], padded: usize, p: &mut Vec<f32>) {
        let width = keys.next_multiple_of(LANES);
        p.resize(rows.len() * width, 0.0);
        let scale = 1.0 / (self.heads.head_dim as f32).sqrt();
        let right = Right { values: transposed, columns: width, stride: padded };
        let to = Target { start: p.as_mut_ptr(), stride: width };
        // SAFETY: `p` was made as large, and is this thread's own.
        unsafe {
            part(self.isa, self.left(self.x.q, head, rows), right, to, 0..rows.len(), 0..width / LANES, Scaled { by: scale, add: false });
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

    unsafe fn forward(&self, out: *mut f32, scratch: &mut Scratch) {
        let padded = self.transpose(self.x.k, &mut scratch.keys);
        let values = Right { values: &self.x.v[self.kv_start()..], columns: self.heads.head_dim, stride: self.narrow() };
        for (rows, keys) in self.tiles() {
            for head in self.group() {
                // SAFETY: as `attend` has checked; these rows and columns are this task's.
                unsafe {
                    self.probabilities(head, &rows, keys, &scratch.keys, padded, &mut scratch.p);
                    let width = keys.next_multiple_of(LANES);
                    let p = Left { values: &scratch.p, rows: rows.len(), inner: keys, row_stride: width, inner_stride: 1 };
                    let to = Target { start: out.add(self.q_start(head, rows.start)), stride: self.wide() };
                    part(self.isa, p, values, to, 0..rows.len(), 0..self.heads.head_dim / LANES, Scaled::WRITE);
                }
            }
        }
    }

    unsafe fn backward(&self, dout: &[f32], [dq, dk, dv]: [*mut f32; 3], scratch: &mut Scratch) {
        let padded = self.transpose(self.x.k, &mut scratch.keys);
        self.transpose(self.x.v, &mut scratch.values);
        let dim = self.heads.head_dim;
        let scale = 1.0 / (dim as f32).sqrt();
        let keys_right = Right { values: &self.x.k[self.kv_start()..], columns: dim, stride: self.narrow() };
        for (rows, keys) in self.tiles() {
            let width = keys.next_multiple_of(LANES);
            for head in self.group() {
                // SAFETY: as `attend_backward` has checked; these rows and columns are this task's.
                unsafe {
                    self.probabilities(head, &rows, keys, &scratch.keys, padded, &mut scratch.p);
                    // dv += pᵀ · dout
                    let dout_right = Right { values: &dout[self.q_start(head, rows.start)..], columns: dim, stride: self.wide() };
                    let kv = Target { start: dv.add(self.kv_start()), stride: self.narrow() };
                    part(self.isa, turned(&scratch.p, &rows, keys, width), dout_right, kv, 0..keys, 0..dim / LANES, Scaled::ADD);
                    // dp = dout · vᵀ, then ds = p (dp - Σ p dp)
                    scratch.dp.resize(rows.len() * width, 0.0);
                    let values = Right { values: &scratch.values, columns: width, stride: padded };
                    let to = Target { start: scratch.dp.as_mut_ptr(), stride: width };
                    part(self.isa, self.left(dout, head, &rows), values, to, 0..rows.len(), 0..width / LANES, Scaled::WRITE);
                    for (p, dp) in scratch.p.chunks_exact(width).zip(scratch.dp.chunks_exact_mut(width)) {
                        softmax_backward_isa(self.isa, p.as_ptr(), dp.as_mut_ptr(), width);
                    }
                    // dq = ds · k, dk += dsᵀ · q
                    let ds = Left { values: &scratch.dp, rows: rows.len(), inner: keys, row_stride: width, inner_stride: 1 };
                    let to = Target { start: dq.add(self.q_start(head, rows.start)), stride: self.wide() };
                    part(self.isa, ds, keys_right, to, 0..rows.len(), 0..dim / LANES, Scaled { by: scale, add: true });
                    let q_right = Right { values: &self.x.q[self.q_start(head, rows.start)..], columns: dim, stride: self.wide() };
                    let to = Target { start: dk.add(self.kv_start()), stride: self.narrow() };
                    part(
                        self.isa,
                        turned(&scratch.dp, &rows, keys, width),
                        q_right,
                        to,
                        0..keys,
                        0..dim / LANES,
                        Scaled { by: scale, add: true },
                    );
                }
            }
        }
    }
}

/// A tile `[rows, width]` as its transposed, without the padding.
fn turned<'a>(values: &'a [f32], rows: &Range<usize>, keys: usize, width: usize) -> Left<'a> {
    Left { values, rows: keys, inner: rows.len(), row_stride: 1, inner_stride: width }
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
        let by = V::splat(1.0 / sum(total));
        for at in (0..width).step_by(LANES) {
            V::load(x.add(at)).mul(by).store(x.add(at));
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
