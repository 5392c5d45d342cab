//! Kairos' own: memories ranked by time as well, and answers planned by the time that is left.

use std::sync::{Mutex, PoisonError};

use nyx_engine::SamplingParams;
use nyx_specialists::Evidence;
use nyx_specialists::time::{
    Candidate, Course, Measured, Pace, Plan, Prospect, Reckoning, TimeReading, Timing, age_in_words, plan, read_time, reckon,
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{QUERY_CHARS, Retrieval, SpecialistParts, Spoken};
use crate::decision::Answer;
use crate::learned::Learned;
use crate::memory::MemoryFilter;
use crate::memory::messages::Recall;
use crate::question::{Question, StreamEvent, ending};
use crate::{NyxError, RequestContext};

/// Memories that are ranked for each one that is kept.
const RANKED_FOR_ONE: usize = 4;
/// Characters of a memory that is told instead of an answer.
const TOLD_CHARS: usize = 300;

/// How Kairos ranks, and how fast answers are made here.
#[derive(Debug)]
pub struct Timer {
    timing: Timing,
    learned: String,
    pace: Mutex<Pace>,
}

impl Timer {
    pub fn new(learned: &Learned<Timing>) -> Self {
        Self { timing: learned.value, learned: learned.id.clone(), pace: Mutex::default() }
    }

    fn pace(&self) -> Pace {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from an answer that was made.
    pub(super) fn observe(&self, spoken: &Spoken) {
        let (usage, timings) = (&spoken.usage, &spoken.timings);
        let answers = spoken.answers.len().max(1) as u64;
        let measured = Measured {
            queue_ms: timings.queue_ms,
            prefill_ms: timings.prefill_ms,
            prefilled_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            decode_ms: timings.decode_ms,
            completion_tokens: usage.completion_tokens / answers,
            max_tokens: spoken.sampling.max_tokens,
            complete: spoken.answers.iter().all(|answer| matches!(answer.finish_reason.as_str(), "stop" | "length")),
        };
        if measured.completion_tokens > 0 {
            self.pace.lock().unwrap_or_else(PoisonError::into_inner).observe(&measured);
        }
    }

    /// The note of a decision.
    pub(super) fn note(&self, said: &TimeReading, reckoning: Option<&Reckoning>, plan: Option<&Plan>) -> serde_json::Value {
        let ends = said.interval.map(|interval| json!({"from": interval.from, "to": interval.to}));
        json!({
            "learned": self.learned, "half_life_s": self.timing.half_life_s, "interval": ends,
            "recurring": said.weekday.is_some() || said.hours.is_some() || said.months.is_some(), "reckoning": reckoning, "plan": plan,
        })
    }
}

impl SpecialistParts {
    /// Recalls what lies in the stretch of time that the question names, and what fits it by meaning, and ranks both by fading relevance.
    pub(super) async fn recall_in_time(
        &self,
        context: &RequestContext,
        timer: &Timer,
        asked: &str,
        question: &Question,
    ) -> Result<Vec<Evidence>, NyxError> {
        let Some(Retrieval::Memory { k, min_score }) = self.policy.as_ref().map(|policy| policy.retrieval.clone()) else {
            return Ok(Vec::new());
        };
        let (query, now) = (ending(asked, QUERY_CHARS), question.now());
        if query.trim().is_empty() {
            return Ok(Vec::new());
        }
        let said = read_time(query, now);
        let open = question.given.memory.clone();
        let mut filters = vec![open.clone()];
        if let Some(interval) = said.interval {
            // within what the caller allows
            let after = open.after.into_iter().chain(interval.from).max();
            let before = open.before.into_iter().chain(interval.to).min();
            filters.insert(0, MemoryFilter { after, before, ..open });
        }
        let mut found: Vec<Evidence> = Vec::new();
        for filter in filters {
            let recall =
                Recall { context: context.clone(), query: query.to_owned(), k: (k * RANKED_FOR_ONE).min(50), filter, min_score: -1.0 };
            let hits = context.bound("memories were searched", self.memory.send(recall)).await?;
            // age counts beside likeness in meaning: that is what its ranking was fitted to
            for hit in hits.into_iter().filter(|hit| hit.cosine >= min_score) {
                let (id, context) = (hit.memory.id.to_string(), hit.exchange());
                if found.iter().all(|known| known.id != id) {
                    let (text, speaker, when) = (hit.memory.text, hit.memory.speaker, hit.memory.when);
                    found.push(Evidence { id, text, score: f64::from(hit.cosine), source: "memory".into(), speaker, when, context });
                }
            }
        }
        let candidates: Vec<Candidate> = found.iter().map(|item| Candidate { relevance: item.score, when: item.when }).collect();
        let ranked = timer.timing.rank(&candidates, &said, now);
        Ok(ranked.into_iter().take(k).filter_map(|(index, score)| Some(Evidence { score, ..found.get(index)?.clone() })).collect())
    }

    /// The course that is worth most in the time that is left.
    pub(super) fn plan(
        &self,
        context: &RequestContext,
        timer: &Timer,
        prompt_tokens: usize,
        sampling: &SamplingParams,
        has_evidence: bool,
        may_defer: bool,
    ) -> Option<Plan> {
        let policy = self.policy.as_ref()?;
        let prospect = Prospect {
            prompt_tokens,
            max_tokens: sampling.max_tokens,
            remaining_ms: context.remaining().as_secs_f64() * 1e3,
            quality: policy.timing?,
            penalty: policy.delay_penalty(),
            may_defer,
            has_evidence,
        };
        Some(plan(&prospect, timer.pace()))
    }

    /// What was found, where no answer can come in time: partial.
    pub(super) fn tell_evidence(
        &self,
        evidence: &[Evidence],
        question: &Question,
        sampling: SamplingParams,
        events: Option<&mpsc::Sender<StreamEvent>>,
    ) -> Spoken {
        let text = told(evidence, question);
        let told = [
            StreamEvent::Token { index: 0, text: text.clone(), logprobs: Vec::new() },
            StreamEvent::Finished { index: 0, finish_reason: "deadline".into() },
        ];
        for event in told {
            // whether a reader is still there no longer matters
            let _ = events.map(|events| events.try_send(event));
        }
        Spoken { answers: vec![Answer { text, finish_reason: "deadline".into() }], sampling, ..Spoken::default() }
    }

    /// The deadline came before the first word: what was found is told instead.
    pub(super) fn fill_from_evidence(&self, spoken: &mut Spoken, evidence: &[Evidence], question: &Question) {
        for answer in &mut spoken.answers {
            if answer.finish_reason == "deadline" && answer.text.trim().is_empty() && !evidence.is_empty() {
                answer.text = told(evidence, question);
            }
        }
    }

    /// For what else is planned: whether courses other than answering are open.
    pub(super) fn instead(plan: Option<&Plan>, sampling: &mut SamplingParams) -> Course {
        let Some(plan) = plan else { return Course::Full };
        if plan.chosen.course == Course::Short {
            sampling.max_tokens = plan.chosen.max_tokens;
        }
        plan.chosen.course
    }
}

/// What the times in a question come to, told by its context and by what stands before it. What was said earlier is left out: its present was another.
pub(super) fn reckoned(question: &Question, asked: &str) -> Option<Reckoning> {
    let told = question.given.context.as_deref().unwrap_or_default();
    let (told_end, asked_end) = (ending(told, QUERY_CHARS), ending(asked, QUERY_CHARS));
    // a sentence whose beginning is cut off may have denied what is left of it
    let whole = |end: &str, all: &str| if end.len() == all.len() { 0 } else { end.find(". ").map_or(end.len(), |at| at + 2) };
    let (told, asked) = (&told_end[whole(told_end, told)..], &asked_end[whole(asked_end, asked)..]);
    reckon(told, asked, question.now())
}

/// The best memory in its own words, with its age.
fn told(evidence: &[Evidence], question: &Question) -> String {
    let Some(best) = evidence.first() else { return String::new() };
    let cut = best.text.chars().count() > TOLD_CHARS;
    let text: String = best.text.chars().take(TOLD_CHARS).chain(cut.then_some('\u{2026}')).collect();
    let age = best.when.map(|when| format!(" ({})", age_in_words(question.now(), when))).unwrap_or_default();
    format!("There was no time for an answer. What I found: \"{text}\"{age} [1]")
}
