//! Specialists: each one's prompt, retrieval, answer form and reward. Pure and synchronous: no I/O,
//! no actix.
//!
//! A specialist is one TOML file ([`SpecialistPolicy::parse`]); Nyx ships five and a general
//! assistant ([`BUILTIN`]); another one needs a file and no code.
//! The current time is part of the [`PromptContext`], so that the same question, evidence and time
//! always give the same prompt.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::too_many_lines))]

pub mod bandit;
mod builtin;
mod citations;
pub mod confidence;
mod error;
pub mod facts;
mod file;
pub mod forecast;
pub mod gate;
pub mod learn;
mod limits;
mod odds;
mod policy;
mod probability;
mod prompt;
pub mod recall;
mod reward;
pub mod safety;
mod similarity;
pub mod strategy;
pub mod time;
pub mod tokens;

#[cfg(test)]
mod test_rng;

pub use citations::{cited, without_citations};
pub use error::SpecialistError;

pub use builtin::BUILTIN;
pub use policy::SpecialistPolicy;
pub use prompt::{PromptContext, PromptTemplate};
pub use reward::{
    AutomaticReward, Outcome, brier_reward, calibration, choices_reward, delayed, quadratic_reward,
    reward_of, support, timeliness,
};
pub use similarity::similarity;
