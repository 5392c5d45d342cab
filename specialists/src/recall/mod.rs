//! Recall: fuses lists of remembered turns, and diversifies the result. Pure and synchronous.

mod fusion;

pub use fusion::{cosine, diverse, reciprocal_ranks};
