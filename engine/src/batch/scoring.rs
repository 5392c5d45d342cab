//! Scoring continuations of one prompt, in steps shared with running answers.
//!
//! The prompt's last chunk and its continuations go in one pass, as a tree: every continuation
//! attends to the prompt and to itself.

use crate::Result;
use crate::kernels::KV_BLOCK_SIZE;
use crate::kv::{BlockPool, KvCache};
use crate::model::{LogitRows, Step};
use crate::sampling::logprob;
use crate::score::{ContinuationScore, ScoreJob};

/// Blocks owned by a continuation: the one where it leaves the prompt, and those that it fills.
fn blocks_of(continuation: &[u32]) -> usize {
    if continuation.len() < 2 { 0 } else { continuation.len().div_ceil(KV_BLOCK_SIZE) + 1 }
}

/// Maximum number of continuations in progress: each owns blocks.
const TOGETHER: usize = 16;

/// A scoring in progress.
pub(super) struct Scoring {
    pub(super) job: ScoreJob,
    /// Keys and values of the prompt, as far as computed.
    pub(super) kv: Option<KvCache>,
    /// The logits after the prompt.
    last: Vec<f32>,
    /// The continuations in progress, which follow those already scored.
    group: Vec<Branch>,
    scores: Vec<ContinuationScore>,
    /// Prompt tokens in this step.
    trunk: usize,
    /// Whether the cacheable prefix has been added to the prefix cache.
    pub(super) kept: bool,
}

#[derive(Debug, Default)]
struct Branch {
    /// `None`: nothing after the first token has been computed.
    kv: Option<KvCache>,
    logprobs: Vec<f32>,
    /// Tokens in this step.
    taken: usize,
}

