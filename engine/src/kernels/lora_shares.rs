//! Work distribution of the low-rank products over threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::isa::BLOCK;
use super::lora_matrix::LoraMatrix;
use super::low_rank::LowRank;
use super::products::{PRODUCTS, Phase};
use crate::backoff::Backoff;

/// Dynamic scheduling: work is split into as many turns as there are threads, and each free thread
/// takes the next one, so that a thread without a core does not delay the others.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: AtomicUsize,
    done: AtomicUsize,
}

/// A turn that a thread has taken. Dropping it, also by a panic, marks it done.
pub(super) struct Turn<'a> {
    pub(super) number: usize,
    turns: &'a Turns,
}

impl Turns {
    /// Takes the next of `shares` turns; `None` if all have been taken.
    pub(super) fn take(&self, shares: usize) -> Option<Turn<'_>> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        // lazily: a dropped `Turn` counts as done
        (number < shares).then(|| Turn { number, turns: self })
    }

    /// Waits until all turns are done. To be called after [`take`](Self::take) has returned `None`:
    /// every turn is then done or running on another thread.
    pub(super) fn wait(&self, shares: usize) {
        let mut backoff = Backoff::default();
        while self.done.load(Ordering::Acquire) < shares {
            backoff.spin_or_yield();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.done.fetch_add(1, Ordering::Release);
    }
}

/// Estimated cost of a panel of each product, including its low-rank products, in cycles: the
/// larger of the time to read the weights and the time to multiply. Used to divide panels evenly.
pub(super) struct Costs {
    /// Cycles per panel of each product.
    pub(super) each: [f64; PRODUCTS],
    /// Cycles of all panels.
    pub(super) all: f64,
}

/// Bytes of weights that a core reads per cycle.
const BYTES: f64 = 6.0;
/// Cycles to multiply a block of sixteen rows with one token.
const BLOCK_CYCLES: f64 = 12.0;

/// Estimated cycles to multiply some panels of a matrix with `rows` rows of activations.
pub(super) fn cost(w: &LoraMatrix, panels: usize, rows: usize) -> f64 {
    let a_column = if w.is_rounded() { BLOCK_CYCLES / BLOCK as f64 } else { 1.0 };
    ((panels * w.panel_bytes()) as f64 / BYTES).max((panels * w.columns() * rows) as f64 * a_column)
}

/// A share's range of a cost axis of length `all`; the last one is unbounded above.
pub(super) fn window(all: f64, share: usize, shares: usize) -> Range<f64> {
    let edge = |share: usize| {
        if share == shares { f64::INFINITY } else { all * share as f64 / shares as f64 }
    };
    edge(share)..edge(share + 1)
}

impl Costs {
    pub(super) fn new(phase: &Phase<'_>, items: &[LowRank<'_>]) -> Self {
        let (mut each, mut all) = ([0.0; PRODUCTS], 0.0);
        for (index, (each, (w, _))) in each.iter_mut().zip(phase.parts()).enumerate() {
            *each = (w.panel_bytes() as f64 / BYTES)
                .max((w.blocks() * phase.x.tokens()) as f64 * BLOCK_CYCLES);
            *each += items
                .iter()
                .filter(|item| item.output == index)
                .map(|item| cost(item.b, 1, item.rows))
                .sum::<f64>();
            all += *each * w.panels() as f64;
        }
        Self { each, all }
    }

    pub(super) fn window(&self, share: usize, shares: usize) -> Range<f64> {
        window(self.all, share, shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_done_when_all_were_taken_and_let_go() {
        let turns = Turns::default();
        let (first, second) = (turns.take(2).unwrap(), turns.take(2).unwrap());
        assert!(turns.take(2).is_none() && turns.take(2).is_none());
        assert_eq!((first.number, second.number, turns.done.load(Ordering::Acquire)), (0, 1, 0));
        drop((first, second));
        assert_eq!(turns.done.load(Ordering::Acquire), 2);
        turns.wait(2);
    }
}
