//! Compares every instruction set that this machine supports with the portable path, bit for bit,
//! and the portable path with reference sums in f64.

use half::f16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::blocks::samples::{blocks, plain};
use super::*;

/// A generator with a random seed, which is printed; `NYX_TEST_SEED` sets it to repeat a failed
/// run.
pub(super) fn random() -> StdRng {
    let seed = std::env::var("NYX_TEST_SEED")
        .ok()
        .map_or_else(rand::random, |seed| seed.parse().expect("a whole number"));
    println!("NYX_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

pub(super) fn floats(random: &mut StdRng, count: usize, most: f32) -> Vec<f32> {
    (0..count).map(|_| random.random_range(-most..most)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn close(found: f32, expected: f64, allowed: f64) {
    assert!(
        (f64::from(found) - expected).abs() <= allowed,
        "{found} for {expected}, allowed {allowed}"
    );
}

#[test]
fn repacked_weights_are_the_files_own() {
    let mut random = random();
    for kind in BlockKind::ALL {
        let (rows, columns) = (37, 3 * kind.file_columns());
        let file = blocks(&mut random, kind, rows, columns);
        let packed = PackedMatrix::pack(kind, rows, columns, &file, 1);
        let mut row = vec![0.0; columns];
        for (index, expected) in plain(kind, &file).chunks_exact(columns).enumerate() {
            packed.dequantise_row(index, &mut row);
            assert_eq!(row, expected, "{kind:?} row {index}");
        }
    }
}

#[test]
fn quantised_products_have_the_same_bits_on_every_path_batched_or_alone() {
    let mut random = random();
    for round in 0..96 {
        let kind = BlockKind::ALL[round % BlockKind::ALL.len()];
        let (rows, chunks, tokens) =
            (random.random_range(1..70), random.random_range(1..4), random.random_range(1..20));
        let columns = kind.file_columns()
            * chunks
            * random.random_range(1..if kind.two_levels() { 3 } else { 6 });
        // chunks may end within a super-block
        let chunks =
            if kind.two_levels() { chunks * [1, 2, 4][random.random_range(0..3)] } else { chunks };
        let file = blocks(&mut random, kind, rows, columns);
        let w = PackedMatrix::pack(kind, rows, columns, &file, chunks);
        let x = floats(&mut random, tokens * columns, 3.0);
        let threads = ThreadPool::new(random.random_range(1..4));
        let product = |isa: Isa, x: &[f32]| {
            let mut quants = Activations::default();
            quants.quantise(&threads, isa, x, columns, Rounding::Once);
            let mut y = vec![f32::NAN; x.len() / columns * rows];
            matmul(&threads, isa, &mut [Product { w: &w, y: &mut y }], &quants);
            y
        };
        let expected = product(Isa::Portable, &x);
        for isa in Isa::available() {
            assert_eq!(
                bits(&product(isa, &x)),
                bits(&expected),
                "{isa:?} {kind:?} {rows} x {columns}, {tokens} tokens"
            );
            let token = random.random_range(0..tokens);
            let alone = product(isa, &x[token * columns..(token + 1) * columns]);
            assert_eq!(bits(&alone), bits(&expected[token * rows..(token + 1) * rows]));
        }
        let weights = plain(kind, &file);
        for (y, x) in expected.chunks_exact(rows).zip(x.chunks_exact(columns)) {
            for (y, w) in y.iter().zip(weights.chunks_exact(columns)) {
                let dot: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                // the error of an activation is at most half a step
                let error: f64 =
                    w.iter().map(|w| f64::from(w.abs())).sum::<f64>() * 3.0 / 127.0 / 2.0;
                close(*y, dot, error + 1e-4);
            }
        }
    }
}

#[test]
fn twice_rounded_products_are_nearly_exact_and_have_the_same_bits_on_every_path() {
    let mut random = random();
    for kind in BlockKind::ALL {
        let (rows, tokens) = (random.random_range(1..70), random.random_range(1..12));
        let columns =
            kind.file_columns() * random.random_range(1..if kind.two_levels() { 3 } else { 6 });
        let file = blocks(&mut random, kind, rows, columns);
        let w = PackedMatrix::pack(kind, rows, columns, &file, 1);
        let mut x = floats(&mut random, tokens * columns, 1.0);
        // an outlier
        x[5] = 60.0;
        let product = |isa: Isa, x: &[f32]| {
            let mut quants = Activations::default();
            quants.quantise(&ThreadPool::new(2), isa, x, columns, Rounding::Twice);
            assert!(quants.quants.iter().all(|quant| (-127..=127).contains(quant)));
            let mut y = vec![f32::NAN; 2 * x.len() / columns * rows];
            matmul_low_rank(
                &ThreadPool::new(2),
                isa,
                &mut [Product { w: &w, y: &mut y }],
                &quants,
                &[],
                x,
                &mut LoraActivations::default(),
            );
            y.truncate(y.len() / 2);
            y
        };
        let expected = product(Isa::Portable, &x);
        for isa in Isa::available() {
            assert_eq!(bits(&product(isa, &x)), bits(&expected), "{isa:?} {kind:?}");
            assert_eq!(bits(&product(isa, &x[..columns])), bits(&expected[..rows]));
        }
        let weights = plain(kind, &file);
        for (y, x) in expected.chunks_exact(rows).zip(x.chunks_exact(columns)) {
            for (y, w) in y.iter().zip(weights.chunks_exact(columns)) {
                let dot: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let error: f64 =
                    w.iter().map(|w| f64::from(w.abs())).sum::<f64>() * 60.0 / 127.0 / 254.0 / 2.0;
                close(*y, dot, error + 1e-4 * (1.0 + dot.abs()));
            }
        }
    }
    for value in [f32::NAN, f32::INFINITY] {
        let mut quants = Activations::default();
        quants.quantise(
            &ThreadPool::new(1),
            Isa::detect(),
            &[value; BLOCK],
            BLOCK,
            Rounding::Twice,
        );
        assert!(quants.scales.iter().all(|scale| scale.is_nan()));
    }
}

#[test]
fn what_is_not_finite_or_hardly_there_is_the_same_on_every_path() {
    for (value, scale) in [
        (f32::NAN, f32::NAN),
        (f32::INFINITY, f32::NAN),
        (f32::NEG_INFINITY, f32::NAN),
        (1e-38, 0.0),
        (0.0, 0.0),
    ] {
        for place in [0, 9, 31] {
            let mut x = vec![if scale.is_nan() { 2.0 } else { 0.0 }; 2 * BLOCK];
            x[place] = value;
            x[BLOCK] = 1.0;
            for isa in Isa::available() {
                let mut quants = Activations::default();
                quants.quantise(&ThreadPool::new(1), isa, &x, 2 * BLOCK, Rounding::Once);
                assert_eq!(
                    quants.scales[0].to_bits() & 0x7fff_ffff,
                    scale.to_bits() & 0x7fff_ffff,
                    "{isa:?} {value} at {place}"
                );
                assert!(
                    quants.quants[..BLOCK].iter().all(|quant| *quant == 0) && quants.sums[0] == 0
                );
                assert!(quants.scales[1] > 0.0);
                let mut gate = vec![value; 16];
                silu_mul(isa, &mut gate, &[1.0; 16]);
                assert_eq!(gate[0].is_nan(), value.is_nan(), "{isa:?} {value}");
                let mut half = [0; 16];
                to_half(isa, &[value; 16], &mut half);
                let half = f16::from_bits(half[0]).to_f32();
                assert!(if value.is_nan() {
                    half.is_nan()
                } else {
                    half == f16::from_f32(value.clamp(-65_504.0, 65_504.0)).to_f32()
                });
            }
        }
    }
}

#[test]
fn one_phase_of_several_products_equals_each_alone() {
    let mut random = random();
    let columns = 64;
    let weights: Vec<PackedMatrix> =
        [(BlockKind::Q4_1, 40), (BlockKind::Q8_0, 7), (BlockKind::Q4_0, 130)]
            .map(|(kind, rows)| {
                PackedMatrix::pack(
                    kind,
                    rows,
                    columns,
                    &blocks(&mut random, kind, rows, columns),
                    1,
                )
            })
            .into();
    let x = floats(&mut random, 9 * columns, 1.0);
    for threads in 1..5 {
        let threads = ThreadPool::new(threads);
        let mut quants = Activations::default();
        quants.quantise(&threads, Isa::detect(), &x, columns, Rounding::Once);
        let mut together: Vec<Vec<f32>> =
            weights.iter().map(|w| vec![f32::NAN; 9 * w.rows()]).collect();
        let mut products: Vec<Product<'_>> =
            weights.iter().zip(&mut together).map(|(w, y)| Product { w, y }).collect();
        matmul(&threads, Isa::detect(), &mut products, &quants);
        for (w, together) in weights.iter().zip(&together) {
            let mut alone = vec![f32::NAN; together.len()];
            matmul(&threads, Isa::detect(), &mut [Product { w, y: &mut alone }], &quants);
            assert_eq!(bits(&alone), bits(together));
        }
    }
}

#[test]
fn dense_products_have_the_same_bits_on_every_path_in_f32_and_f16() {
    let mut random = random();
    for _ in 0..40 {
        let (rows, columns, tokens) =
            (random.random_range(1..50), random.random_range(1..90), random.random_range(1..11));
        let halves: Vec<f16> =
            floats(&mut random, rows * columns, 1.0).into_iter().map(f16::from_f32).collect();
        let values: Vec<f32> = halves.iter().map(|value| value.to_f32()).collect();
        let (x, start) =
            (floats(&mut random, tokens * columns, 1.0), floats(&mut random, tokens * rows, 1.0));
        let threads = ThreadPool::new(2);
        let mut expected = start.clone();
        matmul_dense(
            &threads,
            Isa::Portable,
            &DenseMatrix::from_f32(rows, columns, &values),
            &x,
            true,
            &mut expected,
        );
        for w in [
            DenseMatrix::from_f32(rows, columns, &values),
            DenseMatrix::from_f16(rows, columns, &halves),
        ] {
            for isa in Isa::available() {
                let mut y = start.clone();
                matmul_dense(&threads, isa, &w, &x, true, &mut y);
                assert_eq!(bits(&y), bits(&expected));
                let mut alone = start[..rows].to_vec();
                matmul_dense(&threads, isa, &w, &x[..columns], true, &mut alone);
                assert_eq!(bits(&alone), bits(&expected[..rows]));
            }
            let mut row = vec![0.0; columns];
            w.row(rows - 1, &mut row);
            assert_eq!(row, values[(rows - 1) * columns..]);
        }
        for (token, y) in expected.chunks_exact(rows).enumerate() {
            for (row, y) in y.iter().enumerate() {
                let pairs =
                    values[row * columns..].iter().zip(&x[token * columns..(token + 1) * columns]);
                let dot: f64 = pairs.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                close(*y, dot + f64::from(start[token * rows + row]), 1e-5);
            }
        }
    }
}

#[test]
fn adapters_of_many_runs_at_once_equal_each_alone() {
    let mut random = random();
    let (columns, tokens) = (48, 45);
    let x = floats(&mut random, tokens * columns, 1.0);
    let mut matrix = |rows: usize, columns: usize| {
        LoraMatrix::Dense(DenseMatrix::from_f32(
            rows,
            columns,
            &floats(&mut random, rows * columns, 1.0),
        ))
    };
    let outs = [33, 16];
    let pairs: Vec<_> = [(4, 0), (16, 1), (5, 0)]
        .map(|(rank, output)| (matrix(rank, columns), matrix(outs[output], rank), output))
        .into();
    let runs = [(0, 20), (20, 1), (23, 22)];
    let items: Vec<LowRank<'_>> = pairs
        .iter()
        .zip(runs)
        .map(|((a, b, output), (row, rows))| LowRank {
            a,
            b,
            scale: 0.5,
            row,
            rows,
            output: *output,
        })
        .collect();
    for isa in Isa::available() {
        let threads = ThreadPool::new(3);
        let mut found = outs.map(|out| vec![1.0; tokens * out]);
        let [first, second] = &mut found;
        low_rank(
            &threads,
            isa,
            &items,
            &x,
            &Activations::default(),
            &mut LoraActivations::default(),
            &mut [first, second],
        );
        let mut expected = outs.map(|out| vec![1.0; tokens * out]);
        for item in &items {
            let mut low = vec![0.0; item.rows * item.a.rows()];
            let (LoraMatrix::Dense(a), LoraMatrix::Dense(b)) = (item.a, item.b) else {
                panic!("these are not rounded")
            };
            matmul_dense(
                &threads,
                isa,
                a,
                &x[item.row * columns..(item.row + item.rows) * columns],
                false,
                &mut low,
            );
            low.iter_mut().for_each(|value| *value *= item.scale);
            let out = item.b.rows();
            matmul_dense(
                &threads,
                isa,
                b,
                &low,
                true,
                &mut expected[item.output][item.row * out..(item.row + item.rows) * out],
            );
        }
        assert!(found.iter().zip(&expected).all(|(found, expected)| bits(found) == bits(expected)));
        assert!(
            found[0][20 * 33..23 * 33].iter().all(|value| *value == 1.0),
            "rows without an adapter are unchanged"
        );
    }
}

#[test]
fn products_with_adapters_in_one_go_equal_those_in_three() {
    let mut random = random();
    let (columns, tokens) = (64, 21);
    let weights: Vec<PackedMatrix> = [(BlockKind::Q4_1, 50), (BlockKind::Q8_0, 16)]
        .map(|(kind, rows)| {
            PackedMatrix::pack(kind, rows, columns, &blocks(&mut random, kind, rows, columns), 1)
        })
        .into();
    let x = floats(&mut random, tokens * columns, 1.0);
    let mut matrix = |rows: usize, columns: usize| {
        LoraMatrix::Dense(DenseMatrix::from_f32(
            rows,
            columns,
            &floats(&mut random, rows * columns, 1.0),
        ))
    };
    let mut pairs: Vec<_> = [(16, 0), (3, 1)]
        .map(|(rank, output)| (matrix(rank, columns), matrix(weights[output].rows(), rank), output))
        .into();
    let mut rounded = |rows: usize, columns: usize| {
        LoraMatrix::Rounded(RoundedMatrix::new(
            rows,
            columns,
            1,
            &floats(&mut random, rows * columns, 1.0),
        ))
    };
    // low-rank activations of ranks above 32 take more than one block
    pairs.extend([(16, 0), (40, 1)].map(|(rank, output)| {
        (rounded(rank, columns), rounded(weights[output].rows(), rank), output)
    }));
    let runs = [(1, 9), (20, 1), (10, 9), (0, 2)];
    let items: Vec<LowRank<'_>> = pairs
        .iter()
        .zip(runs)
        .map(|((a, b, output), (row, rows))| LowRank {
            a,
            b,
            scale: 2.0,
            row,
            rows,
            output: *output,
        })
        .collect();
    for (isa, threads) in
        Isa::available().into_iter().flat_map(|isa| (1..5).map(move |threads| (isa, threads)))
    {
        let threads = ThreadPool::new(threads);
        let mut quants = Activations::default();
        quants.quantise(&threads, isa, &x, columns, Rounding::Once);
        let mut separate: Vec<Vec<f32>> =
            weights.iter().map(|w| vec![f32::NAN; tokens * w.rows()]).collect();
        let mut products: Vec<Product<'_>> =
            weights.iter().zip(&mut separate).map(|(w, y)| Product { w, y }).collect();
        matmul(&threads, isa, &mut products, &quants);
        low_rank(
            &threads,
            isa,
            &items,
            &x,
            &quants,
            &mut LoraActivations::default(),
            &mut separate.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>(),
        );
        let mut together: Vec<Vec<f32>> =
            weights.iter().map(|w| vec![f32::NAN; tokens * w.rows()]).collect();
        let mut products: Vec<Product<'_>> =
            weights.iter().zip(&mut together).map(|(w, y)| Product { w, y }).collect();
        matmul_low_rank(
            &threads,
            isa,
            &mut products,
            &quants,
            &items,
            &x,
            &mut LoraActivations::default(),
        );
        assert!(
            separate
                .iter()
                .zip(&together)
                .all(|(separate, together)| bits(separate) == bits(together)),
            "{isa:?}"
        );
    }
}

#[test]
fn products_with_adapters_have_the_same_bits_whatever_the_number_of_threads() {
    let mut random = random();
    let columns = 576;
    let weights: Vec<PackedMatrix> =
        [(BlockKind::Q4_1, 576), (BlockKind::Q4_1, 192), (BlockKind::Q8_0, 200)]
            .map(|(kind, rows)| {
                PackedMatrix::pack(
                    kind,
                    rows,
                    columns,
                    &blocks(&mut random, kind, rows, columns),
                    1,
                )
            })
            .into();
    for (tokens, twice) in [(5, false), (5, true), (70, false), (70, true)] {
        let x = floats(&mut random, tokens * columns, 1.0);
        let mut rounded = |rows: usize, columns: usize| {
            LoraMatrix::Rounded(RoundedMatrix::new(
                rows,
                columns,
                1,
                &floats(&mut random, rows * columns, 1.0),
            ))
        };
        let pairs: Vec<_> = (0..6)
            .map(|index| (rounded(16, columns), rounded(weights[index % 3].rows(), 16), index % 3))
            .collect();
        let half = tokens / 2;
        let runs = [(0, half), (half, tokens - half)];
        let items: Vec<LowRank<'_>> = pairs
            .iter()
            .enumerate()
            .map(|(index, (a, b, output))| {
                let (row, rows) = runs[index / 3];
                LowRank { a, b, scale: 2.0, row, rows, output: *output }
            })
            .collect();
        let run = |threads: usize| {
            let threads = ThreadPool::new(threads);
            let mut quants = Activations::default();
            quants.quantise(
                &threads,
                Isa::detect(),
                &x,
                columns,
                if twice { Rounding::Twice } else { Rounding::Once },
            );
            let rows = quants.tokens();
            let mut found: Vec<Vec<f32>> =
                weights.iter().map(|w| vec![f32::NAN; rows * w.rows()]).collect();
            let mut products: Vec<Product<'_>> =
                weights.iter().zip(&mut found).map(|(w, y)| Product { w, y }).collect();
            matmul_low_rank(
                &threads,
                Isa::detect(),
                &mut products,
                &quants,
                &items,
                &x,
                &mut LoraActivations::default(),
            );
            found
                .iter()
                .zip(&weights)
                .map(|(found, w)| bits(&found[..tokens * w.rows()]))
                .collect::<Vec<_>>()
        };
        let alone = run(1);
        // repeated, since on a busy machine a thread may start late and another does its share
        for threads in (0..20).flat_map(|_| 2..5) {
            for (index, (found, alone)) in run(threads).iter().zip(&alone).enumerate() {
                let differ = found.iter().zip(alone).filter(|(a, b)| a != b).count();
                assert_eq!(
                    differ,
                    0,
                    "of {}: {tokens} tokens, twice {twice}, {threads} threads, output {index}",
                    alone.len()
                );
            }
        }
    }
}

#[test]
fn norms_activations_and_halves_have_the_same_bits_on_every_path() {
    let mut random = random();
    let (x, w) = (floats(&mut random, 576, 20.0), floats(&mut random, 576, 1.0));
    let mean: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 576.0 + 1e-5;
    let all: Vec<_> = Isa::available()
        .into_iter()
        .map(|isa| {
            let (mut normed, mut gated, mut halves, mut sum) =
                (vec![0.0; 576], x.clone(), vec![0; 576], x.clone());
            rms_norm(isa, &x, &w, 1e-5, &mut normed);
            silu_mul(isa, &mut gated, &w);
            to_half(isa, &x, &mut halves);
            add(isa, &mut sum, &w);
            for at in 0..576 {
                let (x, w) = (f64::from(x[at]), f64::from(w[at]));
                close(normed[at], x / mean.sqrt() * w, 1e-6 * (1.0 + x.abs()));
                close(gated[at], x / (1.0 + (-x).exp()) * w, 2e-6 * (1.0 + x.abs()));
                close(sum[at], x + w, 1e-5);
                assert_eq!(halves[at], f16::from_f32(x as f32).to_bits());
            }
            (bits(&normed), bits(&gated), halves, bits(&sum))
        })
        .collect();
    assert!(all.iter().all(|found| *found == all[0]));
    // large magnitudes do not overflow
    let mut extreme = vec![0.0; 16];
    extreme[..4].copy_from_slice(&[1e30, -1e30, 200.0, -200.0]);
    silu_mul(Isa::detect(), &mut extreme, &[1.0; 16]);
    assert!(
        extreme.iter().all(|value| value.is_finite())
            && extreme[2] == 200.0
            && extreme[3].abs() < 1e-30,
        "{extreme:?}"
    );
}

#[test]
fn softmax_sums_have_the_same_bits_on_every_path_and_are_right_for_any_length() {
    let mut random = random();
    for len in [1, 15, 16, 17, 300, 49_152] {
        let mut logits = floats(&mut random, len, 20.0);
        if len > 20 {
            logits[3] = f32::NEG_INFINITY;
        }
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted = || {
            logits
                .iter()
                .map(|logit| f64::from(*logit) - f64::from(best))
                .filter(|shifted| shifted.is_finite())
        };
        let total: f64 = shifted().map(f64::exp).sum();
        let weighted: f64 = shifted().map(|shifted| shifted.exp() * shifted).sum();
        let expected = softmax_sums(Isa::Portable, &logits);
        assert_eq!(expected.best, best);
        close(expected.total, total, 1e-5 * total);
        close(expected.weighted, weighted, 1e-5 * weighted.abs() + 1e-6);
        let mut powers = logits.clone();
        exp_shifted(Isa::Portable, &mut powers, best, 0.5);
        for (power, logit) in powers.iter().zip(&logits) {
            close(*power, ((f64::from(*logit) - f64::from(best)) * 0.5).exp(), 1e-6);
        }
        for isa in Isa::available() {
            let found = softmax_sums(isa, &logits);
            assert_eq!(
                bits(&[found.best, found.total, found.weighted]),
                bits(&[expected.best, expected.total, expected.weighted])
            );
            let mut again = logits.clone();
            exp_shifted(isa, &mut again, best, 0.5);
            assert_eq!(bits(&again), bits(&powers), "{isa:?}");
        }
    }
}

/// Packs keys and values `[positions, head_dim]` of one head into blocks of the KV cache.
fn cached(keys: &[f32], values: &[f32], dim: usize) -> Vec<Vec<f32>> {
    let positions = keys.len() / dim;
    let mut blocks = vec![vec![0.0; 2 * KV_BLOCK_SIZE * dim]; positions.div_ceil(KV_BLOCK_SIZE)];
    for position in 0..positions {
        let (block, column) = (&mut blocks[position / KV_BLOCK_SIZE], position % KV_BLOCK_SIZE);
        for d in 0..dim {
            block[d * KV_BLOCK_SIZE + column] = keys[position * dim + d];
            block[(KV_BLOCK_SIZE + column) * dim + d] = values[position * dim + d];
        }
    }
    blocks
}

#[test]
fn attention_is_the_softmax_and_has_the_same_bits_on_every_path_whole_or_in_chunks() {
    let mut random = random();
    for _ in 0..30 {
        let head_dim = [16, 64, 80, 128][random.random_range(0..4)];
        let kv_heads = random.random_range(1..4);
        let group = random.random_range(1..9);
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim };
        let width = shape.heads * head_dim;
        let (position, tokens) = (random.random_range(0..70), random.random_range(1..12));
        let all = position + tokens;
        let mut halves = |count: usize, most: f32| -> Vec<f32> {
            floats(&mut random, count, most)
                .into_iter()
                .map(|value| f16::from_f32(value).to_f32())
                .collect()
        };
        let keys: Vec<Vec<f32>> = (0..kv_heads).map(|_| halves(all * head_dim, 2.0)).collect();
        let values: Vec<Vec<f32>> = (0..kv_heads).map(|_| halves(all * head_dim, 1.0)).collect();
        let full: Vec<Vec<Vec<f32>>> =
            keys.iter().zip(&values).map(|(keys, values)| cached(keys, values, head_dim)).collect();
        let short: Vec<Vec<Vec<u16>>> = full
            .iter()
            .map(|blocks| {
                blocks
                    .iter()
                    .map(|block| {
                        block.iter().map(|value| f16::from_f32(*value).to_bits()).collect()
                    })
                    .collect()
            })
            .collect();
        let queries = floats(&mut random, tokens * width, 3.0);
        let threads = ThreadPool::new(2);
        let in_full = |block: usize, head: usize| KvSlice::F32(&full[head][block]);
        let in_half = |block: usize, head: usize| KvSlice::F16(&short[head][block]);
        let attended = |isa: Isa, half: bool, first: usize, count: usize| {
            let mut out = vec![f32::NAN; count * width];
            let spans = [Span { row: 0, tokens: count, position: position + first }];
            let cache =
                |_, block, head| if half { in_half(block, head) } else { in_full(block, head) };
            attention(
                &threads,
                isa,
                shape,
                &spans,
                cache,
                &queries[first * width..(first + count) * width],
                &mut out,
            );
            out
        };
        let expected = attended(Isa::Portable, false, 0, tokens);
        for isa in Isa::available() {
            for half in [false, true] {
                assert_eq!(
                    bits(&attended(isa, half, 0, tokens)),
                    bits(&expected),
                    "{isa:?}, half {half}"
                );
                let cut = random.random_range(0..tokens);
                let chunks =
                    [attended(isa, half, 0, cut), attended(isa, half, cut, tokens - cut)].concat();
                assert_eq!(bits(&chunks), bits(&expected), "{isa:?}, cut at {cut}");
            }
        }
        for token in 0..tokens {
            for head in 0..shape.heads {
                let at = token * width + head * head_dim;
                let (query, keys, values) =
                    (&queries[at..at + head_dim], &keys[head / group], &values[head / group]);
                let score = |place: usize| -> f64 {
                    let key = &keys[place * head_dim..(place + 1) * head_dim];
                    query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>()
                        / (head_dim as f64).sqrt()
                };
                let scores: Vec<f64> = (0..=position + token).map(score).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|score| (score - most).exp()).sum();
                for d in 0..head_dim {
                    let mixed = scores.iter().enumerate().map(|(p, score)| {
                        (score - most).exp() / total * f64::from(values[p * head_dim + d])
                    });
                    close(expected[at + d], mixed.sum(), 1e-5);
                }
            }
        }
    }
}

#[test]
fn a_thread_pool_runs_every_share_and_survives_a_panic() {
    for threads in [1, 2, 5] {
        let threads = ThreadPool::new(threads);
        for round in 0..200_usize {
            let mut rows = vec![0.0; 21 * 3];
            threads.for_rows(&mut rows, 3, |row, values| values.fill((row + round) as f32));
            assert!(
                rows.chunks_exact(3)
                    .enumerate()
                    .all(|(row, values)| values.iter().all(|value| *value == (row + round) as f32))
            );
        }
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            threads.run(|thread, threads| assert!(thread + 1 < threads, "broken on purpose"));
        }));
        assert!(broken.is_err());
        let all_broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            threads.run(|_, _| panic!("broken on purpose"))
        }));
        assert!(all_broken.is_err());
        let done = std::sync::atomic::AtomicUsize::new(0);
        threads.run(|_, _| {
            done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), threads.threads());
    }
}

#[test]
fn the_processor_is_the_one_that_it_should_be() {
    let available = Isa::available();
    assert_eq!((available[0], available[available.len() - 1]), (Isa::detect(), Isa::Portable));
    // set by jobs that run on an emulated or a known processor: without this check, the other tests
    // could compare portable code with itself
    if let Ok(expected) = std::env::var("NYX_EXPECT_ISA") {
        assert_eq!(format!("{:?}", Isa::detect()), expected);
    }
}
