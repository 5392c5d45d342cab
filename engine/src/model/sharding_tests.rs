//! Sharded and unsharded models give the same logits: bit for bit on the CPU kernels, within
//! rounding on candle tensors.

use std::path::Path;

use candle_core::Device;
use rand::Rng;
use rand::rngs::StdRng;

use super::body::Body;
use super::*;
use crate::kernels::ThreadPool;
use crate::kv::KvCache;
use crate::lora::Target;
use crate::testing::{default_model, random, random_adapter, random_model};
use crate::{AdapterHandle, AdapterPrecision, EngineError, ModelFiles, Quantisation};

/// Runs `work` with a replica of the model sharded over `world` ranks.
fn with_group<T>(
    files: &ModelFiles,
    quantisation: Quantisation,
    world: usize,
    work: impl FnOnce(&Llama) -> T,
) -> T {
    let mut ranks = Rank::group(world);
    let threads = || ThreadPool::new(1);
    std::thread::scope(|scope| {
        let followers: Vec<_> = ranks
            .drain(1..)
            .map(|rank| {
                scope.spawn(move || {
                    let shared = std::sync::Arc::clone(&rank.shared);
                    let body =
                        Body::load_on(files, quantisation, Device::Cpu, threads(), rank).unwrap();
                    Follower::new(body, files.config().clone(), shared).serve()
                })
            })
            .collect();
        let model = Llama::load_on(
            files,
            quantisation,
            Device::Cpu,
            threads(),
            ranks.remove(0),
            usize::MAX,
        )
        .unwrap();
        let found = work(&model);
        drop(model);
        followers.into_iter().for_each(|follower| follower.join().unwrap().unwrap());
        found
    })
}

