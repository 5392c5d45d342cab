//! LoRA training on the frozen base (Hu et al. 2021), on the CPU.
//!
//! Weights stay quantised in memory and are dequantised one matrix at a time, into bf16 where that
//! is faster than f32. The backward pass is written by hand: gradients of frozen weights are never
//! computed, and logits are computed only at positions that contribute to the loss. A prompt is
//! computed once for all its continuations (tree attention), and the common prefix of a batch's
//! prompts is computed once. Tokens and positions are the same in training and in serving.

mod adapter;
mod backward;
mod frozen;
mod logits;
mod micro_batch;
pub mod objective;
mod optimiser;
mod options;
mod pass;
mod state;
#[cfg(test)]
mod tests;
mod trainer;

pub use adapter::LoraShape;
pub use frozen::TrainPrecision;
pub use objective::{LossSettings, Objective, TrainingTarget};
pub use optimiser::AdamW;
pub use options::{Example, TrainOptions};
pub use trainer::{Progress, Summary, Trainer};
