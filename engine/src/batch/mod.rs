//! Continuous batching: one forward pass per step carries the prefill and decode tokens of
//! sequences with different adapters.
//!
//! Scorings run before answers; answers are admitted fairly by client. When the KV cache runs out
//! of blocks, cached prefixes are dropped, then the youngest answers are preempted and recomputed
//! later. None of this changes the output on the CPU kernels, where a sequence's bits do not depend
//! on the batch. With candle's tensors the bits depend on where a prompt is split into chunks. The
//! split depends on that sequence alone (its cacheable prefix, then every `prefill_chunk` tokens);
//! only a preempted answer is split differently when it is recomputed.

mod draft;
mod engine;
mod fair;
mod job;
mod plan;
mod prefix;
#[cfg(test)]
mod random_tests;
mod scoring;
mod sequence;
#[cfg(test)]
mod tests;

pub use engine::Engine;
pub use job::{
    EngineOptions, FinishReason, Finished, GenerateJob, Piece, StepReport, TokenSink, Usage,
};
