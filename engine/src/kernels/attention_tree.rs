//! Sequences with branches, and the operands of attention over them, for training.

use std::ops::Range;

/// A sequence among the rows of a batch: a prompt and its branches. Every branch attends to the
/// prompt and itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Number of leading rows of the batch that are also the beginning of this sequence: a common
    /// prefix of several prompts is computed once.
    pub shared: usize,
    /// Its first own row.
    pub start: usize,
    /// Rows of the prompt, without what is shared.
    pub prompt: usize,
    /// Rows of each branch, which follow the prompt's one after the other.
    pub branches: Vec<usize>,
}

impl Tree {
    pub fn rows(&self) -> usize {
        self.prompt + self.branches.iter().sum::<usize>()
    }

    /// Which keys a row of its own sees, counted from the first that is shared: those before the
    /// first, and those of the second range.
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

/// Heads of the model.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    /// A multiple of 16.
    pub head_dim: usize,
}

/// Rotated queries `[rows, heads · head_dim]`, rotated keys and values `[rows, kv_heads ·
/// head_dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}
