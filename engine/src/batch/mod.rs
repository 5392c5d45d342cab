//! Continuous batching: one forward pass a step carries the prefill and decode tokens of sequences with different adapters.
//!
//! Decisions (scorings) go before answers; answers are taken up fairly by client; when blocks of the KV cache run out, prefixes are
//! dropped, then the youngest answers make room and are computed again later. None of this changes what is said on the kernels, where a
//! sequence's bits are its own. On candle's tensors they depend on where a text is cut: a prompt is cut where that sequence alone says (its
//! cacheable prefix, then every `prefill_chunk` tokens), and only an answer that had to make room is cut otherwise the second time.

mod draft;
mod engine;
mod fair;
mod plan;
mod prefix;
#[cfg(test)]
mod random_tests;
mod scoring;
mod sequence;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;
pub use engine::Engine;

use crate::lora::{AdapterHandle, AdapterPrecision};
use crate::sampling::SamplingParams;
use crate::weights::Quantisation;

/// A request to continue `prompt`.
pub struct GenerateJob {
    pub prompt: Vec<u32>,
    /// How many of the prompt's first tokens are worth keeping in the prefix cache (a specialist's system prompt); 0: none.
    pub cacheable_prefix: usize,
    pub params: SamplingParams,
    pub adapter: Option<AdapterHandle>,
    /// Whose it is (an API key's name): clients are served in fair turns.
    pub client: String,
    /// Asked before each step: when true the sequence ends as [`FinishReason::Cancelled`] and its room is freed.
    pub cancelled: Box<dyn Fn() -> bool + Send>,
    /// Ends as [`FinishReason::Deadline`] with what there is at this time.
    pub deadline: Option<Instant>,
    pub sink: Box<dyn TokenSink>,
}

/// Where a sequence's tokens go. Called on the device thread: must not block.
pub trait TokenSink: Send {
    /// More text. `Break` says that nobody listens any more: the sequence is cancelled.
    fn piece(&mut self, piece: Piece) -> ControlFlow<()>;
    /// The end; called exactly once, for a sequence that was admitted or refused.
    fn finish(self: Box<Self>, end: Result<Finished>);
}

/// Newly final text: may cover several tokens (a character of several bytes, a held-back stop string) or none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Piece {
    pub text: String,
    /// One entry a token when log-probabilities were asked for, else empty.
    pub logprobs: Vec<TokenLogprob>,
    /// Tokens sampled since the last piece.
    pub tokens: usize,
}

/// A sampled token's log-probability, before temperature and penalties.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    pub token: u32,
    pub bytes: Vec<u8>,
    pub logprob: f32,
    /// The best alternatives, best first.
    pub top: Vec<(u32, Vec<u8>, f32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End-of-turn token or a stop string.
    Stop,
    /// `max_tokens` or the context window.
    Length,
    /// The deadline came first.
    Deadline,
    Cancelled,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    /// Of the prompt's tokens, those that came from the prefix cache.
    pub cached_tokens: usize,
    pub completion_tokens: usize,
}

/// How a sequence ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub reason: FinishReason,
    pub usage: Usage,
    pub queued: Duration,
    pub prefill: Duration,
    pub decode: Duration,
    /// Mean and maximum entropy (nats) of the next-token distributions, and the mean log-probability of the tokens chosen: raw material for a confidence.
    pub mean_entropy: f32,
    pub max_entropy: f32,
    pub mean_logprob: f32,
}

/// What an engine is made with.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub quantisation: Quantisation,
    pub adapter_precision: AdapterPrecision,
    /// Sequences in one step at most.
    pub max_batch: usize,
    /// Prompt tokens in one step at most (chunked prefill).
    pub prefill_chunk: usize,
    /// Bytes the prefix cache may hold.
    pub prefix_cache_bytes: usize,
    /// Bytes that all keys and values may hold, on all shards together.
    pub kv_cache_bytes: usize,
    /// Guess tokens from what was said before, where it pays.
    pub speculate: bool,
    /// Upper bound on the context window; the model's own when `None`.
    pub context_length: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            quantisation: Quantisation::None,
            adapter_precision: AdapterPrecision::Int8,
            max_batch: 16,
            prefill_chunk: 256,
            prefix_cache_bytes: 256 << 20,
            kv_cache_bytes: 1 << 30,
            speculate: true,
            context_length: None,
        }
    }
}

/// What one step did, and where the engine stands after it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct StepReport {
    pub prefill_tokens: usize,
    /// Tokens sampled.
    pub decode_tokens: usize,
    /// Tokens drafted, and those of them that were right.
    pub drafted: usize,
    pub guessed_right: usize,
    /// Answers that had to make room, to be computed again.
    pub preempted: usize,
    pub scored: usize,
    pub running: usize,
    pub waiting: usize,
    /// KV positions held by sequences and prefixes, and their bytes.
    pub kv_tokens: usize,
    pub kv_bytes: usize,
}

impl Finished {
    /// Of a sequence that ended before it began.
    fn unstarted(reason: FinishReason, usage: Usage, queued: Duration) -> Self {
        let zero = Duration::ZERO;
        Self { reason, usage, queued, prefill: zero, decode: zero, mean_entropy: 0.0, max_entropy: 0.0, mean_logprob: 0.0 }
    }
}
