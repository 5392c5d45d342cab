//! The step loop's body.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, DeviceLocation};

use super::draft::{StepCost, look_up, worthwhile};
use super::fair::{Client, FairQueue};
use super::prefix::PrefixCache;
use super::scoring::Scoring;
use super::sequence::Sequence;
use super::{EngineOptions, FinishReason, Finished, GenerateJob, StepReport, Usage};
use crate::Result;
use crate::device::DeviceSpec;
use crate::error::EngineError;
use crate::kernels::KEYS;
use crate::lora::AdapterHandle;
use crate::model::{Llama, LogitRows, Seat, Step};
use crate::score::ScoreJob;
use crate::text::Text;
use crate::weights::{ModelFiles, ModelInfo};

/// A model on a device, or on a group of them, with its sequences. Not `Sync`: the leading device's thread owns it.
pub struct Engine {
    model: Llama,
    info: ModelInfo,
    text: Arc<Text>,
    options: EngineOptions,
    window: usize,
    prefixes: PrefixCache,
    scoring: VecDeque<Scoring>,
    /// Of this step's, those that are not done; they keep their places.
    unfinished: Vec<Scoring>,
    waiting: FairQueue<(GenerateJob, Instant)>,
    /// In the order of admission.
    running: Vec<Sequence>,
    cost: StepCost,
    step: Step,
    logits: Vec<f32>,
    /// Sequences of the step under way, in the order of their rows.
    order: Vec<usize>,
}

impl Engine {
    /// Loads weights on `device`.
    ///
    /// # Errors
    /// What [`Llama::load`] fails with.
    pub fn load(files: &ModelFiles, text: Arc<Text>, device: &Device, options: EngineOptions) -> Result<Self> {
        let spec = match device.location() {
            DeviceLocation::Cuda { gpu_id } => DeviceSpec::Cuda(gpu_id),
            _ => DeviceSpec::Cpu,
        };
        Self::load_group(files, text, spec, Seat::alone(), options)
    }