/// Logits of random batches; sequences continue or fork earlier ones, each with a random adapter or
/// none. Deterministic for a given random number generator.
fn logits(model: &Llama, adapters: &[AdapterHandle], random: &mut StdRng) -> Vec<f32> {
    let mut caches: Vec<(KvCache, Option<AdapterHandle>)> = Vec::new();
    let mut found = Vec::new();
    for _ in 0..4 {
        while caches.len() < 4 {
            let adapter = adapters.get(random.random_range(0..=adapters.len())).cloned();
            caches.push((model.new_cache(), adapter));
        }
        let texts: Vec<Vec<u32>> = caches
            .iter()
            .map(|_| {
                (0..random.random_range(1..40))
                    .map(|_| random.random_range(0..model.config().vocabulary as u32))
                    .collect()
            })
            .collect();
        let rows = [LogitRows::None, LogitRows::Last, LogitRows::All];
        let mut batch: Vec<Segment<'_>> = caches
            .iter_mut()
            .zip(&texts)
            .map(|((kv, adapter), tokens)| Segment {
                tokens,
                kv,
                adapter: adapter.clone(),
                logits: rows[random.random_range(0..3)],
            })
            .collect();
        let all = model.forward(&mut batch).unwrap();
        found.extend(all.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let fork = caches[0].0.fork(caches[0].0.len() - 1);
        caches[1] = (fork, caches[0].1.clone());
        caches.pop();
    }
    found
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn adapters(model: &Llama, seed: u64) -> Vec<AdapterHandle> {
    let mut random = <StdRng as rand::SeedableRng>::seed_from_u64(seed);
    [(16, &Target::ALL[..]), (3, &Target::ALL[2..5]), (8, &[Target::Down])]
        .iter()
        .map(|(rank, targets)| {
            let folder = tempfile::tempdir().unwrap();
            random_adapter(model.config(), folder.path(), *rank, targets, &mut random);
            model.load_adapter("random", folder.path(), "base", AdapterPrecision::Int8).unwrap()
        })
        .collect()
}

#[test]
fn one_two_and_three_shards_of_the_default_model_agree_bit_for_bit_with_adapters() {
    let files = ModelFiles::open(&default_model()).unwrap();
    let mut random = random();
    let seed: u64 = random.random();
    let run = |model: &Llama| {
        let mut random = <StdRng as rand::SeedableRng>::seed_from_u64(seed);
        logits(model, &adapters(model, seed), &mut random)
    };
    let whole = run(&Llama::load(&files, Quantisation::None, &Device::Cpu).unwrap());
    assert!(whole.len() > 10_000 && whole.iter().all(|value| value.is_finite()));
    for world in [1, 2, 3] {
        let sharded = with_group(&files, Quantisation::None, world, run);
        assert!(bits(&sharded) == bits(&whole), "{world} shards");
    }
}

#[test]
fn models_in_f32_and_quantised_at_load_agree_bit_for_bit_however_they_are_sharded() {
    let mut random = random();
    for (heads, kv_heads, head_dim, inner) in [(4, 4, 32, 128), (6, 3, 32, 288), (10, 5, 64, 320)] {
        let folder = tempfile::tempdir().unwrap();
        random_model(folder.path(), heads, kv_heads, head_dim, inner, &mut random);
        let files = ModelFiles::open(folder.path()).unwrap();
        for quantisation in [Quantisation::None, Quantisation::Q8_0] {
            let seed: u64 = random.random();
            let run = |model: &Llama| {
                let mut random = <StdRng as rand::SeedableRng>::seed_from_u64(seed);
                logits(model, &adapters(model, seed), &mut random)
            };
            let whole = run(&Llama::load(&files, quantisation, &Device::Cpu).unwrap());
            for world in 2..=kv_heads {
                assert!(
                    bits(&with_group(&files, quantisation, world, run)) == bits(&whole),
                    "{world} shards of {heads} heads, {quantisation:?}"
                );
            }
        }
    }
}

/// The CPU kernels do not support this shape: the model runs on candle tensors, as on GPUs.
#[test]
fn tensors_agree_sharded_or_whole_grouped_or_each_alone() {
    let mut random = random();
    let folder = tempfile::tempdir().unwrap();
    random_model(folder.path(), 16, 4, 8, 384, &mut random);
    let files = ModelFiles::open(folder.path()).unwrap();
    let seed: u64 = random.random();
    let run = |model: &Llama, grouped: bool| {
        match &mut model.running.lock().unwrap().body {
            Body::Tensors(shard) => shard.group(grouped),
            Body::Cpu(_) => panic!("the CPU kernels accepted a head size of 8"),
        }
        let mut random = <StdRng as rand::SeedableRng>::seed_from_u64(seed);
        logits(model, &adapters(model, seed), &mut random)
    };
    let alone = run(&Llama::load(&files, Quantisation::None, &Device::Cpu).unwrap(), false);
    let close = |found: Vec<f32>, what: &str| {
        let scale = alone.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let apart = found.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(found.len() == alone.len() && apart < 1e-4 * scale, "{what}: {apart} of {scale}");
    };
    close(run(&Llama::load(&files, Quantisation::None, &Device::Cpu).unwrap(), true), "grouped");
    for world in [2, 3, 4] {
        close(
            with_group(&files, Quantisation::None, world, |model| run(model, world % 2 == 0)),
            "sharded",
        );
    }
}

#[test]
fn a_replica_that_loses_a_shard_reports_it_and_a_model_that_does_not_split_is_refused() {
    let files = ModelFiles::open(&default_model()).unwrap();
    let refused = Slice::new(files.config(), 0, 4).unwrap_err().to_string();
    assert!(refused.contains("3 KV heads") && refused.contains('4'), "{refused}");
    let load = |rank| {
        Llama::load_on(
            &files,
            Quantisation::None,
            Device::Cpu,
            ThreadPool::new(1),
            rank,
            usize::MAX,
        )
    };
    let mut ranks = Rank::group(2);
    // a rank that never loads
    drop(ranks.pop());
    assert!(matches!(load(ranks.remove(0)), Err(EngineError::ShardLost)));
    // a rank that is dropped after loading
    let mut ranks = Rank::group(2);
    let follower = Body::load_on(
        &files,
        Quantisation::None,
        Device::Cpu,
        ThreadPool::new(1),
        ranks.pop().unwrap(),
    )
    .unwrap();
    let model = load(ranks.remove(0)).unwrap();
    drop(follower);
    let mut kv = model.new_cache();
    for _ in 0..2 {
        let mut batch =
            [Segment { tokens: &[1, 2, 3], kv: &mut kv, adapter: None, logits: LogitRows::Last }];
        assert!(matches!(model.forward(&mut batch), Err(EngineError::ShardLost)));
    }
    assert!(matches!(
        model.load_adapter("any", Path::new("nowhere"), "base", AdapterPrecision::File),
        Err(EngineError::ShardLost)
    ));
}
