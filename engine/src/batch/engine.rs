//! The engine and its step.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, DeviceLocation};

use super::draft::StepCost;
use super::fair::{Client, FairQueue};
use super::job::{EngineOptions, FinishReason, Finished, GenerateJob, StepReport, Usage};
use super::prefix::PrefixCache;
use super::scoring::Scoring;
use super::sequence::Sequence;
use crate::Result;
use crate::device::DeviceSpec;
use crate::error::EngineError;
use crate::kernels::KV_BLOCK_SIZE;
use crate::lora::AdapterHandle;
use crate::model::{Llama, Rank, Step};
use crate::score::ScoreJob;
use crate::text::Text;
use crate::weights::{ModelFiles, ModelInfo};

/// A model on a device, or on a group of devices, with its sequences. Not `Sync`: the thread of the
/// rank 0 device owns it.
pub struct Engine {
    pub(super) model: Llama,
    pub(super) info: ModelInfo,
    pub(super) text: Arc<Text>,
    pub(super) options: EngineOptions,
    pub(super) window: usize,
    pub(super) prefixes: PrefixCache,
    pub(super) scoring: VecDeque<Scoring>,
    /// Scorings of the current step that are not done; they are put back at the front of the queue.
    pub(super) unfinished: Vec<Scoring>,
    pub(super) waiting: FairQueue<(GenerateJob, Instant)>,
    /// In order of admission.
    pub(super) running: Vec<Sequence>,
    pub(super) cost: StepCost,
    pub(super) step: Step,
    pub(super) logits: Vec<f32>,
    /// Indices into `running` of the sequences in the current step, in the order of their rows.
    pub(super) order: Vec<usize>,
}

impl Engine {
    /// Loads weights on `device`.
    ///
    /// # Errors
    /// Those of [`Llama::load`].
    pub fn load(
        files: &ModelFiles,
        text: Arc<Text>,
        device: &Device,
        options: EngineOptions,
    ) -> Result<Self> {
        let spec = match device.location() {
            DeviceLocation::Cuda { gpu_id } => DeviceSpec::Cuda(gpu_id),
            _ => DeviceSpec::Cpu,
        };
        Self::load_group(files, text, spec, Rank::alone(), options)
    }

    /// Loads the leading shard of a group whose other ranks are
    /// [`Follower`](crate::model::Follower)s.
    ///
    /// # Errors
    /// Those of [`Llama::load_shard`].
    pub fn load_group(
        files: &ModelFiles,
        text: Arc<Text>,
        device: DeviceSpec,
        rank: Rank,
        options: EngineOptions,
    ) -> Result<Self> {
        let model =
            Llama::load_shard(files, options.quantisation, device, rank, options.kv_cache_bytes)?;
        let own = model.config().context_length;
        let window = options
            .context_length
            .map_or(own, |limit| limit.min(own))
            .min(model.pool().capacity() * KV_BLOCK_SIZE);
        Ok(Self {
            model,
            info: files.info().clone(),
            text,
            window,
            prefixes: PrefixCache::new(options.prefix_cache_bytes),
            options,
            scoring: VecDeque::new(),
            unfinished: Vec::new(),
            waiting: FairQueue::new(),
            running: Vec::new(),
            cost: StepCost::default(),
            step: Step::default(),
            logits: Vec::new(),
            order: Vec::new(),
        })
    }

    /// The model that is loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Maximum tokens of a sequence, prompt and answer together.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Loads a PEFT folder under `name`; the adapter stays loaded as long as its handle exists.
    ///
    /// # Errors
    /// Those of [`LoraAdapter::load`](crate::LoraAdapter::load).
    pub fn load_adapter(&mut self, name: &str, folder: &Path) -> Result<AdapterHandle> {
        self.model.load_adapter(name, folder, &self.info.sha256, self.options.adapter_precision)
    }

    /// Drops the prefix cache's entries of an adapter that will not be requested again.
    pub fn forget_adapter(&mut self, id: &str) {
        self.prefixes.forget(id);
    }

    /// Queues a sequence; rejects an invalid job at once, through its sink. An answer that reaches
    /// the context window ends there with [`FinishReason::Length`].
    pub fn submit(&mut self, mut job: GenerateJob) {
        let refusal =
            self.check(&job.prompt, 1).and_then(|()| job.params.validate(self.info.vocabulary));
        match refusal {
            Ok(()) => {
                job.cacheable_prefix = job.cacheable_prefix.min(job.prompt.len() - 1);
                let client: Client = (
                    job.fairness_key.clone(),
                    job.adapter.as_ref().map(|adapter| adapter.0.id().to_owned()),
                );
                self.waiting.push(client, (job, Instant::now()));
            }
            Err(error) => job.sink.finish(Err(error)),
        }
    }

