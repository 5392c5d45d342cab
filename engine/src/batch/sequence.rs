//! One running sequence: its tokens, keys and values, sampler and output stream.

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use nyx_domain::TokenLogprob;

use super::draft::Acceptance;
use super::fair::Client;
use super::job::{FinishReason, Finished, GenerateJob, Piece, Usage};
use crate::EngineError;
use crate::kv::KvCache;
use crate::sampling::{Sampler, best_tokens};
use crate::text::{StopMatcher, Text, Utf8Stream};

pub(super) struct Sequence {
    /// The prompt, then the sampled tokens.
    pub(super) tokens: Vec<u32>,
    pub(super) kv: KvCache,
    pub(super) job: GenerateJob,
    pub(super) client: Client,
    /// Tokens of this step, including draft tokens.
    pub(super) taken: usize,
    /// The range of `tokens` that is used as draft tokens.
    pub(super) draft: Range<usize>,
    pub(super) acceptance: Acceptance,
    /// Whether the cacheable prefix has been added to the prefix cache.
    pub(super) kept: bool,
    prompt_tokens: usize,
    cached_tokens: usize,
    sampler: Sampler,
    utf8: Utf8Stream,
    stop: StopMatcher,
    /// Log-probabilities of tokens whose text is still buffered.
    pending_logprobs: Vec<TokenLogprob>,
    pending_tokens: usize,
    submitted: Instant,
    admitted: Instant,
    first_token: Option<Instant>,
    entropy_sum: f64,
    entropy_max: f32,
    logprob_sum: f64,
}

impl Sequence {
    /// `kv` holds a cached prefix of the prompt, or nothing.
    pub(super) fn new(
        mut job: GenerateJob,
        client: Client,
        kv: KvCache,
        submitted: Instant,
    ) -> Self {
        let tokens = std::mem::take(&mut job.prompt);
        let params = job.params.clone();
        let cached_tokens = kv.len();
        Self {
            prompt_tokens: tokens.len(),
            sampler: Sampler::new(params.clone(), &tokens),
            tokens,
            kv,
            job,
            client,
            taken: 0,
            draft: 0..0,
            acceptance: Acceptance::default(),
            kept: false,
            cached_tokens,
            utf8: Utf8Stream::default(),
            stop: StopMatcher::new(params.stop),
            pending_logprobs: Vec::new(),
            pending_tokens: 0,
            submitted,
            admitted: Instant::now(),
            first_token: None,
            entropy_sum: 0.0,
            entropy_max: 0.0,
            logprob_sum: 0.0,
        }
    }

    pub(super) fn adapter_id(&self) -> Option<&str> {
        self.job.adapter.as_ref().map(|adapter| adapter.0.id())
    }

    /// The cacheable prefix, once, when it has been computed.
    pub(super) fn prefix_to_keep(&mut self) -> Option<&[u32]> {
        let prefix = self.job.cacheable_prefix;
        if self.kept || prefix == 0 || self.kv.len() < prefix {
            return None;
        }
        self.kept = true;
        Some(&self.tokens[..prefix])
    }

    pub(super) fn prefilling(&self) -> bool {
        self.kv.len() + 1 < self.tokens.len() || self.completion_tokens() == 0
    }

    pub(super) fn completion_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Maximum number of tokens for the next step: one when decoding; when prefilling on the CPU
    /// kernels, all that are left, up to `chunk`. With candle's tensors the bits depend on the
    /// split, so a chunk ends at a boundary that depends on this sequence alone: the end of its
    /// cacheable prefix, then every `chunk` tokens.
    pub(super) fn next_chunk(&self, chunk: usize) -> usize {
        let done = self.kv.len();
        let left = self.tokens.len() - done;
        let prefix = self.job.cacheable_prefix;
        let to_boundary =
            if done < prefix && !self.kv.cut_anywhere() { chunk.min(prefix - done) } else { chunk };
        left.min(to_boundary)
    }

    /// Tokens that may still be sampled.
    pub(super) fn left(&self, window: usize) -> usize {
        let of_answer = self.sampler.params().max_tokens.saturating_sub(self.completion_tokens());
        of_answer.min(window.saturating_sub(self.tokens.len()))
    }

