//! The characters: each specialist's prompt, retrieval, answer form and reward, pure and synchronous. No I/O, no actix.

mod evidence;
mod policy;

pub use evidence::Evidence;
pub use policy::{Outcome, Reading, Retrieval, Situation, SpecialistError, SpecialistPolicy, Verdict};
