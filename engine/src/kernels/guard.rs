//! That the vector paths are worth having: their time against the portable path's, as a ratio, so that no machine is too slow to pass.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Shortest of some runs, which others on the machine disturb least.
const RUNS: usize = 15;

#[test]
fn vector_products_are_several_times_as_fast_as_the_portable_ones() {
    // far below what was measured (see BENCHMARKS.md), far above 1
    const AT_LEAST: f64 = 2.5;
    let (rows, columns, tokens) = (768, 576, 8);
    let mut random = StdRng::seed_from_u64(1);
    let mut blocks = vec![0; rows * columns / BLOCK * BlockKind::Q4_1.file_bytes()];
    random.fill(blocks.as_mut_slice());
    // scales and minima that are finite
    blocks.chunks_exact_mut(BlockKind::Q4_1.file_bytes()).for_each(|block| (block[1], block[3]) = (0x2c, 0x2c));
    let w = PackedMatrix::pack(BlockKind::Q4_1, rows, columns, &blocks, 1);
    let x: Vec<f32> = (0..tokens * columns).map(|_| random.random_range(-1.0..1.0)).collect();
    let team = Team::new(1);
    let mut y = vec![0.0; tokens * rows];
    let mut time = |isa: Isa| {
        let mut quants = Activations::default();
        quants.quantise(&team, isa, &x, columns, Rounding::Once);
        let begun = Instant::now();
        matmul(&team, isa, &mut [Product { w: &w, y: &mut y }], &quants);
        begun.elapsed()
    };
    let available = Isa::available();
    let mut best = vec![Duration::MAX; available.len()];
    for _ in 0..RUNS {
        // one after the other, so that a machine whose speed drifts hits all alike
        available.iter().zip(&mut best).for_each(|(isa, best)| *best = time(*isa).min(*best));
    }
    let [vectors @ .., portable] = best.as_slice() else { return };
    for (isa, vector) in available.iter().zip(vectors) {
        let ratio = portable.as_secs_f64() / vector.as_secs_f64();
        println!("{isa:?}: {ratio:.1} times as fast as portable code");
        assert!(ratio >= AT_LEAST, "{isa:?} is {ratio:.2} times as fast as portable code, expected at least {AT_LEAST}");
    }
}
