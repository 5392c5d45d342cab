//! Answers planned by the time that is left: in full, short or later, by the pace that was measured here.

use std::sync::{Mutex, PoisonError};

use nyx_domain::{AnswerMode, Pace, Plan};
use nyx_engine::SamplingParams;
use nyx_specialists::time::{Measured, PlanRequest, observe, plan};

use super::{SpecialistAnswer, SpecialistParts};
use crate::RequestContext;

/// How fast answers are made here.
#[derive(Debug, Default)]
pub struct Timer(Mutex<Pace>);

impl Timer {
    fn pace(&self) -> Pace {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from an answer that was made.
    pub(super) fn observe(&self, response: &SpecialistAnswer) {
        let (usage, timings) = (&response.usage, &response.timings);
        let answers = response.answers.len().max(1) as u64;
        let measured = Measured {
            queue_ms: timings.queue_ms,
            prefill_ms: timings.prefill_ms,
            prefilled_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            decode_ms: timings.decode_ms,
            completion_tokens: usage.completion_tokens / answers,
            max_tokens: response.sampling.max_tokens,
            complete: response.answers.iter().all(|answer| matches!(answer.finish_reason.as_str(), "stop" | "length")),
        };
        if measured.completion_tokens > 0 {
            observe(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), &measured);
        }
    }
}

impl SpecialistParts {
    /// The mode that is worth most in the time that is left.
    pub(super) fn plan(
        &self,
        context: &RequestContext,
        timer: &Timer,
        prompt_tokens: usize,
        sampling: &SamplingParams,
        may_defer: bool,
    ) -> Option<Plan> {
        let policy = self.policy.as_ref()?;
        let prospect = PlanRequest {
            prompt_tokens,
            max_tokens: sampling.max_tokens,
            remaining_ms: context.remaining().as_secs_f64() * 1e3,
            quality: policy.timing?,
            penalty: policy.delay_penalty(),
            may_defer,
        };
        Some(plan(&prospect, timer.pace()))
    }

    /// The mode to take, with fewer tokens where it is a short one; in full where nothing is planned.
    pub(super) fn instead(plan: Option<&Plan>, sampling: &mut SamplingParams) -> AnswerMode {
        let Some(plan) = plan else { return AnswerMode::Full };
        if plan.chosen.mode == AnswerMode::Short {
            sampling.max_tokens = plan.chosen.max_tokens;
        }
        plan.chosen.mode
    }
}
