//! Batching on the real model.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use nyx_domain::{ChatMessage, Role, TokenLogprob};

use super::*;
use crate::testing::default_model;
use crate::text::Text;
use crate::weights::ModelFiles;
use crate::{EngineError, Quantisation, Result, SamplingParams, ScoreJob};

struct Collect {
    text: String,
    logprobs: Vec<TokenLogprob>,
    /// The sink breaks after this many pieces.
    backoff: usize,
    done: SyncSender<(String, Vec<TokenLogprob>, Result<Finished>)>,
}

impl TokenSink for Collect {
    fn piece(&mut self, piece: Piece) -> ControlFlow<()> {
        self.text.push_str(&piece.text);
        self.logprobs.extend(piece.logprobs);
        self.backoff = self.backoff.saturating_sub(1);
        if self.backoff == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
    fn finish(self: Box<Self>, end: Result<Finished>) {
        self.done.send((self.text, self.logprobs, end)).expect("the test waits");
    }
}

pub(super) type Ending = Receiver<(String, Vec<TokenLogprob>, Result<Finished>)>;

fn engine(options: EngineOptions) -> (Engine, std::sync::Arc<Text>) {
    let files = ModelFiles::open(&default_model()).unwrap();
    let text = std::sync::Arc::new(Text::load(&files).unwrap());
    (
        Engine::load(&files, std::sync::Arc::clone(&text), &candle_core::Device::Cpu, options)
            .unwrap(),
        text,
    )
}

pub(super) fn job(
    prompt: Vec<u32>,
    cacheable_prefix: usize,
    params: SamplingParams,
    backoff: usize,
) -> (GenerateJob, Ending) {
    let (done, ending) = sync_channel(1);
    let sink = Box::new(Collect { text: String::new(), logprobs: Vec::new(), backoff, done });
    (
        GenerateJob {
            prompt,
            cacheable_prefix,
            params,
            adapter: None,
            cancelled: Box::new(|| false),
            fairness_key: String::new(),
            deadline: None,
            sink,
        },
        ending,
    )
}

fn run(engine: &mut Engine) {
    while engine.has_work() {
        engine.step().unwrap();
    }
}

fn prompt(text: &Text, system: &str, question: &str) -> (Vec<u32>, usize) {
    let system = ChatMessage::new(Role::System, system);
    let fixed = text.encode_chat(std::slice::from_ref(&system), false).unwrap().len();
    (text.encode_chat(&[system, ChatMessage::new(Role::User, question)], true).unwrap(), fixed)
}

#[test]
fn batched_equals_alone_and_warm_equals_cold_bit_for_bit() {
    let options = EngineOptions { prefill_chunk: 32, ..EngineOptions::default() };
    let (mut shared, text) = engine(options);
    let systems =
        ["You answer in one word.", "You are a poet who writes about the sea and the wind."];
    let questions = [
        "Name a colour.",
        "What is rain? Explain it to a child who has never seen any, slowly.",
        "Say hello.",
        "2 + 2 =",
        "Who are you?",
    ];
    let jobs: Vec<_> = questions
        .iter()
        .enumerate()
        .map(|(index, question)| {
            let (tokens, fixed) = prompt(&text, systems[index % 2], question);
            let temperature = if index == 0 { 0.0 } else { 0.8 };
            let params = SamplingParams {
                temperature,
                top_p: 0.95,
                seed: index as u64,
                logprobs: Some(2),
                max_tokens: 8 + index,
                ..SamplingParams::default()
            };
            (tokens, fixed, params)
        })
        .collect();
    let submit = |engine: &mut Engine,
                  (tokens, fixed, params): &(Vec<u32>, usize, SamplingParams)| {
        let (job, ending) = job(tokens.clone(), *fixed, params.clone(), usize::MAX);
        engine.submit(job);
        ending
    };
    let endings: Vec<_> = jobs.iter().map(|job| submit(&mut shared, job)).collect();
    run(&mut shared);
    let together: Vec<_> = endings.iter().map(|ending| ending.recv().unwrap()).collect();
    for (job, (answer, logprobs, end)) in jobs.iter().zip(together) {
        // alone, and now with a warm prefix
        let alone = submit(&mut shared, job);
        run(&mut shared);
        let (alone_answer, alone_logprobs, alone_end) = alone.recv().unwrap();
        assert_eq!((&answer, &logprobs), (&alone_answer, &alone_logprobs), "params {:?}", job.2);
        let (end, alone_end) = (end.unwrap(), alone_end.unwrap());
        assert_eq!(
            (end.reason, end.usage.completion_tokens),
            (alone_end.reason, alone_end.usage.completion_tokens)
        );
        // the whole prompt but its last token is cached
        assert_eq!(alone_end.usage.cached_tokens, job.0.len() - 1);
        assert_eq!(
            logprobs.len()
                - usize::from(
                    end.reason == FinishReason::Stop
                        && logprobs.len() > end.usage.completion_tokens
                ),
            logprobs.len()
        );
        assert!(end.max_entropy >= end.mean_entropy && end.mean_logprob <= 0.0);
    }
}

#[test]
fn sequences_end_as_they_should() {
    let (mut engine, text) =
        engine(EngineOptions { context_length: Some(64), ..EngineOptions::default() });
    let ask = |question: &str| prompt(&text, "Be brief.", question).0;
    let params = SamplingParams { max_tokens: 12, ..SamplingParams::default() };
    // a client that disconnects
    let (left, left_ending) = job(ask("Count to one hundred."), 0, params.clone(), 3);
    engine.submit(left);
    // a deadline that has passed
    let (mut late, late_ending) = job(ask("Hello"), 0, params.clone(), usize::MAX);
    late.deadline = Some(Instant::now());
    engine.submit(late);
    // a cancelled request
    let (mut gone, gone_ending) = job(ask("Hello"), 0, params.clone(), usize::MAX);
    gone.cancelled = Box::new(|| true);
    engine.submit(gone);
    // a stop string across tokens
    let (whole, whole_ending) =
        job(ask("Say: one two three four five"), 0, params.clone(), usize::MAX);
    engine.submit(whole);
    // more than the context window
    let (long, long_ending) = job(
        ask("Count to one hundred."),
        0,
        SamplingParams { max_tokens: 1000, ..params.clone() },
        usize::MAX,
    );
    engine.submit(long);
    run(&mut engine);
    let reason = |ending: &Ending| ending.recv().unwrap().2.unwrap().reason;
    assert_eq!(reason(&left_ending), FinishReason::Cancelled);
    assert_eq!(reason(&late_ending), FinishReason::Deadline);
    assert_eq!(reason(&gone_ending), FinishReason::Cancelled);
    let end = long_ending.recv().unwrap().2.unwrap();
    assert!(
        end.reason == FinishReason::Stop
            || end.usage.prompt_tokens + end.usage.completion_tokens == 64,
        "{end:?}"
    );
    let answer = whole_ending.recv().unwrap().0;
    let cut = answer.char_indices().nth(answer.chars().count() / 2).unwrap().0;
    let stop: String = answer[cut..].chars().take(4).collect();
    let (stopped, ending) = job(
        ask("Say: one two three four five"),
        0,
        SamplingParams { stop: vec![stop.clone()], ..params },
        usize::MAX,
    );
    engine.submit(stopped);
    run(&mut engine);
    let (shown, _, end) = ending.recv().unwrap();
    assert_eq!(shown, answer[..answer.find(&stop).unwrap()]);
    assert_eq!(end.unwrap().reason, FinishReason::Stop);
    let report = engine.step().unwrap();
    assert_eq!((report.running, report.waiting), (0, 0));
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let (mut engine, _) =
        engine(EngineOptions { context_length: Some(8), ..EngineOptions::default() });
    for (tokens, expected) in
        [(vec![], "empty"), (vec![1; 8], "context window"), (vec![1, 60_000], "60000")]
    {
        let (refused, ending) = job(tokens, 0, SamplingParams::default(), 1);
        engine.submit(refused);
        assert!(!engine.has_work());
        assert!(ending.recv().unwrap().2.unwrap_err().to_string().contains(expected));
    }
}

#[test]
fn scores_equal_one_pass_over_each_continuation() {
    let (mut engine, text) = engine(EngineOptions::default());
    let (tokens, fixed) = prompt(&text, "You name the right guide.", "Who remembers?");
    let continuations: Vec<_> = [
        "Mnemosyne",
        "Moira",
        "a",
        "the one who remembers",
        &"what was told long ago, and again ".repeat(40),
    ]
    .iter()
    .map(|name| text.encode(name).unwrap())
    .collect();
    let mut score = |continuations: Vec<Vec<u32>>, fixed: usize| {
        let (sender, receiver) = sync_channel(1);
        let reply = Box::new(move |scores| sender.send(scores).expect("the test waits"));
        engine.score(ScoreJob {
            prompt: tokens.clone(),
            cacheable_prefix: fixed,
            continuations,
            adapter: None,
            cancelled: Box::new(|| false),
            reply,
        });
        run(&mut engine);
        receiver.recv().unwrap()
    };
    let together = score(continuations.clone(), fixed).unwrap();
    let mut reversed = score(continuations.iter().rev().cloned().collect(), fixed).unwrap();
    reversed.reverse();
    assert_eq!(together, reversed);
    for (found, continuation) in together.iter().zip(&continuations) {
        assert_eq!(found.logprobs.len(), continuation.len());
        assert_eq!(score(vec![continuation.clone()], fixed).unwrap()[0], *found);
        // the same in one pass, with other chunk boundaries
        let mut kv = engine_cache();
        let whole: Vec<u32> = tokens.iter().chain(continuation).copied().collect();
        let rows = whole_pass(&mut kv, &whole);
        for (place, (&token, &logprob)) in continuation.iter().zip(&found.logprobs).enumerate() {
            let row = &rows[tokens.len() - 1 + place];
            // whatever the chunk boundaries
            assert_eq!(crate::sampling::logprob(row, token), logprob);
        }
    }
    assert!(matches!(score(vec![vec![]], 0), Err(EngineError::EmptyPrompt)));
}

fn model() -> &'static crate::Llama {
    static MODEL: std::sync::OnceLock<crate::Llama> = std::sync::OnceLock::new();
    MODEL.get_or_init(|| {
        crate::Llama::load(
            &ModelFiles::open(&default_model()).unwrap(),
            Quantisation::None,
            &candle_core::Device::Cpu,
        )
        .unwrap()
    })
}

