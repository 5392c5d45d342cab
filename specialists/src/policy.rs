//! OWNER: SP (interface fixed, inside free; split into files).

use chrono::{DateTime, Utc};

use crate::Evidence;

#[derive(Debug, thiserror::Error)]
pub enum SpecialistError {
    #[error("{origin}: {reason}")]
    BadFile { origin: String, reason: String },
    #[error("specialist {name}: {reason}")]
    BadPrompt { name: String, reason: String },
}

/// Where a specialist looks before it answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Retrieval {
    None,
    /// The vector memory.
    Memory {
        k: usize,
        min_score: f32,
    },
    /// Phoebe's rows.
    Record {
        k: usize,
    },
}

/// One specialist, as its file in `config/specialists/` describes it.
#[derive(Debug, Clone)]
pub struct SpecialistPolicy {
    /// Lower-case name: of the model `nyx/NAME`, of the actor, of the trait weight.
    pub name: String,
    /// One line for the master.
    pub purpose: String,
    /// The adapter's folder; `None` speaks through the base alone.
    pub adapter: Option<String>,
    /// The pool group it is pinned to.
    pub group: Option<usize>,
    pub retrieval: Retrieval,
    /// Defaults where the caller says nothing.
    pub temperature: f32,
    pub top_p: f32,
    pub repetition_penalty: f32,
    pub max_tokens: usize,
}

/// What a prompt is written from.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub now: DateTime<Utc>,
    /// Milliseconds until the caller's deadline.
    pub deadline_ms: u64,
    pub evidence: &'a [Evidence],
    pub question: &'a str,
}

/// What a specialist reads out of its own answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// A forecast's probability in [0, 1], where the answer form asks for one and the text holds one.
    pub probability: Option<f64>,
}

/// What a reward is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    pub answer: &'a str,
    pub evidence: &'a [Evidence],
    pub reading: Reading,
    pub elapsed_ms: f64,
    pub deadline_ms: u64,
    /// The answer ended by itself (not cut by length or deadline).
    pub complete: bool,
}

/// How well the specialist's own quality showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Trait activation in [0, 1].
    pub activation: f64,
    /// The automatic reward in [-1, 1].
    pub reward: f64,
    /// The rule that gave it, for the record.
    pub rule: String,
}

impl SpecialistPolicy {
    /// Parses and validates one file; `origin` names it in errors. Unknown keys are refused.
    pub fn parse(_origin: &str, _toml: &str) -> Result<Self, SpecialistError> {
        todo!()
    }
    /// The part of the system prompt that is the same for every request (what the prefix cache keeps).
    pub fn fixed_prompt(&self) -> &str {
        todo!()
    }
    /// The whole system prompt: `fixed_prompt` and then what depends on the situation (evidence, the present, the deadline).
    pub fn system_prompt(&self, _situation: &Situation<'_>) -> Result<String, SpecialistError> {
        todo!()
    }
    pub fn read(&self, _answer: &str) -> Reading {
        todo!()
    }
    /// The automatic reward, or `None` where only people or the future can tell.
    pub fn judge(&self, _outcome: &Outcome<'_>) -> Option<Verdict> {
        todo!()
    }
}
