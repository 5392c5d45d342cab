//! Plans the next step, and preempts work when blocks run out.

use std::ops::Range;

use super::draft::{propose, worthwhile};
use super::engine::Engine;
use super::job::StepReport;
use super::sequence::Sequence;
use crate::error::EngineError;
use crate::kernels::KV_BLOCK_SIZE;
use crate::model::LogitRows;

impl Engine {
    /// Frees blocks until `wanted` are free: drops cached prefixes, then preempts the youngest
    /// sequences after the first `older`, then the last scorings after the first `before`;
    /// preempted work is recomputed later. When all of that would not suffice, frees nothing and
    /// returns false.
    fn make_room(
        &mut self,
        wanted: usize,
        older: usize,
        before: usize,
        report: &mut StepReport,
    ) -> bool {
        let pool = self.model.pool();
        if pool.free() >= wanted {
            return true;
        }
        let sequences = self
            .running
            .iter()
            .skip(older)
            .filter(|sequence| sequence.taken == 0)
            .map(|sequence| &sequence.kv);
        let scorings = self.scoring.iter().skip(before).filter_map(|scoring| scoring.kv.as_ref());
        // a lower bound: continuations in progress hold blocks as well
        if pool.free() + pool.freed_by(self.prefixes.caches().chain(sequences).chain(scorings))
            < wanted
        {
            return false;
        }
        while self.model.pool().free() < wanted {
            if self.prefixes.drop_oldest() {
                continue;
            }
            let youngest = self
                .running
                .iter_mut()
                .skip(older)
                .rev()
                .find(|sequence| !sequence.kv.is_empty() && sequence.taken == 0);
            if let Some(youngest) = youngest {
                youngest.kv.truncate(0);
                report.preempted += 1;
                continue;
            }
            let Some(last) =
                self.scoring.iter_mut().skip(before).rev().find(|scoring| scoring.kv.is_some())
            else {
                return false;
            };
            last.make_room();
            report.preempted += 1;
        }
        true
    }

    /// Preempts everything else, so that the first scoring can run with the minimum number of
    /// blocks.
    fn make_room_for_first(&mut self, scored: usize, report: &mut StepReport) -> bool {
        if scored > 0 {
            return false;
        }
        let all = self.model.pool().capacity();
        while self.model.pool().free() < all && self.prefixes.drop_oldest() {}
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

    /// Adds the next tokens of the first scorings to the step; returns how many scorings take part.
    pub(super) fn plan_scorings(&mut self, report: &mut StepReport) -> usize {
        self.running.iter_mut().for_each(|sequence| (sequence.taken, sequence.draft) = (0, 0..0));
        let mut budget = self.options.prefill_chunk;
        let mut scored = 0;
        while scored < self.scoring.len() && budget > 0 {
            let Some(mut scoring) = self.scoring.remove(scored) else { break };
            if scoring.kv.is_none() {
                let job = &scoring.job;
                scoring.kv =
                    self.prefixes.fork(scoring.adapter_id(), &job.prompt, job.cacheable_prefix);
            }
            let wants = scoring.wants(budget);
            let pushed = if self.make_room(wants, 0, scored, report)
                || self.make_room_for_first(scored, report)
            {
                scoring.push(&mut self.step, self.model.pool(), budget)
            } else {
                // it runs when the scorings before it are done
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
                    // discards the tokens that it and the scorings before it added to the step
                    self.step.clear();
                    let message = error.to_string();
                    (scoring.job.reply)(Err(error));
                    for other in self.scoring.drain(..scored) {
                        (other.job.reply)(Err(EngineError::Tensor(candle_core::Error::Msg(
                            message.clone(),
                        ))));
                    }
                    return 0;
                }
            }
        }
        scored
    }

    /// Adds the running sequences' tokens: every decoding sequence takes part; prefill chunks are
    /// added in order of arrival up to what is left of `prefill_chunk`. Sequences with the same
    /// adapter are adjacent in the step.
    pub(super) fn plan_sequences(&mut self, report: &mut StepReport) {
        // scorings go first, but answers get at least a quarter of the chunk
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
                    // no later prefill may overtake it
                    budget = 0;
                    continue;
                }
            }
            // a preempted sequence resumes when all of it fits
            let all = if sequence.kv.is_empty() { sequence.tokens.len() } else { chunk };
            let mut wants = sequence.kv.wants(all);
            let mut fits = self.make_room(promised + wants, index + 1, usize::MAX, report);
            if !fits && sequence_shares(&self.running[index]) {
                // without cached prefixes that share its last block, it needs no copy of that block
                while self.prefixes.drop_oldest() {}
                wants = self.running[index].kv.wants(all);
                fits = self.make_room(promised + wants, index + 1, usize::MAX, report);
            }
            if !fits {
                if prefilling {
                    // later sequences must not take the blocks it waits for
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
        self.draft(promised);
        self.order.clear();
        self.order.extend((0..self.running.len()).filter(|&index| self.running[index].taken > 0));
        let key = |sequence: &Sequence| sequence.job.adapter.as_ref().map(|adapter| adapter.key());
        self.order.sort_unstable_by_key(|&index| (key(&self.running[index]), index));
        for at in 0..self.order.len() {
            let sequence = &mut self.running[self.order[at]];
            let Sequence { tokens, kv, job, draft, taken, .. } = sequence;
            let (start, known) = (kv.len(), tokens.len());
            let logits = match start + *taken - draft.len() == known {
                true if !Range::is_empty(draft) => LogitRows::All,
                true => LogitRows::Last,
                false => LogitRows::None,
            };
            // the draft tokens are appended only while the step is built
            tokens.extend_from_within(draft.clone());
            let pushed =
                self.step.push(&tokens[start..start + *taken], kv, job.adapter.as_ref(), logits);
            tokens.truncate(known);
            if pushed.is_err() {
                // the reserved blocks were taken by another sequence: this one waits a step
                (*taken, *draft) = (0, 0..0);
            }
        }
        self.order.retain(|&index| self.running[index].taken > 0);
    }

    /// Adds draft tokens to decoding sequences, where that pays off.
    fn draft(&mut self, mut promised: usize) {
        if !self.options.speculate {
            return;
        }
        let mut rows: usize = self.running.iter().map(|sequence| sequence.taken).sum::<usize>()
            + self.step.tokens.len();
        let mut tokens = self
            .running
            .iter()
            .filter(|sequence| sequence.taken > 0 && !sequence.prefilling())
            .count() as f64;
        for index in 0..self.running.len() {
            let sequence = &mut self.running[index];
            if sequence.taken != 1 || sequence.prefilling() || !sequence.kv.cut_anywhere() {
                continue;
            }
            let most = worthwhile(&self.cost, &sequence.acceptance, rows, tokens);
            let draft =
                propose(&sequence.tokens, most.min(sequence.left(self.window).saturating_sub(1)));
            let drafts = draft.len();
            if drafts == 0 {
                sequence.acceptance.retry();
                continue;
            }
            let more = sequence.kv.wants(1 + drafts) - sequence.kv.wants(1);
            if promised + more > self.model.pool().free() {
                continue;
            }
            promised += more;
            (sequence.taken, sequence.draft) = (1 + drafts, draft);
            rows += drafts;
            tokens += drafts as f64 * sequence.acceptance.rate();
        }
    }
}

/// Whether the block that the sequence writes next is shared.
fn sequence_shares(sequence: &Sequence) -> bool {
    sequence.kv.wants(1) > 0
        && !sequence.kv.is_empty()
        && !sequence.kv.len().is_multiple_of(KV_BLOCK_SIZE)
}
