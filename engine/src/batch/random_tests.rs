//! Random jobs on random engines: batched or alone, sharded or whole, with draft tokens, with too
//! few blocks. The output must not change.

use std::sync::mpsc::{Receiver, sync_channel};

use nyx_domain::TokenLogprob;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::tests::{Ending, job};
use super::*;
use crate::lora::Target;
use crate::model::{Follower, Rank};
use crate::testing::{default_model, random, random_adapter};
use crate::text::Text;
use crate::weights::ModelFiles;
use crate::{
    AdapterHandle, ContinuationScore, DeviceSpec, Quantisation, Result, SamplingParams, ScoreJob,
};

/// A job: an answer, or scores.
enum Ask {
    Answer { prompt: Vec<u32>, fixed: usize, params: SamplingParams, adapter: Option<usize> },
    Scores { prompt: Vec<u32>, fixed: usize, continuations: Vec<Vec<u32>>, adapter: Option<usize> },
}

#[derive(Debug, PartialEq)]
enum Said {
    Answer(String, Vec<TokenLogprob>, FinishReason, usize),
    Scores(Vec<ContinuationScore>),
}

enum Waiting {
    Answer(Ending),
    Scores(Receiver<Result<Vec<ContinuationScore>>>),
}

const LONGEST: usize = 260;

fn asks(random: &mut StdRng, count: usize, text: &Text) -> Vec<Ask> {
    let beginnings: Vec<Vec<u32>> = (0..3)
        .map(|_| (0..random.random_range(1..90)).map(|_| random.random_range(3..49_000)).collect())
        .collect();
    let list = text
        .encode("one apple, two apples, three apples, four apples, five apples, six apples, seven")
        .unwrap();
    (0..count)
        .map(|index| {
            let fixed = &beginnings[random.random_range(0..3)];
            // in a text that repeats itself, draft tokens are accepted
            let rest: Vec<u32> = if index % 3 == 0 {
                list.clone()
            } else {
                (0..random.random_range(1..60)).map(|_| random.random_range(3..49_000)).collect()
            };
            let (prompt, adapter) = (
                [fixed.as_slice(), &rest].concat(),
                random.random_range(0..4_usize).checked_sub(1),
            );
            let fixed = if random.random() { fixed.len() } else { 0 };
            if index % 4 == 3 {
                let tokens = |random: &mut StdRng| {
                    (0..random.random_range(1..9)).map(|_| random.random_range(3..49_000)).collect()
                };
                let continuations =
                    (0..random.random_range(1..20)).map(|_| tokens(random)).collect();
                return Ask::Scores { prompt, fixed, continuations, adapter };
            }
            let params = SamplingParams {
                temperature: if random.random() { 0.0 } else { 0.7 },
                top_p: 0.9,
                repetition_penalty: if random.random_range(0..4) == 0 { 1.2 } else { 1.0 },
                seed: random.random(),
                logprobs: Some(3),
                max_tokens: random.random_range(1..40),
                ..SamplingParams::default()
            };
            if index == 0 {
                // its draft tokens are accepted whatever the sampler draws
                let params = SamplingParams {
                    temperature: 0.0,
                    repetition_penalty: 1.0,
                    max_tokens: 39,
                    ..params
                };
                return Ask::Answer { prompt: list.clone(), fixed: 0, params, adapter: None };
            }
            Ask::Answer { prompt, fixed, params, adapter }
        })
        .collect()
}

fn submit(engine: &mut Engine, adapters: &[AdapterHandle], ask: &Ask, client: &str) -> Waiting {
    match ask {
        Ask::Answer { prompt, fixed, params, adapter } => {
            let (job, ending) = job(prompt.clone(), *fixed, params.clone(), usize::MAX);
            engine.submit(GenerateJob {
                adapter: adapter.map(|index| adapters[index].clone()),
                fairness_key: client.into(),
                ..job
            });
            Waiting::Answer(ending)
        }
        Ask::Scores { prompt, fixed, continuations, adapter } => {
            let (sender, receiver) = sync_channel(1);
            engine.score(ScoreJob {
                prompt: prompt.clone(),
                cacheable_prefix: *fixed,
                continuations: continuations.clone(),
                adapter: adapter.map(|index| adapters[index].clone()),
                cancelled: Box::new(|| false),
                reply: Box::new(move |scores| sender.send(scores).expect("the test waits")),
            });
            Waiting::Scores(receiver)
        }
    }
}

impl Waiting {
    fn said(self) -> Said {
        match self {
            Self::Answer(ending) => {
                let (text, logprobs, end) = ending.recv().unwrap();
                let end = end.unwrap();
                Said::Answer(text, logprobs, end.reason, end.usage.completion_tokens)
            }
            Self::Scores(receiver) => Said::Scores(receiver.recv().unwrap().unwrap()),
        }
    }
}