fn engine_cache() -> crate::kv::KvCache {
    model().new_cache()
}

fn whole_pass(kv: &mut crate::kv::KvCache, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut batch =
        [crate::model::Segment { tokens, kv, adapter: None, logits: crate::model::LogitRows::All }];
    model().forward(&mut batch).unwrap().to_vec2().unwrap()
}

#[test]
fn prefixes_are_kept_under_the_budget_least_recently_used_dropped_first() {
    let model = model();
    let filled = |tokens: &[u32]| {
        let mut kv = model.new_cache();
        whole_pass(&mut kv, tokens);
        kv
    };
    let (a, b, c) = ([5_u32; 20], [6_u32; 20], [7_u32; 20]);
    let one = filled(&a).bytes();
    let mut cache = prefix::PrefixCache::new(2 * one);
    let longer = |tokens: &[u32]| [tokens, &[9, 9]].concat();
    let found = |cache: &mut prefix::PrefixCache, adapter: Option<&str>, tokens: &[u32]| {
        cache.fork(adapter, &longer(tokens), 20).map(|kv| kv.len())
    };
    cache.keep(None, &a, &filled(&a));
    cache.keep(Some("x"), &b, &filled(&b));
    assert_eq!((cache.bytes(), cache.tokens()), (2 * one, 40));
    assert_eq!(found(&mut cache, None, &a), Some(20));
    // an entry of another adapter is never used, a prefix is
    assert_eq!(
        (found(&mut cache, None, &b), found(&mut cache, Some("x"), &b[..15])),
        (None, Some(15))
    );
    assert_eq!(
        cache.fork(None, &a, 20).map(|kv| kv.len()),
        Some(19),
        "one token is left to compute"
    );
    cache.keep(None, &c, &filled(&c));
    assert_eq!(found(&mut cache, Some("x"), &b), None);
    assert!(found(&mut cache, None, &a).is_some() && found(&mut cache, None, &c).is_some());
    // ended sequences are evicted before fixed prefixes, and a longer entry replaces its prefixes
    let mut cache = prefix::PrefixCache::new(3 * one);
    cache.keep(None, &a, &filled(&a));
    cache.retire(None, b[..10].to_vec(), filled(&b[..10]));
    cache.retire(None, b.to_vec(), filled(&b));
    cache.retire(None, b[..5].to_vec(), filled(&b[..5]));
    assert_eq!(cache.tokens(), 40);
    cache.retire(None, c.to_vec(), filled(&c));
    cache.retire(Some("x"), c.to_vec(), filled(&c));
    assert_eq!(
        (found(&mut cache, None, &b), found(&mut cache, None, &a), found(&mut cache, None, &c)),
        (None, Some(20), Some(20))
    );
}

