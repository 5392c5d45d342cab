//! What is measured: the rows of the table, as requests that any engine can serve.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::Fallible;
use crate::adapters::COUNT;

/// Rows that are not measured by requests.
pub const DECISION: &str = "decision";
pub const BANDWIDTH: &str = "memory_bandwidth";
pub const PEAK: &str = "peak_memory";
/// Five sequences without adapters and with five, in immediate succession: the adapters' cost is a
/// difference of two times that vary by more than it.
pub const WITHOUT: &str = "five_without";
pub const WITH: &str = "five_with";
/// Such pairs per round.
pub const PAIRS: usize = 3;
/// Tokens of the master model's prompt in the decision row.
pub const MASTER: usize = 150;
/// Steps that generate five sequences of 8 + 128: the first is their prefill.
pub const SHORT_STEPS: usize = 128;
/// Samples per round of a latency row, which is short.
const REPEATS: usize = 5;

/// A prompt to be continued greedily by exactly `tokens` tokens.
pub struct Request {
    pub prompt: Vec<u32>,
    /// Number of leading prompt tokens shared with other requests; 0 disables prefix caching.
    pub prefix: usize,
    pub tokens: usize,
    pub adapter: Option<usize>,
    /// The server slot to use, for an engine with slots; `None` lets the engine choose.
    pub slot: Option<usize>,
}

pub trait Served {
    /// Serves all requests concurrently; returns the seconds until the last one has ended.
    fn serve(&mut self, requests: &[Request]) -> Fallible<f64>;
}

/// The work of one row in one round.
pub struct Plan {
    /// Served one after the other before timing starts.
    before: Vec<Request>,
    /// Each batch is served concurrently, and is one sample.
    timed: Vec<Vec<Request>>,
    /// Tokens counted for a sample's rate; without them the sample is its duration.
    tokens: Option<usize>,
}

impl Plan {
    /// Tokens per second, or milliseconds.
    pub fn measure(&self, engine: &mut dyn Served) -> Fallible<Vec<f64>> {
        for request in &self.before {
            engine.serve(std::slice::from_ref(request))?;
        }
        let sample = |requests: &Vec<Request>| {
            let seconds = engine.serve(requests)?;
            Ok(self.tokens.map_or(seconds * 1e3, |tokens| tokens as f64 / seconds))
        };
        self.timed.iter().map(sample).collect()
    }
}

pub struct Row {
    pub key: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    /// Whether Nyx is measured once more with speculative decoding, which matters where many tokens
    /// are generated.
    pub with_drafts: bool,
    /// Whether llama.cpp is measured too, and whether also on the Q4_0 file.
    pub of_llama: bool,
    pub of_q4_0: bool,
    pub plan: fn(&mut Prompts) -> Plan,
}

/// Prompts from a fixed seed.
pub struct Prompts(StdRng);

impl Prompts {
    pub fn new() -> Self {
        Self(StdRng::seed_from_u64(1))
    }