    /// Queues a scoring; scorings run before answers.
    pub fn score(&mut self, mut job: ScoreJob) {
        let longest = job.continuations.iter().map(Vec::len).max().unwrap_or(0);
        let vocabulary = self.info.vocabulary;
        let outside =
            job.continuations.iter().flatten().find(|&&token| token as usize >= vocabulary);
        let refusal = self.check(&job.prompt, longest).and_then(|()| match outside {
            _ if job.continuations.iter().any(Vec::is_empty) => Err(EngineError::EmptyPrompt),
            Some(&token) => Err(EngineError::TokenOutOfRange { token, vocabulary }),
            None if Scoring::least(&job) > self.model.pool().capacity() => {
                Err(EngineError::OutOfBlocks {
                    blocks: self.model.pool().capacity(),
                    tokens: KV_BLOCK_SIZE,
                })
            }
            None => Ok(()),
        });
        match refusal {
            Ok(()) if job.continuations.is_empty() => (job.reply)(Ok(Vec::new())),
            Ok(()) => {
                job.cacheable_prefix = job.cacheable_prefix.min(job.prompt.len() - 1);
                self.scoring.push_back(Scoring::new(job));
            }
            Err(error) => (job.reply)(Err(error)),
        }
    }

    fn check(&self, prompt: &[u32], more: usize) -> Result<()> {
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt.len() + more > self.window {
            return Err(EngineError::ContextOverflow {
                prompt: prompt.len(),
                max_tokens: more,
                window: self.window,
            });
        }
        let vocabulary = self.info.vocabulary;
        match prompt.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(EngineError::TokenOutOfRange { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Whether every shard is alive; a group that has lost a shard fails every step.
    pub fn is_whole(&self) -> bool {
        self.model.is_whole()
    }

    /// Whether anything runs or waits.
    pub fn has_work(&self) -> bool {
        !(self.scoring.is_empty() && self.waiting.is_empty() && self.running.is_empty())
    }

    /// Runs one forward pass over the scorings and all running sequences.
    ///
    /// # Errors
    /// When the device fails: every sequence and scoring in the step has received an error, and the
    /// engine stays usable.
    pub fn step(&mut self) -> Result<StepReport> {
        let mut report = StepReport::default();
        self.end_those_that_must();
        self.admit();
        self.step.clear();
        let scored = self.plan_scorings(&mut report);
        self.plan_sequences(&mut report);
        let stepped = self.run(scored, &mut report);
        report.running = self.running.len();
        report.waiting = self.waiting.len() + self.scoring.len();
        report.kv_tokens = self.prefixes.tokens()
            + self.running.iter().map(|sequence| sequence.kv.len()).sum::<usize>();
        report.kv_bytes = self.model.pool().bytes();
        stepped.map(|()| report)
    }

    /// Ends every sequence and scoring with the error `reason`; for shutdown and after a panic.
    pub fn abort_all(&mut self, reason: &dyn Fn() -> EngineError) {
        self.scoring.drain(..).for_each(|scoring| (scoring.job.reply)(Err(reason())));
        self.waiting
            .remove_if(|_| true)
            .into_iter()
            .for_each(|(job, _)| job.sink.finish(Err(reason())));
        for sequence in self.running.drain(..) {
            self.waiting.done(&sequence.client);
            sequence.fail(reason());
        }
    }

    fn end_those_that_must(&mut self) {
        let now = Instant::now();
        for _ in 0..self.scoring.len() {
            match self.scoring.pop_front() {
                Some(scoring) if (scoring.job.cancelled)() => {
                    (scoring.job.reply)(Err(EngineError::Cancelled))
                }
                Some(scoring) => self.scoring.push_back(scoring),
                None => {}
            }
        }
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
        // queued jobs have deadlines too
        let late = |job: &GenerateJob| job.deadline.is_some_and(|deadline| now >= deadline);
        for (job, submitted) in self.waiting.remove_if(|(job, _)| (job.cancelled)() || late(job)) {
            let reason = if late(&job) { FinishReason::Deadline } else { FinishReason::Cancelled };
            let usage = Usage { prompt_tokens: job.prompt.len(), ..Usage::default() };
            let queued = now.duration_since(submitted);
            job.sink.finish(Ok(Finished::unstarted(reason, usage, queued)));
        }
    }

    fn admit(&mut self) {
        while self.running.len() < self.options.max_batch {
            let Some((client, (job, submitted))) = self.waiting.pop() else { return };
            let adapter = job.adapter.as_ref().map(|adapter| adapter.0.id());
            let kv = self
                .prefixes
                .fork(adapter, &job.prompt, job.cacheable_prefix)
                .unwrap_or_else(|| self.model.new_cache());
            self.waiting.charge(&client, job.prompt.len() - kv.len(), 0);
            self.running.push(Sequence::new(job, client, kv, submitted));
        }
    }

    /// Runs the step and delivers its results to the scorings and sequences.
    fn run(&mut self, scored: usize, report: &mut StepReport) -> Result<()> {
        if !self.step.is_empty() {
            let begun = Instant::now();
            if let Err(error) = self.model.run(&mut self.step, &mut self.logits) {
                let message = error.to_string();
                let stopped = || EngineError::Tensor(candle_core::Error::Msg(message.clone()));
                self.scoring
                    .drain(..scored)
                    .for_each(|scoring| (scoring.job.reply)(Err(stopped())));
                for sequence in self.running.drain(..) {
                    self.waiting.done(&sequence.client);
                    sequence.fail(stopped());
                }
                return Err(error);
            }
            if report.prefill_tokens == 0 {
                self.cost.observe(self.step.tokens.len(), begun.elapsed().as_secs_f64());
            }
        }
        let logits = std::mem::take(&mut self.logits);
        let mut rows = logits.chunks_exact(self.model.config().vocabulary);
        for _ in 0..scored {
            if let Some(scoring) = self.scoring.pop_front()
                && let Some(unfinished) = self.take_scores(scoring, &mut rows, report)
            {
                self.unfinished.push(unfinished);
            }
        }
        while let Some(scoring) = self.unfinished.pop() {
            self.scoring.push_front(scoring);
        }
        self.take_tokens(&mut rows, report);
        self.logits = logits;
        Ok(())
    }

    /// Applies the step's rows to a scoring; returns it if it is not done.
    fn take_scores<'a>(
        &mut self,
        mut scoring: Scoring,
        rows: &mut impl Iterator<Item = &'a [f32]>,
        report: &mut StepReport,
    ) -> Option<Scoring> {
        report.scored += scoring.take(rows);
        if let Some(kv) = &scoring.kv
            && !scoring.kept
            && scoring.job.cacheable_prefix > 0
            && kv.len() >= scoring.job.cacheable_prefix
        {
            self.prefixes.keep(
                scoring.adapter_id(),
                &scoring.job.prompt[..scoring.job.cacheable_prefix],
                kv,
            );
            scoring.kept = true;
        }
        if !scoring.is_done() {
            return Some(scoring);
        }
        let (job, scores) = scoring.into_scores();
        (job.reply)(Ok(scores));
        None
    }

    fn take_tokens<'a>(
        &mut self,
        rows: &mut impl Iterator<Item = &'a [f32]>,
        report: &mut StepReport,
    ) {
        let mut ended: Vec<(usize, FinishReason)> = Vec::new();
        for &index in &self.order {
            let sequence = &mut self.running[index];
            let draft = sequence.draft.clone();
            sequence.kv.advance(sequence.taken - draft.len());
            let adapter = sequence.job.adapter.clone();
            if let Some(prefix) = sequence.prefix_to_keep() {
                let prefix = prefix.to_vec();
                self.prefixes.keep(
                    adapter.as_ref().map(|adapter| adapter.0.id()),
                    &prefix,
                    &sequence.kv,
                );
            }
            if sequence.kv.len() < sequence.tokens.len() {
                continue;
            }
            let before = sequence.tokens.len();
            let (mut end, mut open) = (None, true);
            for place in 0..=draft.len() {
                let Some(row) = rows.next() else { break };
                // rows after the first rejected draft token belong to another text
                if open {
                    end = sequence.accept(row, &self.text, self.window);
                    let right = sequence
                        .tokens
                        .get(draft.start + place)
                        .filter(|_| place < draft.len() && end.is_none());
                    open = right.is_some() && right == sequence.tokens.last();
                    sequence.kv.advance(usize::from(open));
                }
            }
            let sampled = sequence.tokens.len() - before;
            report.decode_tokens += sampled;
            if !draft.is_empty() {
                sequence.acceptance.observe(draft.len(), sampled.saturating_sub(1));
                report.drafted += draft.len();
                report.accepted_drafts += sampled.saturating_sub(1);
            }
            sequence.kv.truncate(sequence.tokens.len() - 1);
            self.waiting.charge(&sequence.client, 0, sampled);
            if let Some(reason) = end {
                ended.push((index, reason));
            }
        }
        ended.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, reason) in ended {
            let sequence = self.running.remove(index);
            self.end(sequence, reason);
        }
    }

    /// Moves the sequence's keys and values into the prefix cache, then reports how it ended.
    fn end(&mut self, mut sequence: Sequence, reason: FinishReason) {
        self.waiting.done(&sequence.client);
        let kv = std::mem::replace(&mut sequence.kv, self.model.new_cache());
        let tokens = sequence.tokens[..kv.len()].to_vec();
        self.prefixes.retire(sequence.adapter_id(), tokens, kv);
        sequence.finish(reason);
    }
}