impl Scoring {
    pub(super) fn new(job: ScoreJob) -> Self {
        Self {
            job,
            kv: None,
            last: Vec::new(),
            group: Vec::new(),
            scores: Vec::new(),
            trunk: 0,
            kept: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.scores.len() == self.job.continuations.len()
    }

    pub(super) fn into_scores(self) -> (ScoreJob, Vec<ContinuationScore>) {
        (self.job, self.scores)
    }

    pub(super) fn adapter_id(&self) -> Option<&str> {
        self.job.adapter.as_ref().map(|adapter| adapter.0.id())
    }

    /// Frees its blocks, to be recomputed later; scores already computed are kept.
    pub(super) fn make_room(&mut self) {
        self.kv = None;
        self.group.clear();
        self.kept = false;
    }

    /// The minimum number of blocks that it can run with.
    pub(super) fn least(job: &ScoreJob) -> usize {
        job.prompt.len().div_ceil(KV_BLOCK_SIZE)
            + job
                .continuations
                .iter()
                .map(|continuation| blocks_of(continuation))
                .max()
                .unwrap_or(0)
    }

    /// Upper bound on the blocks that the next [`push`](Self::push) takes.
    pub(super) fn wants(&self, budget: usize) -> usize {
        let rest = &self.job.continuations[self.scores.len()..];
        let trunk = match &self.kv {
            Some(kv) => kv.wants((self.job.prompt.len() - kv.len()).min(budget)),
            None => self.job.prompt.len().min(budget).div_ceil(KV_BLOCK_SIZE),
        };
        let branches =
            rest.iter().take(TOGETHER).enumerate().map(|(index, continuation)| {
                match self
                    .group
                    .get(index)
                    .and_then(|branch| Some((branch.kv.as_ref()?, branch.logprobs.len())))
                {
                    Some((kv, known)) => kv.wants((continuation.len() - known).min(budget)),
                    None if !self.group.is_empty() && index >= self.group.len() => 0,
                    None => blocks_of(continuation),
                }
            });
        trunk + branches.sum::<usize>()
    }

    /// Adds its next tokens to the step, at most `budget`; returns their number.
    pub(super) fn push(
        &mut self,
        step: &mut Step,
        pool: &BlockPool,
        budget: usize,
    ) -> Result<usize> {
        let kv = self.kv.get_or_insert_with(|| pool.cache());
        let (prompt, adapter) = (&self.job.prompt, self.job.adapter.as_ref());
        self.trunk = 0;
        let mut left = budget;
        let mut span = None;
        if kv.len() < prompt.len() {
            // candle's bits depend on how the prompt is split into chunks: the cacheable prefix
            // ends a chunk
            let boundary = if !kv.cut_anywhere() && kv.len() < self.job.cacheable_prefix {
                self.job.cacheable_prefix
            } else {
                prompt.len()
            };
            let end = boundary.min(kv.len() + left);
            let ends = end == prompt.len();
            let tokens = &prompt[kv.len()..end];
            span = Some(step.push(
                tokens,
                kv,
                adapter,
                if ends { LogitRows::Last } else { LogitRows::None },
            )?);
            self.trunk = tokens.len();
            left -= tokens.len();
            if !ends || !kv.cut_anywhere() {
                return Ok(budget - left);
            }
        }
        let rest = &self.job.continuations[self.scores.len()..];
        if self.group.is_empty() {
            // as many as fit in the free blocks, and at least one
            let mut room = pool.free();
            let fits = |continuation: &&Vec<u32>| {
                let fits = blocks_of(continuation) <= room;
                room = room.saturating_sub(blocks_of(continuation));
                fits
            };
            let together = rest.iter().take(TOGETHER).take_while(fits).count().max(1);
            self.group.resize_with(together, Branch::default);
        }
        for (branch, continuation) in self.group.iter_mut().zip(rest) {
            // the prompt's last logits score the first token, and the last token's logits are not
            // needed
            let known = branch.logprobs.len().max(1);
            let tokens = &continuation[known - 1..(continuation.len() - 1).min(known - 1 + left)];
            branch.taken = tokens.len();
            if tokens.is_empty() {
                continue;
            }
            match (&mut branch.kv, span) {
                (Some(kv), _) => drop(step.push(tokens, kv, adapter, LogitRows::All)?),
                (none, Some(trunk)) => {
                    *none = Some(step.push_branch(trunk, kv, tokens, adapter, LogitRows::All)?)
                }
                (none, None) => {
                    let mut fork = kv.fork(kv.len());
                    step.push(tokens, &mut fork, adapter, LogitRows::All)?;
                    *none = Some(fork);
                }
            }
            left -= tokens.len();
        }
        Ok(budget - left)
    }

    /// Reads the step's logits from `rows`; returns how many continuations are now scored.
    pub(super) fn take<'a>(&mut self, rows: &mut impl Iterator<Item = &'a [f32]>) -> usize {
        let Some(kv) = &mut self.kv else { return 0 };
        kv.advance(self.trunk);
        if kv.len() < self.job.prompt.len() {
            return 0;
        }
        if self.trunk > 0
            && let Some(row) = rows.next()
        {
            self.last.clear();
            self.last.extend_from_slice(row);
        }
        let rest = &self.job.continuations[self.scores.len()..];
        for (branch, continuation) in self.group.iter_mut().zip(rest) {
            if branch.logprobs.is_empty() {
                branch.logprobs.push(logprob(&self.last, continuation[0]));
            }
            if let Some(kv) = branch.kv.as_mut().filter(|_| branch.taken > 0) {
                kv.advance(branch.taken);
                let known = branch.logprobs.len();
                let tokens = &continuation[known..known + branch.taken];
                branch.logprobs.extend(
                    tokens.iter().zip(rows.by_ref()).map(|(&token, row)| logprob(row, token)),
                );
            }
            branch.taken = 0;
        }
        let done = !self.group.is_empty()
            && self
                .group
                .iter()
                .zip(rest)
                .all(|(branch, wanted)| branch.logprobs.len() == wanted.len());
        if !done {
            return 0;
        }
        let scores =
            self.group.drain(..).map(|branch| ContinuationScore { logprobs: branch.logprobs });
        let before = self.scores.len();
        self.scores.extend(scores);
        self.scores.len() - before
    }
}
