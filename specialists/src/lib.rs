//! The characters: each specialist's prompt, retrieval, answer form and reward, pure and synchronous. No I/O, no actix.

mod evidence;

pub use evidence::Evidence;
