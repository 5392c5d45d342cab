//! The same without vector instructions: for other processors, and as what the others are tested against.

use std::ops::Range;

use super::{Activations, BLOCK, Output, PANEL, PackedMatrix};

/// # Safety
/// As [`super::multiply`].
pub(super) unsafe fn multiply(w: &PackedMatrix, x: &Activations, panels: Range<usize>, output: Output) {
    let (kind, blocks) = (w.kind(), w.blocks());
    for index in panels {
        let panel = w.panel(index);
        for token in 0..x.tokens() {
            for lane in 0..w.rows_of(index) {
                let (mut total, mut sum) = (0.0_f32, 0.0_f32);
                for block in 0..blocks {
                    let place = token * blocks + block;
                    let quants = &x.quants[place * BLOCK..(place + 1) * BLOCK];
                    let dot = |columns: Range<usize>, sum: i32| {
                        let pairs = columns.clone().zip(&quants[columns]);
                        let start = if kind.has_min() { 0 } else { -kind.offset() * sum };
                        pairs.fold(start, |dot, (column, quant)| dot + panel.quant(kind, block, lane, column) * i32::from(*quant)) as f32
                    };
                    let scales = panel.scales(kind, block, lane).map(|scale| scale * x.scales[place]);
                    if kind.halves() {
                        sum = dot(0..BLOCK / 2, x.first[place]).mul_add(scales[0], sum);
                        sum = dot(BLOCK / 2..BLOCK, x.sums[place] - x.first[place]).mul_add(scales[1], sum);
                    } else {
                        sum = dot(0..BLOCK, x.sums[place]).mul_add(scales[0], sum);
                    }
                    if kind.has_min() {
                        sum = panel.min(kind, block, lane).mul_add(x.weighted[place], sum);
                    }
                    if (block + 1).is_multiple_of(w.chunk) {
                        if output.apart > 0 {
                            // SAFETY: as below, for every chunk.
                            unsafe { *output.of_chunk(block / w.chunk).start.add(token * output.rows + index * PANEL + lane) = sum };
                        }
                        total += sum;
                        sum = 0.0;
                    }
                }
                if output.apart == 0 {
                    // SAFETY: the caller gave room for every row of every token.
                    unsafe { *output.start.add(token * output.rows + index * PANEL + lane) = total };
                }
            }
        }
    }
}
