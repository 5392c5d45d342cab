//! Guards against performance regressions: the time of the vector kernels relative to the portable
//! ones. A ratio does not depend on the machine's speed.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::blocks::samples::blocks;
use super::*;

/// Runs per measurement. The shortest counts, since it is disturbed least by other processes.
const RUNS: usize = 9;

#[test]
fn vector_products_are_several_times_as_fast_as_the_portable_ones() {
    // far below the measured ratios (see BENCHMARKS.md), far above 1
    const AT_LEAST: f64 = 2.5;
    let (rows, columns, tokens) = (512, 512, 8);
    let mut random = StdRng::seed_from_u64(1);
    let x: Vec<f32> = (0..tokens * columns).map(|_| random.random_range(-1.0..1.0)).collect();
    let (threads, available) = (ThreadPool::new(1), Isa::available());
    let mut y = vec![0.0; tokens * rows];
    for kind in BlockKind::ALL {
        let w =
            PackedMatrix::pack(kind, rows, columns, &blocks(&mut random, kind, rows, columns), 1);
        let mut time = |isa: Isa| {
            let mut quants = Activations::default();
            quants.quantise(&threads, isa, &x, columns, Rounding::Once);
            let begun = Instant::now();
            matmul(&threads, isa, &mut [Product { w: &w, y: &mut y }], &quants);
            begun.elapsed()
        };
        let mut best = vec![Duration::MAX; available.len()];
        for _ in 0..RUNS {
            // interleave the instruction sets, so that drifting clock speed affects all equally
            available.iter().zip(&mut best).for_each(|(isa, best)| *best = time(*isa).min(*best));
        }
        let [vectors @ .., portable] = best.as_slice() else { return };
        for (isa, vector) in available.iter().zip(vectors) {
            let ratio = portable.as_secs_f64() / vector.as_secs_f64();
            println!("{kind:?}, {isa:?}: {ratio:.1} times as fast as portable code");
            assert!(
                ratio >= AT_LEAST,
                "{kind:?}, {isa:?}: {ratio:.2} times as fast as portable code, expected at least {AT_LEAST}"
            );
        }
    }
}
