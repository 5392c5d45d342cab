//! Jobs of the engine, their results, and the engine's options.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use nyx_domain::TokenLogprob;
use serde::Serialize;

use crate::Result;
use crate::lora::{AdapterHandle, AdapterPrecision};
use crate::sampling::SamplingParams;
use crate::weights::Quantisation;

/// A request to continue `prompt`.
pub struct GenerateJob {
    /// The prompt in tokens.
    pub prompt: Vec<u32>,
    /// How many leading prompt tokens to keep in the prefix cache (a specialist's system prompt);
    /// 0: none.
    pub cacheable_prefix: usize,
    /// Sampling parameters.
    pub params: SamplingParams,
    /// The adapter; `None` for the base model.
    pub adapter: Option<AdapterHandle>,
    /// Opaque key of fair scheduling: jobs with different keys take turns. The actors pass a prefix of
    /// the digest of the API key.
    pub fairness_key: String,
    /// Polled before each step: when it returns true, the sequence ends as
    /// [`FinishReason::Cancelled`] and its blocks are freed.
    pub cancelled: Box<dyn Fn() -> bool + Send>,
    /// At this time the sequence ends as [`FinishReason::Deadline`] with the tokens it has.
    pub deadline: Option<Instant>,
    /// Receives the tokens and the end.
    pub sink: Box<dyn TokenSink>,
}

/// Receives a sequence's tokens. Called on the device thread: must not block.
pub trait TokenSink: Send {
    /// Receives more text. `Break` means that the receiver is gone: the sequence is cancelled.
    fn piece(&mut self, piece: Piece) -> ControlFlow<()>;
    /// The end; called exactly once per submitted sequence, admitted or rejected.
    fn finish(self: Box<Self>, end: Result<Finished>);
}

/// Newly final text: it may cover several tokens (a character of several bytes, a buffered partial
/// stop string) or none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// One entry per token when log-probabilities were requested, else empty.
    pub logprobs: Vec<TokenLogprob>,
    /// Tokens sampled since the last piece.
    pub tokens: usize,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End-of-turn token or a stop string.
    Stop,
    /// `max_tokens` or the context window.
    Length,
    /// The deadline passed.
    Deadline,
    /// The receiver is gone, or the job was cancelled.
    Cancelled,
}

/// Tokens of a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens taken from the prefix cache.
    pub cached_tokens: usize,
    /// Generated tokens.
    pub completion_tokens: usize,
}

/// How a sequence ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Its tokens.
    pub usage: Usage,
    /// Time in the queue.
    pub queued: Duration,
    /// Time until the first token was computed.
    pub prefill: Duration,
    /// Time from then to the end.
    pub decode: Duration,
    /// Mean and maximum entropy (nats) of the next-token distributions, and the mean
    /// log-probability of the chosen tokens: inputs of the confidence estimate.
    pub mean_entropy: f32,
    /// In nats.
    pub max_entropy: f32,
    /// In nats.
    pub mean_logprob: f32,
}

/// Options of an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Format of weights that the file does not quantise.
    pub quantisation: Quantisation,
    /// Format of adapters on the CPU kernels.
    pub adapter_precision: AdapterPrecision,
    /// Maximum number of sequences in one step.
    pub max_batch: usize,
    /// Maximum number of prompt tokens in one step (chunked prefill).
    pub prefill_chunk: usize,
    /// Byte budget of the prefix cache.
    pub prefix_cache_bytes: usize,
    /// Byte budget of all keys and values, on all shards together.
    pub kv_cache_bytes: usize,
    /// Enables speculative decoding with prompt lookup, where it pays off.
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

/// What one step did, and the state of the engine after it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct StepReport {
    /// Prompt tokens of the step.
    pub prefill_tokens: usize,
    /// Tokens sampled.
    pub decode_tokens: usize,
    /// Draft tokens, and how many of them were accepted.
    pub drafted: usize,
    /// Draft tokens that were accepted.
    pub accepted_drafts: usize,
    /// Sequences and scorings preempted, to be recomputed.
    pub preempted: usize,
    /// Tokens of scorings.
    pub scored: usize,
    /// Sequences that run.
    pub running: usize,
    /// Jobs that wait.
    pub waiting: usize,
    /// KV positions held by sequences and prefixes, and their bytes.
    pub kv_tokens: usize,
    /// Bytes of KV blocks in use.
    pub kv_bytes: usize,
}

impl Finished {
    /// For a sequence that ended before it was admitted.
    pub(super) fn unstarted(reason: FinishReason, usage: Usage, queued: Duration) -> Self {
        let zero = Duration::ZERO;
        Self {
            reason,
            usage,
            queued,
            prefill: zero,
            decode: zero,
            mean_entropy: 0.0,
            max_entropy: 0.0,
            mean_logprob: 0.0,
        }
    }
}