#[test]
fn the_next_turn_of_a_conversation_is_warm_and_gives_the_bits_of_a_cold_one() {
    let (mut warm, text) = engine(EngineOptions::default());
    let (mut cold, _) = engine(EngineOptions { prefix_cache_bytes: 0, ..EngineOptions::default() });
    let mut messages = vec![
        ChatMessage::new(Role::System, "You are brief."),
        ChatMessage::new(Role::User, "Name three rivers of Europe."),
    ];
    for turn in 0..3 {
        let prompt = text.encode_chat(&messages, true).unwrap();
        let params = SamplingParams {
            max_tokens: 24,
            temperature: 0.7,
            seed: turn,
            logprobs: Some(1),
            ..SamplingParams::default()
        };
        let answer = |engine: &mut Engine| {
            let (job, ending) = job(prompt.clone(), 0, params.clone(), usize::MAX);
            engine.submit(job);
            run(engine);
            ending.recv().unwrap()
        };
        let (said, logprobs, end) = answer(&mut warm);
        let (cold_said, cold_logprobs, cold_end) = answer(&mut cold);
        assert_eq!((&said, logprobs), (&cold_said, cold_logprobs));
        assert_eq!(cold_end.unwrap().usage.cached_tokens, 0);
        let usage = end.unwrap().usage;
        if turn > 0 {
            assert!(usage.cached_tokens * 2 > usage.prompt_tokens, "{usage:?}");
        }
        messages.extend([
            ChatMessage::new(Role::Assistant, said),
            ChatMessage::new(Role::User, "And three more?"),
        ]);
    }
}

