//! The inference engine: weights, LoRA, KV cache, batching, sampling, scoring and embedding, on
//! candle.
//!
//! Depends on no actix, HTTP or database code. Everything here is synchronous: one [`Engine`]
//! belongs to one device thread, which submits jobs and calls [`Engine::step`]. [`Text`]
//! (tokenizer, chat template) may be used from any thread.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::too_many_lines))]

mod backoff;
pub mod batch;
pub mod comm;
pub mod device;
pub mod embed;
pub mod error;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod kernels;
#[cfg(not(feature = "bench"))]
mod kernels;
pub mod kv;
pub mod lora;
pub mod model;
pub mod quantization_error;
pub mod sampling;
pub mod score;
#[cfg(test)]
mod testing;
pub mod text;
pub mod train;
pub mod weights;

pub use batch::{
    Engine, EngineOptions, FinishReason, Finished, GenerateJob, Piece, StepReport, TokenSink, Usage,
};
pub use candle_core::Device;

pub use device::DeviceSpec;
pub use error::{EngineError, Result};
pub use lora::{AdapterHandle, AdapterPrecision, LoraAdapter};
pub use model::{Follower, Llama, ModelConfig, Rank};
pub use sampling::SamplingParams;
pub use score::{ContinuationScore, ScoreJob};
pub use text::Text;
pub use weights::{ModelFiles, ModelInfo, Quantisation};