/// Runs `work` with an engine over `world` cores, and three adapters.
fn with_engine<T: Send>(
    files: &ModelFiles,
    folders: &[tempfile::TempDir],
    options: &EngineOptions,
    world: usize,
    work: impl FnOnce(&mut Engine, &[AdapterHandle]) -> T + Send,
) -> T {
    let text = std::sync::Arc::new(Text::load(files).unwrap());
    let ranks = Rank::group(world).into_iter().enumerate();
    std::thread::scope(|scope| {
        let mut leader = None;
        let mut work = Some(work);
        for (core, rank) in ranks {
            let spec = if world == 1 { DeviceSpec::Cpu } else { DeviceSpec::CpuCore(core) };
            if rank.is_leader() {
                let (text, work) = (text.clone(), work.take().unwrap());
                leader = Some(scope.spawn(move || {
                    let mut engine =
                        Engine::load_group(files, text, spec, rank, options.clone()).unwrap();
                    let load = |folder: &tempfile::TempDir| {
                        engine.load_adapter("random", folder.path()).unwrap()
                    };
                    let adapters: Vec<_> = folders.iter().map(load).collect();
                    work(&mut engine, &adapters)
                }));
            } else {
                scope.spawn(move || {
                    Follower::load(files, Quantisation::None, spec, rank).unwrap().serve().unwrap()
                });
            }
        }
        leader.unwrap().join().unwrap()
    })
}

#[test]
fn tokens_do_not_depend_on_batch_shards_drafts_chunks_or_kv_capacity() {
    let mut random = random();
    let files = ModelFiles::open(&default_model()).unwrap();
    let folders: Vec<_> = [(16, &Target::ALL[..]), (4, &Target::ALL[3..]), (8, &Target::ALL[..3])]
        .into_iter()
        .map(|(rank, targets)| {
            let folder = tempfile::tempdir().unwrap();
            random_adapter(files.config(), folder.path(), rank, targets, &mut random);
            folder
        })
        .collect();
    let asks = asks(&mut random, 12, &Text::load(&files).unwrap());
    let plain =
        EngineOptions { speculate: false, prefix_cache_bytes: 0, ..EngineOptions::default() };
    let alone: Vec<Said> = with_engine(&files, &folders, &plain, 1, |engine, adapters| {
        asks.iter()
            .map(|ask| {
                let waiting = submit(engine, adapters, ask, "");
                while engine.has_work() {
                    engine.step().unwrap();
                }
                waiting.said()
            })
            .collect()
    });
    // 48 KB per position and pair of layers of the default model in f16: see `KvCache::bytes`
    let block = {
        let config = files.config();
        2 * config.layers * config.kv_heads * config.head_dim * 2 * crate::kernels::KV_BLOCK_SIZE
    };
    let (mut drafted, mut right, mut preempted) = (0, 0, 0);
    for (world, blocks) in [(1, 1000), (1, 2 * LONGEST / 32), (2, 1000), (3, 3 * LONGEST / 32)] {
        let options = EngineOptions {
            max_batch: random.random_range(2..9),
            prefill_chunk: random.random_range(20..200),
            kv_cache_bytes: blocks * block,
            prefix_cache_bytes: if random.random() { 0 } else { 64 << 20 },
            ..EngineOptions::default()
        };
        let seed: u64 = random.random();
        let (said, reports) = with_engine(&files, &folders, &options, world, |engine, adapters| {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut waiting, mut reports) = (Vec::new(), Vec::new());
            for ask in &asks {
                waiting.push(submit(engine, adapters, ask, ["a", "b"][random.random_range(0..2)]));
                for _ in 0..random.random_range(0..4) {
                    reports.push(engine.step().unwrap());
                }
            }
            while engine.has_work() {
                reports.push(engine.step().unwrap());
            }
            (waiting.into_iter().map(Waiting::said).collect::<Vec<_>>(), reports)
        });
        for (index, (said, alone)) in said.iter().zip(&alone).enumerate() {
            assert_eq!(said, alone, "ask {index}, {world} shards, {blocks} blocks, {options:?}");
        }
        for report in &reports {
            drafted += report.drafted;
            right += report.accepted_drafts;
            preempted += report.preempted;
            assert!(report.kv_bytes <= options.kv_cache_bytes);
        }
        assert_eq!(reports.last().map(|report| (report.running, report.waiting)), Some((0, 0)));
    }
    assert!(drafted > 0 && right > 0 && right <= drafted, "{right} of {drafted} drafts");
    assert!(preempted > 0, "nothing had to make room: {preempted}");
}