#[test]
fn a_full_cache_makes_answers_and_scorings_wait_their_turn_without_doing_work_again_and_again() {
    let block = model().pool().block_bytes();
    let options = EngineOptions {
        kv_cache_bytes: 20 * block,
        prefill_chunk: 64,
        speculate: false,
        ..EngineOptions::default()
    };
    let (mut engine, _) = engine(options);
    assert_eq!(engine.window(), 20 * crate::kernels::KV_BLOCK_SIZE);
    let params = SamplingParams {
        max_tokens: 60,
        logit_bias: vec![(2, -100.0)],
        ..SamplingParams::default()
    };
    // the first two do not fit together, the third would fit beside either
    let endings: Vec<_> = [(12, 5), (10, 6), (4, 7)]
        .into_iter()
        .map(|(blocks, token)| {
            let (job, ending) = job(vec![token; blocks * 32 - 5], 0, params.clone(), usize::MAX);
            engine.submit(job);
            ending
        })
        .collect();
    let (mut steps, mut preempted) = (0, 0);
    while engine.has_work() {
        let report = engine.step().unwrap();
        (steps, preempted) = (steps + 1, preempted + report.preempted);
        assert!(steps < 400, "it does not come to an end");
    }
    assert!(preempted <= 3, "{preempted} times");
    endings.iter().for_each(|ending| {
        assert_eq!(ending.recv().unwrap().2.unwrap().usage.completion_tokens, 60)
    });
    // scorings that do not fit together run one after the other
    let scored: Vec<_> = (0..3)
        .map(|token| {
            let (sender, receiver) = sync_channel(1);
            engine.score(ScoreJob {
                prompt: vec![10 + token; 12 * 32 - 3],
                cacheable_prefix: 40,
                continuations: vec![vec![3; 40]; 5],
                adapter: None,
                cancelled: Box::new(|| false),
                reply: Box::new(move |scores| sender.send(scores).expect("the test waits")),
            });
            receiver
        })
        .collect();
    run(&mut engine);
    scored.iter().for_each(|scores| assert_eq!(scores.recv().unwrap().unwrap().len(), 5));
    // a scoring without continuations has no scores
    let (sender, receiver) = sync_channel(1);
    let reply = Box::new(move |scores| sender.send(scores).expect("the test waits"));
    let continuations = Vec::new();
    engine.score(ScoreJob {
        prompt: vec![1],
        cacheable_prefix: 0,
        continuations,
        adapter: None,
        cancelled: Box::new(|| false),
        reply,
    });
    assert!(receiver.recv().unwrap().unwrap().is_empty() && !engine.has_work());
}

