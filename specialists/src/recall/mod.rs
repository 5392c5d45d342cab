//! Recall: which remembered turns answer a question. The stores give lists by meaning and by words; here they are fused, re-ranked by what was
//! learned from questions with known evidence, and kept from saying one thing twice.
//!
//! Pure and synchronous: a [`Turn`] is everything that is known of a memory when a question is asked.

mod features;
mod fusion;
mod pool;
mod question;
mod ranker;
#[cfg(test)]
mod tests;
mod words;

/// The parameters that come with Nyx, learned by `nyx train recall`.
pub const SHIPPED: &str = include_str!("../../learned/recall.json");

pub use fusion::{cosine, diverse, reciprocal_ranks};
pub use pool::Turn;
pub use ranker::{RecallExample, RecallRanker};