    /// The reason to end before another step, if there is one.
    pub(super) fn must_end(&self, now: Instant, window: usize) -> Option<FinishReason> {
        if (self.job.cancelled)() {
            Some(FinishReason::Cancelled)
        } else if self.job.deadline.is_some_and(|deadline| now >= deadline) {
            Some(FinishReason::Deadline)
        } else if self.tokens.len() > window {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// Samples the next token from `logits` and sends the text that it completes; returns the
    /// finish reason if the sequence ends with it.
    pub(super) fn accept(
        &mut self,
        logits: &[f32],
        text: &Text,
        window: usize,
    ) -> Option<FinishReason> {
        let (token, stats) = self.sampler.sample(logits);
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        self.entropy_sum += f64::from(stats.entropy);
        self.entropy_max = self.entropy_max.max(stats.entropy);
        self.logprob_sum += f64::from(stats.logprob);
        self.pending_tokens += 1;
        if text.end_tokens().contains(&token) {
            let held = self.utf8.finish();
            return Some(self.show_rest(&held, FinishReason::Stop));
        }
        if let Some(count) = self.sampler.params().logprobs {
            let top = best_tokens(logits, count).into_iter();
            let top = top
                .map(|id| {
                    (id, text.token_bytes(id).to_vec(), logits[id as usize] - stats.log_normaliser)
                })
                .collect();
            self.pending_logprobs.push(TokenLogprob {
                token,
                bytes: text.token_bytes(token).to_vec(),
                logprob: stats.logprob,
                top,
            });
        }
        let new = self.utf8.push(text.token_bytes(token));
        let (shown, stopped) = self.stop.push(&new);
        if stopped {
            let _ = self.send(shown);
            return Some(FinishReason::Stop);
        }
        if self.completion_tokens() >= self.sampler.params().max_tokens
            || self.tokens.len() >= window
        {
            let tail = self.utf8.finish();
            let (more, stopped) = self.stop.push(&tail);
            let reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
            let rest = if stopped { String::new() } else { self.stop.finish() };
            let _ = self.send(shown + &more + &rest);
            return Some(reason);
        }
        match self.send(shown) {
            ControlFlow::Break(()) => Some(FinishReason::Cancelled),
            ControlFlow::Continue(()) => None,
        }
    }

    /// Sends `text` and the text buffered as a possible stop string.
    fn show_rest(&mut self, text: &str, reason: FinishReason) -> FinishReason {
        let (shown, stopped) = self.stop.push(text);
        let rest = if stopped { String::new() } else { self.stop.finish() };
        // the sequence ends whether or not the receiver is gone
        let _ = self.send(shown + &rest);
        reason
    }

    fn send(&mut self, text: String) -> ControlFlow<()> {
        let piece = Piece {
            text,
            logprobs: std::mem::take(&mut self.pending_logprobs),
            tokens: std::mem::take(&mut self.pending_tokens),
        };
        self.job.sink.piece(piece)
    }

    /// Reports to the sink how the sequence ended.
    pub(super) fn finish(mut self, reason: FinishReason) {
        if matches!(reason, FinishReason::Deadline) {
            let held = self.utf8.finish();
            self.show_rest(&held, reason);
        }
        let (now, completion_tokens) = (Instant::now(), self.completion_tokens());
        let prefilled = self.first_token.unwrap_or(now);
        let per_token = |sum: f64| {
            if completion_tokens == 0 { 0.0 } else { (sum / completion_tokens as f64) as f32 }
        };
        let finished = Finished {
            reason,
            usage: Usage {
                prompt_tokens: self.prompt_tokens,
                cached_tokens: self.cached_tokens,
                completion_tokens,
            },
            queued: self.admitted.duration_since(self.submitted),
            prefill: prefilled.duration_since(self.admitted),
            decode: if self.first_token.is_some() {
                now.duration_since(prefilled)
            } else {
                Duration::ZERO
            },
            mean_entropy: per_token(self.entropy_sum),
            max_entropy: self.entropy_max,
            mean_logprob: per_token(self.logprob_sum),
        };
        self.job.sink.finish(Ok(finished));
    }

    pub(super) fn fail(self, error: EngineError) {
        self.job.sink.finish(Err(error));
    }
}
