//! Sampling the next token.

mod params;
mod sampler;

pub use params::SamplingParams;
pub(crate) use sampler::{Sampler, best_tokens, logprob};

#[cfg(test)]
mod tests;