    /// Loads the leading shard of a group whose other seats are taken by [`Follower`](crate::model::Follower)s.
    ///
    /// # Errors
    /// What [`Llama::load_shard`] fails with.
    pub fn load_group(files: &ModelFiles, text: Arc<Text>, device: DeviceSpec, seat: Seat, options: EngineOptions) -> Result<Self> {
        let model = Llama::load_shard(files, options.quantisation, device, seat, options.kv_cache_bytes)?;
        let own = model.config().context_length;
        let window = options.context_length.map_or(own, |limit| limit.min(own)).min(model.pool().most() * KEYS);
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
    /// What [`LoraAdapter::load`](crate::LoraAdapter::load) fails with.
    pub fn load_adapter(&mut self, name: &str, folder: &Path) -> Result<AdapterHandle> {
        self.model.load_adapter(name, folder, &self.info.sha256)
    }

    /// Queues a sequence; refuses at once (through the sink) what can never run. An answer that would outgrow the context window ends there as
    /// [`FinishReason::Length`].
    pub fn submit(&mut self, mut job: GenerateJob) {
        let refusal = self.check(&job.prompt, 1).and_then(|()| job.params.validate(self.info.vocabulary));
        match refusal {
            Ok(()) => {
                job.cacheable_prefix = job.cacheable_prefix.min(job.prompt.len() - 1);
                let client: Client = (job.client.clone(), job.adapter.as_ref().map(|adapter| adapter.0.id().to_owned()));
                self.waiting.push(client, (job, Instant::now()));
            }
            Err(error) => job.sink.finish(Err(error)),
        }
    }

    /// Queues a scoring, which runs before any answer does.
    pub fn score(&mut self, mut job: ScoreJob) {
        let longest = job.continuations.iter().map(Vec::len).max().unwrap_or(0);
        let vocabulary = self.info.vocabulary;
        let outside = job.continuations.iter().flatten().find(|&&token| token as usize >= vocabulary);
        let refusal = self.check(&job.prompt, longest).and_then(|()| match outside {
            _ if job.continuations.iter().any(Vec::is_empty) => Err(EngineError::EmptyPrompt),
            Some(&token) => Err(EngineError::TokenOutOfRange { token, vocabulary }),
            None if Scoring::least(&job) > self.model.pool().most() => {
                Err(EngineError::OutOfBlocks { blocks: self.model.pool().most(), tokens: KEYS })
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
            return Err(EngineError::ContextOverflow { prompt: prompt.len(), max_tokens: more, window: self.window });
        }
        let vocabulary = self.info.vocabulary;
        match prompt.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(EngineError::TokenOutOfRange { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Whether every shard is there; a group that has lost one only fails.
    pub fn is_whole(&self) -> bool {
        self.model.is_whole()
    }

    pub fn has_work(&self) -> bool {
        !(self.scoring.is_empty() && self.waiting.is_empty() && self.running.is_empty())
    }

    /// One forward pass for the scorings and all running sequences.
    ///
    /// # Errors
    /// The device failed: everything in the step has been told, and the engine is usable.
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
        report.kv_tokens = self.prefixes.tokens() + self.running.iter().map(|sequence| sequence.kv.len()).sum::<usize>();
        report.kv_bytes = self.model.pool().bytes();
        stepped.map(|()| report)
    }

    /// Ends every sequence and scoring with `reason`; for shutdown and after a panic.
    pub fn abort_all(&mut self, reason: &dyn Fn() -> EngineError) {
        self.scoring.drain(..).for_each(|scoring| (scoring.job.reply)(Err(reason())));
        self.waiting.remove_if(|_| true).into_iter().for_each(|(job, _)| job.sink.finish(Err(reason())));
        for sequence in self.running.drain(..) {
            self.waiting.done(&sequence.client);
            sequence.fail(reason());
        }
    }

    fn end_those_that_must(&mut self) {
        let now = Instant::now();
        for _ in 0..self.scoring.len() {
            match self.scoring.pop_front() {
                Some(scoring) if (scoring.job.cancelled)() => (scoring.job.reply)(Err(EngineError::Cancelled)),
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
        // those that wait have their deadlines too
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
            let kv = self.prefixes.fork(adapter, &job.prompt, job.cacheable_prefix).unwrap_or_else(|| self.model.new_cache());
            self.waiting.charge(&client, job.prompt.len() - kv.len(), 0);
            self.running.push(Sequence::new(job, client, kv, submitted));
        }
    }

    /// Frees blocks until `wanted` are there: of prefixes, then of the youngest sequences after the first `older`, then of the last scorings
    /// after the first `before`; those are computed again later. When all that is not enough, nothing is given up, and it says false.
    fn make_room(&mut self, wanted: usize, older: usize, before: usize, report: &mut StepReport) -> bool {
        let pool = self.model.pool();
        if pool.room() >= wanted {
            return true;
        }
        let sequences = self.running.iter().skip(older).filter(|sequence| sequence.taken == 0).map(|sequence| &sequence.kv);
        let scorings = self.scoring.iter().skip(before).filter_map(|scoring| scoring.kv.as_ref());
        // a lower bound: continuations under way have blocks as well
        if pool.room() + pool.freed_by(self.prefixes.caches().chain(sequences).chain(scorings)) < wanted {
            return false;
        }
        while self.model.pool().room() < wanted {
            if self.prefixes.drop_oldest() {
                continue;
            }
            let youngest = self.running.iter_mut().skip(older).rev().find(|sequence| !sequence.kv.is_empty() && sequence.taken == 0);
            if let Some(youngest) = youngest {
                youngest.kv.truncate(0);
                report.preempted += 1;
                continue;
            }
            let Some(last) = self.scoring.iter_mut().skip(before).rev().find(|scoring| scoring.kv.is_some()) else { return false };
            last.make_room();
            report.preempted += 1;
        }
        true
    }

    /// The first scoring goes on with as few blocks as there may be: everything else makes room for it.
    fn make_room_for_first(&mut self, scored: usize, report: &mut StepReport) -> bool {
        if scored > 0 {
            return false;
        }
        let all = self.model.pool().most();
        while self.model.pool().room() < all && self.prefixes.drop_oldest() {}
        for sequence in self.running.iter_mut().filter(|sequence| !sequence.kv.is_empty()) {
            sequence.kv.truncate(0);
            report.preempted += 1;
        }
        for scoring in self.scoring.iter_mut().filter(|scoring| scoring.kv.is_some()) {
            scoring.make_room();
            report.preempted += 1;
        }
        true
    }

    /// Adds the first scorings' next tokens to the step; returns how many take part.
    fn plan_scorings(&mut self, report: &mut StepReport) -> usize {
        self.running.iter_mut().for_each(|sequence| (sequence.taken, sequence.guess) = (0, 0..0));
        let mut budget = self.options.prefill_chunk;
        let mut scored = 0;
        while scored < self.scoring.len() && budget > 0 {
            let Some(mut scoring) = self.scoring.remove(scored) else { break };
            if scoring.kv.is_none() {
                let job = &scoring.job;
                scoring.kv = self.prefixes.fork(scoring.adapter_id(), &job.prompt, job.cacheable_prefix);
            }
            let wants = scoring.wants(budget);
            let pushed = if self.make_room(wants, 0, scored, report) || self.make_room_for_first(scored, report) {
                scoring.push(&mut self.step, self.model.pool(), budget)
            } else {
                // its turn comes when those before it are done
                self.scoring.insert(scored, scoring);
                break;
            };
            match pushed {
                Ok(tokens) => {
                    budget -= tokens;
                    report.prefill_tokens += tokens;
                    self.scoring.insert(scored, scoring);
                    scored += 1;
                }
                Err(error) => {
                    // what it and those before it had added to the step is computed for nobody
                    self.step.clear();
                    let message = error.to_string();
                    (scoring.job.reply)(Err(error));
                    for other in self.scoring.drain(..scored) {
                        (other.job.reply)(Err(EngineError::Tensor(candle_core::Error::Msg(message.clone()))));
                    }
                    return 0;
                }
            }
        }
        scored
    }

    /// Adds what each running sequence takes: decoding ones always go; of prefill chunks, in the order of arrival, what `prefill_chunk`
    /// leaves room for. Neighbours in the step speak through the same adapter.
    fn plan_sequences(&mut self, report: &mut StepReport) {
        // scorings go first, but answers go on beside them
        let chunk = self.options.prefill_chunk;
        let mut budget = chunk.saturating_sub(report.prefill_tokens).max(chunk.div_ceil(4));
        let mut first = true;
        let mut promised = 0;
        for index in 0..self.running.len() {
            let sequence = &self.running[index];
            let prefilling = sequence.prefilling();
            let mut chunk = sequence.next_chunk(self.options.prefill_chunk);
            if prefilling {
                if sequence.kv.cut_anywhere() {
                    chunk = chunk.min(budget);
                } else if !first && chunk > budget {
                    chunk = 0;
                }
                if chunk == 0 {
                    // nothing that came later may overtake it
                    budget = 0;
                    continue;
                }
            }
            // one that made room comes back when all of it fits
            let all = if sequence.kv.is_empty() { sequence.tokens.len() } else { chunk };
            let mut wants = sequence.kv.wants(all);
            let mut fits = self.make_room(promised + wants, index + 1, usize::MAX, report);
            if !fits && sequence_shares(&self.running[index]) {
                // without the prefix that shares its last block it needs no copy of that
                while self.prefixes.drop_oldest() {}
                wants = self.running[index].kv.wants(all);
                fits = self.make_room(promised + wants, index + 1, usize::MAX, report);
            }
            if !fits {
                if prefilling {
                    // those that came later do not grow into its room
                    budget = 0;
                }
                continue;
            }
            promised += wants;
            if prefilling {
                first = false;
                budget = budget.saturating_sub(chunk);
                report.prefill_tokens += chunk;
            }
            self.running[index].taken = chunk;
        }
        self.guess(promised);
        self.order.clear();
        self.order.extend((0..self.running.len()).filter(|&index| self.running[index].taken > 0));
        let key = |sequence: &Sequence| sequence.job.adapter.as_ref().map(|adapter| adapter.key());
        self.order.sort_unstable_by_key(|&index| (key(&self.running[index]), index));
        for at in 0..self.order.len() {
            let sequence = &mut self.running[self.order[at]];
            let Sequence { tokens, kv, job, guess, taken, .. } = sequence;
            let (start, known) = (kv.len(), tokens.len());
            let logits = match start + *taken - guess.len() == known {
                true if !Range::is_empty(guess) => LogitRows::All,
                true => LogitRows::Last,
                false => LogitRows::None,
            };
            // the guesses follow the last token for as long as the step is made
            tokens.extend_from_within(guess.clone());
            let pushed = self.step.push(&tokens[start..start + *taken], kv, job.adapter.as_ref(), logits);
            tokens.truncate(known);
            if pushed.is_err() {
                // room was made before, but another took it: this one waits a step
                (*taken, *guess) = (0, 0..0);
            }
        }
        self.order.retain(|&index| self.running[index].taken > 0);
    }

    /// Adds guessed tokens to sequences that decode, where that pays.
    fn guess(&mut self, mut promised: usize) {
        if !self.options.speculate {
            return;
        }
        let mut rows: usize = self.running.iter().map(|sequence| sequence.taken).sum::<usize>() + self.step.tokens.len();
        let mut tokens = self.running.iter().filter(|sequence| sequence.taken > 0 && !sequence.prefilling()).count() as f64;
        for index in 0..self.running.len() {
            let sequence = &mut self.running[index];
            if sequence.taken != 1 || sequence.prefilling() || !sequence.kv.cut_anywhere() {
                continue;
            }
            let most = worthwhile(&self.cost, &sequence.acceptance, rows, tokens);
            let guess = look_up(&sequence.tokens, most.min(sequence.left(self.window).saturating_sub(1)));
            let guesses = guess.len();
            if guesses == 0 {
                sequence.acceptance.hope();
                continue;
            }
            let more = sequence.kv.wants(1 + guesses) - sequence.kv.wants(1);
            if promised + more > self.model.pool().room() {
                continue;
            }
            promised += more;
            (sequence.taken, sequence.guess) = (1 + guesses, guess);
            rows += guesses;
            tokens += guesses as f64 * sequence.acceptance.rate();
        }
    }

    /// Runs the step and tells everyone what it found.
    fn run(&mut self, scored: usize, report: &mut StepReport) -> Result<()> {
        if !self.step.is_empty() {
            let begun = Instant::now();
            if let Err(error) = self.model.run(&mut self.step, &mut self.logits) {
                let message = error.to_string();
                let stopped = || EngineError::Tensor(candle_core::Error::Msg(message.clone()));
                self.scoring.drain(..scored).for_each(|scoring| (scoring.job.reply)(Err(stopped())));
                for sequence in self.running.drain(..) {
                    self.waiting.done(&sequence.client);
                    sequence.fail(stopped());
                }
                return Err(error);
            }
            if report.prefill_tokens == 0 {
                self.cost.saw(self.step.tokens.len(), begun.elapsed().as_secs_f64());
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

    /// Gives back a scoring that is not done.
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
            self.prefixes.keep(scoring.adapter_id(), &scoring.job.prompt[..scoring.job.cacheable_prefix], kv);
            scoring.kept = true;
        }
        if !scoring.is_done() {
            return Some(scoring);
        }
        let (job, scores) = scoring.into_scores();
        (job.reply)(Ok(scores));
        None
    }

    fn take_tokens<'a>(&mut self, rows: &mut impl Iterator<Item = &'a [f32]>, report: &mut StepReport) {
        let mut ended: Vec<(usize, FinishReason)> = Vec::new();
        for &index in &self.order {
            let sequence = &mut self.running[index];
            let guess = sequence.guess.clone();
            sequence.kv.advance(sequence.taken - guess.len());
            let adapter = sequence.job.adapter.clone();
            if let Some(prefix) = sequence.prefix_to_keep() {
                let prefix = prefix.to_vec();
                self.prefixes.keep(adapter.as_ref().map(|adapter| adapter.0.id()), &prefix, &sequence.kv);
            }
            if sequence.kv.len() < sequence.tokens.len() {
                continue;
            }
            let before = sequence.tokens.len();
            let (mut end, mut open) = (None, true);
            for place in 0..=guess.len() {
                let Some(row) = rows.next() else { break };
                // after the first wrong guess, rows say what would follow another text
                if open {
                    end = sequence.accept(row, &self.text, self.window);
                    let right = sequence.tokens.get(guess.start + place).filter(|_| place < guess.len() && end.is_none());
                    open = right.is_some() && right == sequence.tokens.last();
                    sequence.kv.advance(usize::from(open));
                }
            }
            let sampled = sequence.tokens.len() - before;
            report.decode_tokens += sampled;
            if !guess.is_empty() {
                sequence.acceptance.saw(guess.len(), sampled.saturating_sub(1));
                report.guessed += guess.len();
                report.guessed_right += sampled.saturating_sub(1);
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

    /// Keeps what the sequence leaves behind, then tells how it ended.
    fn end(&mut self, mut sequence: Sequence, reason: FinishReason) {
        self.waiting.done(&sequence.client);
        let kv = std::mem::replace(&mut sequence.kv, self.model.new_cache());
        let tokens = sequence.tokens[..kv.len()].to_vec();
        self.prefixes.retire(sequence.adapter_id(), tokens, kv);
        sequence.finish(reason);
    }
}

/// Whether others hold the block that the sequence writes next.
fn sequence_shares(sequence: &Sequence) -> bool {
    sequence.kv.wants(1) > 0 && !sequence.kv.is_empty() && !sequence.kv.len().is_multiple_of(KEYS)
}