#[test]
fn a_warm_step_allocates_only_for_emitted_text() {
    let (mut engine, text) = engine(EngineOptions { speculate: false, ..EngineOptions::default() });
    let folder = tempfile::tempdir().unwrap();
    let mut random = crate::testing::random();
    let config = ModelFiles::open(&default_model()).unwrap().config().clone();
    crate::testing::random_adapter(
        &config,
        folder.path(),
        8,
        &crate::lora::Target::ALL,
        &mut random,
    );
    let adapter = engine.load_adapter("random", folder.path()).unwrap();
    let steps = |engine: &mut Engine| {
        let params = SamplingParams {
            max_tokens: 60,
            logit_bias: vec![(2, -100.0)],
            ..SamplingParams::default()
        };
        let endings: Vec<_> = (0..4)
            .map(|index| {
                let (mut job, ending) = job(
                    prompt(&text, "Be brief.", "Count to ten.").0,
                    0,
                    params.clone(),
                    usize::MAX,
                );
                job.adapter = (index % 2 == 0).then(|| adapter.clone());
                engine.submit(job);
                ending
            })
            .collect();
        let mut taken = Vec::new();
        while engine.has_work() {
            let mut report = StepReport::default();
            let count = crate::testing::heap::taken_by(|| report = engine.step().unwrap());
            if report.prefill_tokens == 0 && report.running == 4 {
                taken.push((count, report.decode_tokens));
            }
        }
        drop(endings);
        taken
    };
    steps(&mut engine);
    let taken = steps(&mut engine);
    assert!(taken.len() > 40);
    // an allocation per word is its text: bytes, a piece, what the test collects; a sequence's own
    // lists grow by doubling
    let (total, words) = taken
        .iter()
        .fold((0, 0), |(total, words), (count, tokens)| (total + count, words + tokens));
    assert!(total <= 3 * words, "{total} for {words} words: {taken:?}");

    let model = model();
    let (mut step, mut logits) = (crate::model::Step::default(), Vec::new());
    let mut caches: Vec<_> = (0..4).map(|_| model.new_cache()).collect();
    let mut run = |caches: &mut Vec<crate::kv::KvCache>| {
        step.clear();
        for (index, kv) in caches.iter_mut().enumerate() {
            step.push(&[7 + index as u32], kv, None, crate::model::LogitRows::Last).unwrap();
        }
        model.run(&mut step, &mut logits).unwrap();
        caches.iter_mut().for_each(|kv| kv.advance(1));
    };
    (0..40).for_each(|_| run(&mut caches));
    caches.iter_mut().for_each(|kv| kv.truncate(2));
    assert_eq!(crate::testing::heap::taken_by(|| (0..36).for_each(|_| run(&mut caches))), 0);
}
