//! The output layer at the rows that contribute to the loss: log-probabilities of tokens, and the
//! gradient of their weighted sum.

use super::frozen::Multiplier;
use super::pass::{Batch, Model, Tape};
use crate::kernels::{softmax_scaled, softmax_sums};

/// Number of rows of the output matrix that are dequantised at a time.
const BLOCK: usize = 8192;
/// The number of output columns of a product is padded to a multiple of this SIMD width.
const LANES: usize = 16;
/// Maximum number of rows whose logits are stored for the backward pass; with more rows, the
/// backward pass recomputes them.
const HELD: usize = 256;

/// Logits of some rows, `[blocks][rows, block]`, and the log Σ e^logit of each row.
#[derive(Debug)]
struct Logits {
    blocks: Vec<Vec<f32>>,
    log_sums: Vec<f32>,
}

/// Output of the forward pass that the backward pass of the output layer needs.
#[derive(Debug)]
pub(super) struct Head {
    /// The distinct rows of the batch whose logits are read, in ascending order.
    rows: Vec<usize>,
    normed: Vec<f32>,
    held: Option<Logits>,
    /// log Σ e^logit of each row.
    log_sums: Vec<f32>,
}

impl Model {
    /// The log-probability of every read of the batch, indexed by the read's `place`. `keep` stores
    /// the logits for the backward pass if there are at most [`HELD`] rows.
    pub(super) fn log_probabilities(
        &mut self,
        batch: &Batch,
        x: &[f32],
        keep: bool,
    ) -> (Vec<f32>, Head) {
        let mut rows: Vec<usize> = batch.reads.iter().map(|read| read.row).collect();
        rows.dedup();
        let hidden = self.frozen.config.hidden;
        let normed = self.final_norm(x, &rows);
        let mut log_probs = vec![0.0; batch.reads.len()];
        let mut head = Head { rows, normed, held: None, log_sums: Vec::new() };
        for (chunk, normed) in head.normed.chunks(HELD * hidden).enumerate() {
            let logits = self.logits(normed);
            let first = chunk * HELD;
            for (row, reads) in reads_of(batch, &head.rows, first..first + normed.len() / hidden) {
                for read in reads {
                    log_probs[read.place] =
                        logits.at(row - first, read.token as usize) - logits.log_sums[row - first];
                }
            }
            head.log_sums.extend(&logits.log_sums);
            head.held = (keep && normed.len() == head.normed.len()).then_some(logits);
            (self.pause)();
        }
        (log_probs, head)
    }

    /// The gradient of Σ weight · log-probability over the reads by the residual stream, `[rows,
    /// hidden]`; `weights` is indexed by the reads' `place`.
    pub(super) fn log_probabilities_backward(
        &mut self,
        batch: &Batch,
        tape: &Tape,
        head: Head,
        weights: &[f32],
    ) -> Vec<f32> {
        let hidden = self.frozen.config.hidden;
        let mut dy = vec![0.0; head.normed.len()];
        let mut held = head.held;
        for (chunk, (normed, dy)) in
            head.normed.chunks(HELD * hidden).zip(dy.chunks_mut(HELD * hidden)).enumerate()
        {
            let mut logits = held.take().unwrap_or_else(|| self.logits(normed));
            let (first, count) = (chunk * HELD, normed.len() / hidden);
            let mut totals = vec![0.0; count];
            for (row, reads) in reads_of(batch, &head.rows, first..first + count) {
                totals[row - first] = reads.iter().map(|read| weights[read.place]).sum::<f32>();
            }
            // d = Σ over the row's reads of weight · (one-hot − softmax)
            for (index, block) in logits.blocks.iter_mut().enumerate() {
                let width = block.len() / count;
                let (isa, log_sums, totals) = (self.m.isa, &head.log_sums[first..], &totals);
                self.m.threads.for_rows(block, width, |row, block| {
                    softmax_scaled(isa, block, log_sums[row], -totals[row])
                });
                for (row, reads) in reads_of(batch, &head.rows, first..first + count) {
                    for read in reads.iter().filter(|read| read.token as usize / BLOCK == index) {
                        block[(row - first) * width + read.token as usize % BLOCK] +=
                            weights[read.place];
                    }
                }
            }
            for (index, block) in logits.blocks.iter().enumerate() {
                let width = block.len() / count;
                let Self { frozen, m, .. } = self;
                m.backward(
                    frozen.output(),
                    index * BLOCK..index * BLOCK + width,
                    block,
                    dy,
                    index > 0,
                );
                (self.pause)();
            }
        }
        self.norm_backward(tape, &head.rows, &dy)
    }

    fn logits(&mut self, normed: &[f32]) -> Logits {
        let Self { frozen, m, .. } = self;
        let (output, vocabulary) = (frozen.output(), frozen.config.vocabulary);
        let mut blocks = Vec::with_capacity(vocabulary.div_ceil(BLOCK));
        for start in (0..vocabulary).step_by(BLOCK) {
            let mut block = Vec::new();
            let (last, padded) = (
                (start + BLOCK).min(vocabulary),
                (start + BLOCK).min(vocabulary.next_multiple_of(LANES)),
            );
            m.forward(normed, &mut [(output, start..padded, &mut block)]);
            // padding columns are not tokens
            block
                .chunks_exact_mut(padded - start)
                .for_each(|row| row[last - start..].fill(f32::NEG_INFINITY));
            blocks.push(block);
        }
        let log_sums = log_sums(m, &blocks, normed.len() / frozen.config.hidden);
        Logits { blocks, log_sums }
    }
}

impl Logits {
    fn at(&self, row: usize, token: usize) -> f32 {
        let block = &self.blocks[token / BLOCK];
        let width = block.len() / self.log_sums.len();
        block[row * width + token % BLOCK]
    }
}

/// log Σ e^logit of every row over all blocks of the vocabulary.
fn log_sums(m: &Multiplier, blocks: &[Vec<f32>], rows: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f32; rows];
    m.threads.for_rows(&mut sums, 1, |row, sum| {
        let (mut best, mut total) = (f64::NEG_INFINITY, 0.0_f64);
        for block in blocks {
            let width = block.len() / rows;
            let found = softmax_sums(m.isa, &block[row * width..(row + 1) * width]);
            let (shift, add) = (f64::from(found.best), f64::from(found.total));
            if shift > best {
                total = total * (best - shift).exp() + add;
                best = shift;
            } else {
                total += add * (shift - best).exp();
            }
        }
        sum[0] = (best + total.ln()) as f32;
    });
    sums
}

/// For each index of `rows` in `range`: the index, and the reads of that row.
fn reads_of<'a>(
    batch: &'a Batch,
    rows: &'a [usize],
    range: std::ops::Range<usize>,
) -> impl Iterator<Item = (usize, &'a [super::pass::Read])> + 'a {
    range.map(move |at| {
        let first = batch.reads.partition_point(|read| read.row < rows[at]);
        let last = batch.reads.partition_point(|read| read.row <= rows[at]);
        (at, &batch.reads[first..last])
    })
}
