//! The Llama architecture (Touvron et al. 2023, with Llama 3's GQA and RoPE scaling) over a ragged
//! batch.

mod attention;
mod body;
mod config;
mod cpu;
#[cfg(test)]
mod devices;
mod group;
mod linear;
mod llama;
mod rank;
#[cfg(test)]
mod sharding_tests;
mod slice;
mod step;
mod tensors;
#[cfg(test)]
mod tests;

pub use config::{Llama3Scaling, ModelConfig, Rope};
pub use group::Follower;
pub use llama::{Llama, Segment, argmax};
pub use rank::Rank;
pub(crate) use slice::Slice;
pub use step::{LogitRows, Step};
