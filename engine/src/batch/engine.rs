//! The step loop's body.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};

use super::prefix::PrefixCache;
use super::sequence::{Sequence, continuation_logprobs};
use super::{EngineOptions, FinishReason, Finished, GenerateJob, StepReport, Usage};
use crate::Result;
use crate::comm::{Communicator, Whole};
use crate::error::EngineError;
use crate::kv::KvCache;
use crate::lora::{AdapterHandle, LoraAdapter};
use crate::model::{Llama, LogitRows, Segment};
use crate::score::{ContinuationScore, ScoreJob};
use crate::text::Text;
use crate::weights::{ModelFiles, ModelInfo};

/// A model on a device with its sequences. Not `Sync`: one device thread owns it.
pub struct Engine {
    model: Llama,
    info: ModelInfo,
    text: Arc<Text>,
    comm: Box<dyn Communicator>,
    options: EngineOptions,
    window: usize,
    prefixes: PrefixCache,
    scoring: VecDeque<Scoring>,
    waiting: VecDeque<(GenerateJob, Instant)>,
    running: Vec<Sequence>,
}

impl Engine {
    /// Loads weights on `device`.
    ///
    /// # Errors
    /// What [`Llama::load`] fails with.
    pub fn load(files: &ModelFiles, text: Arc<Text>, device: &Device, options: EngineOptions) -> Result<Self> {
        let model = Llama::load(files, options.quantisation, device)?;
        let own = model.config().context_length;
        let window = options.context_length.map_or(own, |limit| limit.min(own));
        Ok(Self {
            model,
            info: files.info().clone(),
            text,
            comm: Box::new(Whole),
            window,
            prefixes: PrefixCache::new(options.prefix_cache_bytes),
            options,
            scoring: VecDeque::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
        })
    }

    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Tokens a sequence may hold, prompt and answer together.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Loads a PEFT folder under `name`; the handle keeps it alive.
    ///
    /// # Errors
    /// What [`LoraAdapter::load`] fails with.
    pub fn load_adapter(&mut self, name: &str, folder: &Path) -> Result<AdapterHandle> {
        let adapter = LoraAdapter::load(folder, name, self.model.config(), &self.info.sha256, self.model.device())?;
        Ok(AdapterHandle(Arc::new(adapter)))
    }

    /// Queues a sequence; refuses at once (through the sink) what can never run. An answer that would outgrow the context window ends there as
    /// [`FinishReason::Length`].
    pub fn submit(&mut self, mut job: GenerateJob) {
        let refusal = self.check(&job.prompt, 1).and_then(|()| job.params.validate(self.info.vocabulary));
        match refusal {
            Ok(()) => {
                job.cacheable_prefix = job.cacheable_prefix.min(job.prompt.len() - 1);
                self.waiting.push_back((job, Instant::now()));
            }
            Err(error) => job.sink.finish(Err(error)),
        }
    }

    /// Queues a scoring, which runs before any answer does.
    pub fn score(&mut self, mut job: ScoreJob) {
        let longest = job.continuations.iter().map(Vec::len).max().unwrap_or(0);
        let refusal = self
            .check(&job.prompt, longest)
            .and_then(|()| if job.continuations.iter().any(Vec::is_empty) { Err(EngineError::EmptyPrompt) } else { Ok(()) });
        match refusal {
            Ok(()) => {
                job.cacheable_prefix = job.cacheable_prefix.min(job.prompt.len() - 1);
                self.scoring.push_back(Scoring { job, kv: None, last: Vec::new(), group: Vec::new(), scores: Vec::new() });
            }
            Err(error) => (job.reply)(Err(error)),
        }
    }