    /// Plain-text tokens, without control tokens.
    pub fn tokens(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.0.random_range(100..40_000)).collect()
    }

    fn request(&mut self, prompt: usize, tokens: usize, adapter: Option<usize>) -> Request {
        Request { prompt: self.tokens(prompt), prefix: 0, tokens, adapter, slot: None }
    }

    /// One sample of several concurrent sequences, of which the generated tokens count.
    fn sequences(
        &mut self,
        count: usize,
        prompt: usize,
        tokens: usize,
        adapter: impl Fn(usize) -> Option<usize>,
    ) -> Plan {
        let requests =
            (0..count).map(|index| self.request(prompt, tokens, adapter(index))).collect();
        Plan { before: Vec::new(), timed: vec![requests], tokens: Some(count * tokens) }
    }

    /// 20 tokens after the shared prefix.
    fn after(&mut self, shared: &[u32], adapter: usize, slot: Option<usize>) -> Request {
        let prompt = [shared, &self.tokens(20)].concat();
        Request { prompt, prefix: shared.len(), tokens: 1, adapter: Some(adapter), slot }
    }

    /// Both plans of a pair.
    pub fn pair(&mut self) -> [(&'static str, Plan); 2] {
        [
            (WITHOUT, self.sequences(COUNT, 8, SHORT_STEPS, |_| None)),
            (WITH, self.sequences(COUNT, 8, SHORT_STEPS, Some)),
        ]
    }

    /// Warms the shared prefix with each adapter; then measures all of them again in turn.
    fn turns(&mut self, pinned: bool) -> Plan {
        let shared = self.tokens(400);
        let all = |prompts: &mut Self| -> Vec<Request> {
            (0..COUNT)
                .map(|adapter| prompts.after(&shared, adapter, pinned.then_some(adapter)))
                .collect()
        };
        let (before, timed) = (all(self), all(self));
        Plan {
            before,
            timed: timed.into_iter().map(|request| vec![request]).collect(),
            tokens: None,
        }
    }
}

pub fn rows() -> Vec<Row> {
    let row = |key, title, unit, plan| Row {
        key,
        title,
        unit,
        with_drafts: false,
        of_llama: true,
        of_q4_0: false,
        plan,
    };
    let decoding =
        |key, title, plan| Row { with_drafts: true, ..row(key, title, "tokens/s", plan) };
    vec![
        Row {
            of_q4_0: true,
            ..row("prefill_512", "prefill of 512", "tokens/s", |prompts| Plan {
                before: Vec::new(),
                timed: vec![vec![prompts.request(512, 1, None)]],
                tokens: Some(512),
            })
        },
        Row {
            of_q4_0: true,
            ..decoding("decode_1", "decode, one sequence, 8 + 128", |prompts| {
                prompts.sequences(1, 8, 128, |_| None)
            })
        },
        decoding("five_no_adapter", "5 sequences, no adapter, 8 + 128", |prompts| {
            prompts.sequences(5, 8, 128, |_| None)
        }),
        decoding("five_one_adapter", "5 sequences, one shared adapter, 8 + 128", |prompts| {
            prompts.sequences(5, 8, 128, |_| Some(0))
        }),
        decoding("five_adapters_short", "5 sequences, 5 adapters, 8 + 128", |prompts| {
            prompts.sequences(COUNT, 8, 128, Some)
        }),
        decoding("five_adapters_long", "5 sequences, 5 adapters, 200 + 64", |prompts| {
            prompts.sequences(COUNT, 200, 64, Some)
        }),
        row("first_token_cold", "first token, 400 + 20, cold", "ms", |prompts| {
            let shared = prompts.tokens(400);
            Plan {
                before: Vec::new(),
                timed: vec![vec![prompts.after(&shared, 0, None)]],
                tokens: None,
            }
        }),
        row("first_token_warm", "first token, 400 + 20, warm", "ms", |prompts| {
            let shared = prompts.tokens(400);
            let before = vec![prompts.after(&shared, 0, None)];
            Plan {
                before,
                timed: (0..REPEATS).map(|_| vec![prompts.after(&shared, 0, None)]).collect(),
                tokens: None,
            }
        }),
        row(
            "first_token_turns",
            "first token, 400 + 20, warm, five adapters taking turns",
            "ms",
            |prompts| prompts.turns(false),
        ),
        row(
            "first_token_turns_pinned",
            "the same, the client keeping a slot for each adapter",
            "ms",
            |prompts| prompts.turns(true),
        ),
        Row {
            of_llama: false,
            with_drafts: true,
            ..row("answer_64", "an answer of 64 tokens after 60", "ms", |prompts| Plan {
                before: Vec::new(),
                timed: vec![vec![prompts.request(60, 64, None)]],
                tokens: None,
            })
        },
    ]
}

/// Seconds that `work` takes.
pub fn seconds(work: impl FnOnce() -> Fallible<()>) -> Fallible<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}
