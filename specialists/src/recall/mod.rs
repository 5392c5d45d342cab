//! Recall: bringing lists of remembered turns together, and keeping the result from saying one thing twice. Pure and synchronous.

mod fusion;

pub use fusion::{cosine, diverse, reciprocal_ranks};