    fn check(&self, prompt: &[u32], more: usize) -> Result<()> {
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt.len() + more > self.window {
            return Err(EngineError::ContextOverflow { prompt: prompt.len(), max_tokens: more, window: self.window });
        }
        let vocabulary = self.info.vocabulary;
        match prompt.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(EngineError::TokenOutOfRange { token, vocabulary }),
            None => Ok(()),
        }
    }

    pub fn has_work(&self) -> bool {
        !(self.scoring.is_empty() && self.waiting.is_empty() && self.running.is_empty())
    }

    /// One step: a part of the first scoring if any waits, then one forward pass for all running sequences.
    ///
    /// # Errors
    /// The device failed: every sequence in the step has been told, and the engine is usable.
    pub fn step(&mut self) -> Result<StepReport> {
        let mut report = StepReport::default();
        if let Some(mut scoring) = self.scoring.pop_front() {
            let outcome = if (scoring.job.cancelled)() { Err(EngineError::Cancelled) } else { self.score_on(&mut scoring, &mut report) };
            match outcome {
                Ok(false) => self.scoring.push_front(scoring),
                Ok(true) => (scoring.job.reply)(Ok(scoring.scores)),
                Err(error) => (scoring.job.reply)(Err(error)),
            }
        }
        self.end_those_that_must();
        self.admit();
        let stepped = self.forward(&mut report);
        report.running = self.running.len();
        report.waiting = self.waiting.len() + self.scoring.len();
        report.kv_tokens = self.prefixes.tokens() + self.running.iter().map(|sequence| sequence.kv.len()).sum::<usize>();
        report.kv_bytes = self.prefixes.bytes() + self.running.iter().map(|sequence| sequence.kv.bytes()).sum::<usize>();
        stepped.map(|()| report)
    }

    /// Ends every sequence and scoring with `reason`; for shutdown and after a panic.
    pub fn abort_all(&mut self, reason: &dyn Fn() -> EngineError) {
        self.scoring.drain(..).for_each(|scoring| (scoring.job.reply)(Err(reason())));
        self.waiting.drain(..).for_each(|(job, _)| job.sink.finish(Err(reason())));
        self.running.drain(..).for_each(|sequence| sequence.fail(reason()));
    }

    fn end_those_that_must(&mut self) {
        let now = Instant::now();
        let mut index = 0;
        while index < self.running.len() {
            match self.running[index].must_end(now, self.window) {
                Some(reason) => {
                    let sequence = self.running.remove(index);
                    self.end(sequence, reason);
                }
                None => index += 1,
            }
        }
        // those that wait have their deadlines too
        for (job, submitted) in std::mem::take(&mut self.waiting) {
            let reason = if (job.cancelled)() {
                FinishReason::Cancelled
            } else if job.deadline.is_some_and(|deadline| now >= deadline) {
                FinishReason::Deadline
            } else {
                self.waiting.push_back((job, submitted));
                continue;
            };
            let usage = Usage { prompt_tokens: job.prompt.len(), ..Usage::default() };
            let queued = now.duration_since(submitted);
            job.sink.finish(Ok(Finished::unstarted(reason, usage, queued)));
        }
    }

    fn admit(&mut self) {
        while self.running.len() < self.options.max_batch {
            let Some((job, submitted)) = self.waiting.pop_front() else { return };
            let adapter = job.adapter.as_ref().map(|adapter| adapter.0.id());
            let kv = match self.prefixes.fork(adapter, &job.prompt, job.cacheable_prefix) {
                Ok(kv) => kv.unwrap_or_else(|| self.model.new_cache()),
                Err(error) => {
                    job.sink.finish(Err(error));
                    continue;
                }
            };
            self.running.push(Sequence::new(job, kv, submitted));
        }
    }

    /// Tokens each running sequence takes in this step, 0 for those whose chunk must wait: decoding ones always go; of prefill chunks, whole
    /// ones in the order of arrival up to `prefill_chunk` tokens, at least one.
    fn plan(&self) -> Vec<usize> {
        let mut budget = self.options.prefill_chunk;
        let mut first = true;
        self.running
            .iter()
            .map(|sequence| {
                let chunk = sequence.next_chunk(self.options.prefill_chunk);
                if !sequence.prefilling() {
                    return chunk;
                }
                if !first && chunk > budget {
                    // nothing that came later may overtake it
                    budget = 0;
                    return 0;
                }
                first = false;
                budget = budget.saturating_sub(chunk);
                chunk
            })
            .collect()
    }

    fn forward(&mut self, report: &mut StepReport) -> Result<()> {
        let plan = self.plan();
        let mut batch = Vec::with_capacity(plan.len());
        for (sequence, &chunk) in self.running.iter_mut().zip(&plan).filter(|(_, chunk)| **chunk > 0) {
            if sequence.prefilling() {
                report.prefill_tokens += chunk
            } else {
                report.decode_tokens += chunk
            }
            let start = sequence.kv.len();
            let logits = if start + chunk == sequence.tokens.len() { LogitRows::Last } else { LogitRows::None };
            let adapter = sequence.job.adapter.clone();
            batch.push(Segment { tokens: &sequence.tokens[start..start + chunk], kv: &mut sequence.kv, adapter, logits });
        }
        if batch.is_empty() {
            return Ok(());
        }
        let logits = match self.model.forward(&mut batch, &*self.comm).and_then(|logits| read_rows(&logits)) {
            Ok(logits) => logits,
            Err(error) => {
                let message = error.to_string();
                let stopped = || EngineError::Tensor(candle_core::Error::Msg(message.clone()));
                self.running.drain(..).for_each(|sequence| sequence.fail(stopped()));
                return Err(error);
            }
        };
        let mut rows = logits.chunks_exact(self.model.config().vocabulary);
        let mut ended = Vec::new();
        for (index, (sequence, _)) in self.running.iter_mut().zip(&plan).enumerate().filter(|(_, (_, chunk))| **chunk > 0) {
            if let Some(prefix) = sequence.cacheable_prefix().filter(|prefix| prefix.len() == sequence.kv.len()) {
                // a prefix that cannot be kept is computed again
                if let Err(error) = self.prefixes.keep(sequence.adapter_id(), prefix, &sequence.kv) {
                    tracing::warn!(%error, "a prefix was not kept");
                }
            }
            if sequence.kv.len() == sequence.tokens.len()
                && let Some(row) = rows.next()
                && let Some(reason) = sequence.accept(row, &self.text, self.window)
            {
                ended.push((index, reason));
            }
        }
        for (index, reason) in ended.into_iter().rev() {
            let sequence = self.running.remove(index);
            self.end(sequence, reason);
        }
        Ok(())
    }

    /// Keeps what the sequence leaves behind, then tells how it ended.
    fn end(&mut self, mut sequence: Sequence, reason: FinishReason) {
        let kv = std::mem::replace(&mut sequence.kv, self.model.new_cache());
        let tokens = sequence.tokens[..kv.len()].to_vec();
        self.prefixes.retire(sequence.adapter_id(), tokens, kv);
        sequence.finish(reason);
    }

    /// Takes a scoring further, by about a chunk of tokens: the prompt once, then its continuations as ragged batches over forks of its
    /// cache. True when it is done.
    fn score_on(&mut self, scoring: &mut Scoring, report: &mut StepReport) -> Result<bool> {
        let Scoring { job, kv, last, group, scores } = scoring;
        let adapter_id = job.adapter.as_ref().map(|adapter| adapter.0.id().to_owned());
        let prefix = &job.prompt[..job.cacheable_prefix];
        let kv = match kv {
            Some(kv) => kv,
            None => {
                let known = self.prefixes.fork(adapter_id.as_deref(), &job.prompt, prefix.len())?;
                kv.insert(known.unwrap_or_else(|| self.model.new_cache()))
            }
        };
        let mut budget = self.options.prefill_chunk;
        while kv.len() < job.prompt.len() {
            if budget == 0 {
                return Ok(false);
            }
            let done = kv.len();
            let boundary = if done < prefix.len() { prefix.len() } else { job.prompt.len() };
            let end = boundary.min(done + budget);
            let read = if end == job.prompt.len() { LogitRows::Last } else { LogitRows::None };
            let tokens = &job.prompt[done..end];
            let mut batch = [Segment { tokens, kv: &mut *kv, adapter: job.adapter.clone(), logits: read }];
            *last = read_rows(&self.model.forward(&mut batch, &*self.comm)?)?;
            report.prefill_tokens += tokens.len();
            budget -= tokens.len();
            if end == prefix.len() && end > 0 {
                self.prefixes.keep(adapter_id.as_deref(), prefix, kv)?;
            }
        }
        while scores.len() < job.continuations.len() {
            if budget == 0 {
                return Ok(false);
            }
            if group.is_empty() {
                let rest = &job.continuations[scores.len()..];
                for continuation in &rest[..rest.len().min(CONTINUATIONS)] {
                    // the first token's logits are the prompt's last
                    let logprobs = continuation_logprobs(std::iter::once(last.as_slice()), &continuation[..1]);
                    group.push((kv.fork(kv.len())?, logprobs));
                }
            }
            let mut batch = Vec::new();
            for ((kv, logprobs), continuation) in group.iter_mut().zip(&job.continuations[scores.len()..]) {
                let known = logprobs.len();
                let tokens = &continuation[known - 1..(continuation.len() - 1).min(known - 1 + budget)];
                if !tokens.is_empty() {
                    budget -= tokens.len();
                    batch.push(Segment { tokens, kv, adapter: job.adapter.clone(), logits: LogitRows::All });
                }
            }
            if !batch.is_empty() {
                let taken: Vec<usize> = batch.iter().map(|segment| segment.tokens.len()).collect();
                report.prefill_tokens += taken.iter().sum::<usize>();
                let logits = read_rows(&self.model.forward(&mut batch, &*self.comm)?)?;
                let mut rows = logits.chunks_exact(self.model.config().vocabulary);
                let mut taken = taken.into_iter();
                for ((_, logprobs), continuation) in group.iter_mut().zip(&job.continuations[scores.len()..]) {
                    let known = logprobs.len();
                    if known < continuation.len()
                        && let Some(taken) = taken.next()
                    {
                        logprobs.extend(continuation_logprobs(rows.by_ref().take(taken), &continuation[known..known + taken]));
                    }
                }
            }
            let done = group.iter().zip(&job.continuations[scores.len()..]).all(|((_, found), wanted)| found.len() == wanted.len());
            if done {
                report.scored += group.len();
                scores.extend(group.drain(..).map(|(_, logprobs)| ContinuationScore { logprobs }));
                // those of a single token cost nothing but the look
                budget = budget.saturating_sub(1);
            }
        }
        Ok(true)
    }
}

/// Continuations under way together: each has a fork of the prompt's cache.
const CONTINUATIONS: usize = 16;

/// A scoring on its way.
struct Scoring {
    job: ScoreJob,
    /// Holds what has been computed of the prompt.
    kv: Option<KvCache>,
    /// The logits after the prompt.
    last: Vec<f32>,
    /// The continuations under way: a fork of the cache, and the log-probabilities so far.
    group: Vec<(KvCache, Vec<f32>)>,
    scores: Vec<ContinuationScore>,
}

/// Logits `[rows, vocabulary]` on the host, row after row.
fn read_rows(logits: &Tensor) -> Result<Vec<f32>> {
    Ok(logits.flatten_all()?.to_vec1()?)
}
