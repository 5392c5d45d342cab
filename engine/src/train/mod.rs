//! LoRA training on the frozen base (Hu et al. 2021), on the CPU.
//!
//! Weights stay quantised and are dequantised a layer at a time, into bf16 where that is faster
//! than f32. The backward is written out: gradients of frozen weights are never made, and logits
//! exist only at the places that carry loss. All continuations of a prompt go through the model
//! beside one reading of it, as a tree; what the prompts of a batch begin with in common goes
//! through once. What is trained is what will be served: the same tokens, the same positions.

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
