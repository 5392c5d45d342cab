//! Low-rank products of many adapters at once (LoRA, Hu et al. 2021; grouped as in Punica, Chen et al. 2023): each run of rows has its own.

use super::{DenseMatrix, Isa, Output, Team, dense};

/// The low-rank pair beside one base weight, for one run of rows.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// `[rank, in]`
    pub a: &'a DenseMatrix,
    /// `[out, rank]`
    pub b: &'a DenseMatrix,
    pub scale: f32,
    /// The run's rows among those of the batch.
    pub row: usize,
    pub rows: usize,
    /// Which of the outputs it is added to.
    pub output: usize,
}

/// Rows of a run that one thread takes at a time.
const ROWS: usize = 16;

/// `outputs[o][rows] += scale · (x · aᵀ) · bᵀ` for each item. `x` is `[batch, in]`; `low` is kept for the next call.
///
/// # Panics
/// When shapes do not fit.
pub fn low_rank(team: &Team, isa: Isa, items: &[LowRank<'_>], x: &[f32], low: &mut Vec<f32>, outputs: &mut [&mut [f32]]) {
    if items.is_empty() {
        return;
    }
    let size: usize = items.iter().map(|item| item.rows * item.a.rows()).sum();
    low.clear();
    low.resize(size, 0.0);
    for item in items {
        let (end, columns) = (item.row + item.rows, item.a.columns());
        assert!(end * columns <= x.len() && end * item.b.rows() <= outputs[item.output].len(), "rows of the batch");
        assert_eq!(item.a.rows(), item.b.columns(), "the rank");
    }
    let lows = Output { start: low.as_mut_ptr(), rows: 0 };
    team.run(|thread, threads| {
        let lows = &lows;
        let (mut unit, mut start) = (0, 0);
        for item in items {
            let rank = item.a.rows();
            for first in (0..item.rows).step_by(ROWS) {
                unit += 1;
                if unit % threads != thread {
                    continue;
                }
                let rows = (item.rows - first).min(ROWS);
                let columns = item.a.columns();
                let x = &x[(item.row + first) * columns..(item.row + first + rows) * columns];
                // SAFETY: each unit has its own part of `low`, which holds all of them.
                unsafe {
                    let output = Output { start: lows.start.add(start + first * rank), rows: rank };
                    dense::multiply(isa, item.a, x, 0..item.a.panels(), false, output);
                    let values = std::slice::from_raw_parts_mut(output.start, rows * rank);
                    values.iter_mut().for_each(|value| *value *= item.scale);
                }
            }
            start += item.rows * rank;
        }
    });
    let targets: Vec<Output> = outputs.iter_mut().map(|output| Output { start: output.as_mut_ptr(), rows: 0 }).collect();
    let low = &*low;
    team.run(|thread, threads| {
        let mut start = 0;
        for item in items {
            let (rank, out) = (item.a.rows(), item.b.rows());
            let panels = item.b.panels();
            let range = panels * thread / threads..panels * (thread + 1) / threads;
            // SAFETY: threads take different panels, runs different rows; sizes were checked above.
            unsafe {
                let output = Output { start: targets[item.output].start.add(item.row * out), rows: out };
                dense::multiply(isa, item.b, &low[start..start + item.rows * rank], range, true, output);
            }
            start += item.rows * rank;
        }
    });
}
