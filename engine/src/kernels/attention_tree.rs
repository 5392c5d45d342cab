//! Branching sequences and the operands of attention over them, for training.

use std::ops::Range;

/// A sequence in the rows of a batch: a prompt and its branches. Each branch attends to the prompt
/// and to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Number of leading rows of the batch that are also the beginning of this sequence, so that
    /// the common prefix of several prompts is computed once.
    pub shared: usize,
    /// Row of the batch at which the tree's own rows begin.
    pub start: usize,
    /// Rows of the prompt without the shared ones.
    pub prompt: usize,
    /// Rows of each branch; branches follow the prompt in order.
    pub branches: Vec<usize>,
}

impl Tree {
    /// Number of the tree's own rows: prompt and branches.
    pub fn rows(&self) -> usize {
        self.prompt + self.branches.iter().sum::<usize>()
    }

    /// The keys that the own row `row` attends to, counted from the first shared row: `(n, range)`
    /// means keys `0..n` and those of `range`.
    pub(super) fn seen(&self, row: usize) -> (usize, Range<usize>) {
        let (row, prompt) = (self.shared + row, self.shared + self.prompt);
        if row < prompt {
            return (row + 1, 0..0);
        }
        let mut first = prompt;
        for length in &self.branches {
            if row < first + length {
                return (prompt, first..row + 1);
            }
            first += length;
        }
        (prompt, first..first)
    }

    /// Position of each own row within the sequence.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let end = self.shared + self.prompt;
        (self.shared..end).chain(self.branches.iter().flat_map(move |length| end..end + length))
    }
}

/// Attention heads of the model.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Columns of a head; a multiple of 16.
    pub head_dim: usize,
}

/// Operands of attention. Queries and keys are rotated (RoPE).
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    /// Queries, `[rows, heads · head_dim]`.
    pub q: &'a [f32],
    /// Keys, `[rows, kv_heads · head_dim]`.
    pub k: &'a [f32],
    /// Values, `[rows, kv_heads · head_dim]`.
    pub v: &'a [f32],
}
