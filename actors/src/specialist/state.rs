//! What a specialist works with.

use std::sync::{Arc, Mutex, PoisonError};

use nyx_domain::Pace;
use nyx_engine::Text;
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::strategy::{self, Strategy};
use nyx_specialists::time::{Measured, observe};

use super::messages::SpecialistAnswer;
use crate::adapters::Adapters;
use crate::cells::CellStream;
use crate::confidence::Calibration;
use crate::devices::GpuPool;
use crate::facts::Facts;
use crate::memory::MemoryKeeper;
use crate::supervise::ActorRef;

/// What a specialist is made of.
pub struct SpecialistSetup {
    /// `None` is the base model: no prompt, retrieval, adapter or reward.
    pub policy: Option<SpecialistPolicy>,
    pub text: Arc<Text>,
    /// The context window in tokens.
    pub context_length: usize,
    pub adapters: Adapters,
    pub pool: ActorRef<GpuPool>,
    pub memory: ActorRef<MemoryKeeper>,
    pub facts: Facts,
    pub cells: CellStream,
    pub calibration: Calibration,
}

/// A specialist's state; outlives an instance of the actor that panics.
pub struct SpecialistState {
    pub(super) setup: SpecialistSetup,
    pub(super) strategy: Arc<dyn Strategy>,
    pace: Mutex<Pace>,
}

impl SpecialistState {
    pub fn new(setup: SpecialistSetup) -> Self {
        let strategy = setup
            .policy
            .as_ref()
            .map_or_else(strategy::plain, |policy| Arc::clone(&policy.strategy));
        Self { setup, strategy, pace: Mutex::default() }
    }

    /// The specialist's name, or `base`.
    pub(super) fn name(&self) -> &str {
        self.setup.policy.as_ref().map_or("base", |policy| policy.name.as_str())
    }

    /// The replica that it is pinned to.
    pub(super) fn replica(&self) -> Option<usize> {
        self.setup.policy.as_ref().and_then(|policy| policy.replica)
    }

    /// The measured speed of answers.
    pub(super) fn pace(&self) -> Pace {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the measured speed.
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
            complete: response
                .answers
                .iter()
                .all(|answer| matches!(answer.finish_reason.as_str(), "stop" | "length")),
        };
        if measured.completion_tokens > 0 {
            observe(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner), &measured);
        }
    }
}
