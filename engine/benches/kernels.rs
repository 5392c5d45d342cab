//! The CPU kernels alone, on each instruction set that this machine has, in the default model's
//! shapes: one thread, so that figures of different machines say something about the code and not
//! about their cores.
//!
//! `make bench` runs it, or `cargo bench -p nyx-engine --features bench`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use half::f16;
use nyx_engine::kernels::{
    Activations, AttentionShape, BlockKind, DenseMatrix, Isa, KV_BLOCK_SIZE, KvSlice,
    LoraActivations, LoraMatrix, LowRank, PackedMatrix, Product, Residual, RoundedMatrix, Rounding,
    Span, ThreadPool, attention, low_rank, matmul,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const SHAPE: AttentionShape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64 };
const RANK: usize = 16;

/// Portable code is far slower: enough is seen with few tokens.
fn worth_measuring(isa: Isa, tokens: usize) -> bool {
    isa != Isa::Portable || tokens <= 8
}

fn floats(random: &mut StdRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// A weight as a GGUF file has it, `[rows, columns]`. Its scales are those that random bytes make,
/// but none is infinite or no number.
fn weight(random: &mut StdRng, kind: BlockKind, rows: usize, columns: usize) -> PackedMatrix {
    let mut blocks: Vec<u8> = (0..rows * columns / kind.file_columns() * kind.file_bytes())
        .map(|_| random.random::<u8>())
        .collect();
    for block in blocks.chunks_exact_mut(kind.file_bytes()) {
        let half = f16::from_f32(0.01).to_le_bytes();
        let at = if kind == BlockKind::Q6K { block.len() - 2 } else { 0 };
        block[at..at + 2].copy_from_slice(&half);
        if kind.has_min() {
            block[2..4].copy_from_slice(&half);
        }
    }
    PackedMatrix::pack(kind, rows, columns, &blocks, 1)
}

/// GEMV and GEMM: products a second.
fn products(criterion: &mut Criterion) {
    let (threads, mut random) = (ThreadPool::new(1), StdRng::seed_from_u64(1));
    for kind in BlockKind::ALL {
        // whole super-blocks
        let columns = HIDDEN.next_multiple_of(kind.file_columns());
        let w = weight(&mut random, kind, INTERMEDIATE, columns);
        let mut group = criterion.benchmark_group(format!("{kind:?} {INTERMEDIATE} x {columns}"));
        // many tokens are a matter of the same instructions as eight
        let common = matches!(kind, BlockKind::Q4_1 | BlockKind::Q8_0);
        for tokens in [1, 8, 64].into_iter().filter(|tokens| *tokens <= 8 || common) {
            let x = floats(&mut random, tokens * columns);
            let mut y = vec![0.0; tokens * INTERMEDIATE];
            group.throughput(Throughput::Elements((tokens * columns * INTERMEDIATE) as u64));
            for isa in Isa::available().into_iter().filter(|isa| worth_measuring(*isa, tokens)) {
                let mut quants = Activations::default();
                quants.quantise(&threads, isa, &x, columns, Rounding::Once);
                group.bench_function(BenchmarkId::new(format!("{isa:?}"), tokens), |bencher| {
                    bencher.iter(|| {
                        matmul(
                            &threads,
                            isa,
                            &mut [Product { w: &w, y: black_box(&mut y) }],
                            &quants,
                        )
                    });
                });
            }
        }
        group.finish();
    }
}

/// One token that looks back at 512, and a chunk of 64 after 448: pairs of a query row and a
/// position a second.
fn attended(criterion: &mut Criterion) {
    let (threads, mut random) = (ThreadPool::new(1), StdRng::seed_from_u64(2));
    let width = SHAPE.heads * SHAPE.head_dim;
    let block: Vec<u16> = floats(&mut random, 2 * KV_BLOCK_SIZE * SHAPE.head_dim)
        .iter()
        .map(|value| f16::from_f32(*value).to_bits())
        .collect();
    let mut group = criterion.benchmark_group("attention, 9 heads of 64 over 512 positions");
    for tokens in [1, 64] {
        let queries = floats(&mut random, tokens * width);
        let mut out = vec![0.0; tokens * width];
        let position = 512 - tokens;
        let spans = [Span { row: 0, tokens, position }];
        let pairs: usize = (1..=tokens).map(|token| position + token).sum();
        group.throughput(Throughput::Elements((pairs * SHAPE.heads) as u64));
        for isa in Isa::available().into_iter().filter(|isa| worth_measuring(*isa, tokens)) {
            group.bench_function(BenchmarkId::new(format!("{isa:?}"), tokens), |bencher| {
                bencher.iter(|| {
                    attention(
                        &threads,
                        isa,
                        SHAPE,
                        &spans,
                        |_, _, _| KvSlice::F16(&block),
                        &queries,
                        black_box(&mut out),
                    )
                });
            });
        }
    }
    group.finish();
}

/// Five adapters with a token each, and one with 64, as they are shipped and as the file has them:
/// products a second.
fn adapters(criterion: &mut Criterion) {
    let (threads, mut random) = (ThreadPool::new(1), StdRng::seed_from_u64(3));
    for held in ["int8", "f16"] {
        let mut matrix = |rows: usize, columns: usize| {
            let values = floats(&mut random, rows * columns);
            let halves: Vec<f16> = values.iter().copied().map(f16::from_f32).collect();
            if held == "f16" {
                LoraMatrix::Dense(DenseMatrix::from_f16(rows, columns, &halves))
            } else {
                LoraMatrix::Rounded(RoundedMatrix::new(rows, columns, 1, &values))
            }
        };
        let pairs: Vec<_> =
            (0..5).map(|_| (matrix(RANK, HIDDEN), matrix(INTERMEDIATE, RANK))).collect();
        let mut group = criterion.benchmark_group(format!(
            "LoRA of rank {RANK} in {held} beside {INTERMEDIATE} x {HIDDEN}"
        ));
        for (name, runs, rows) in [("5 adapters x 1", 5, 1), ("1 adapter x 64", 1, 64)] {
            let x = floats(&mut random, runs * rows * HIDDEN);
            let (mut low, mut quants, mut y) = (
                LoraActivations::default(),
                Activations::default(),
                vec![0.0; runs * rows * INTERMEDIATE],
            );
            let pairs = pairs[..runs].iter().enumerate();
            let items: Vec<LowRank<'_>> = pairs
                .map(|(run, (a, b))| LowRank { a, b, scale: 1.0, row: run * rows, rows, output: 0 })
                .collect();
            group.throughput(Throughput::Elements(
                (runs * rows * RANK * (HIDDEN + INTERMEDIATE)) as u64,
            ));
            for isa in Isa::available().into_iter().filter(|isa| worth_measuring(*isa, runs * rows))
            {
                quants.quantise(&threads, isa, &x, HIDDEN, Rounding::Once);
                group.bench_function(BenchmarkId::new(format!("{isa:?}"), name), |bencher| {
                    bencher.iter(|| {
                        // what is added to would grow without end
                        y.fill(0.0);
                        low_rank(
                            &threads,
                            isa,
                            &items,
                            &x,
                            &quants,
                            &mut low,
                            &mut [black_box(&mut y)],
                        );
                    });
                });
            }
        }
        group.finish();
    }
}

/// A row between two products: the residual sum, its norm, and rounding for the next product, once
/// and twice.
fn norms(criterion: &mut Criterion) {
    let (threads, mut random) = (ThreadPool::new(1), StdRng::seed_from_u64(4));
    let (mut x, weight) = (floats(&mut random, HIDDEN), floats(&mut random, HIDDEN));
    let (delta, mut normed, mut quants) =
        (vec![0.0; HIDDEN], vec![0.0; HIDDEN], Activations::default());
    let mut group = criterion.benchmark_group("residual sum, norm and rounding");
    group.throughput(Throughput::Elements(HIDDEN as u64));
    for (isa, rounding) in
        Isa::available().into_iter().flat_map(|isa| [(isa, Rounding::Once), (isa, Rounding::Twice)])
    {
        group.bench_function(format!("{isa:?} {rounding:?}"), |bencher| {
            bencher.iter(|| {
                let residual = Residual { x: &mut x, delta: &delta, weight: &weight, eps: 1e-5 };
                quants.add_norm(&threads, isa, residual, black_box(&mut normed), rounding);
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    products(&mut criterion);
    attended(&mut criterion);
    adapters(&mut criterion);
    norms(&mut criterion);
    criterion.final_summary();
}
