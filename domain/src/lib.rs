//! The data types that all crates share: questions, messages, decisions, events, evidence, traces,
//! feedback, memories and error codes. No I/O, and no logic beyond what a type says about itself.

#![cfg_attr(test, allow(clippy::too_many_lines))]
#![warn(missing_docs)]

mod adapter;
mod confidence;
mod decision;
mod error;
mod event;
mod evidence;
mod feedback;
mod forecast;
mod memory;
mod message;
mod question;
mod safety;
mod timing;
mod trace;

pub use adapter::{AdapterChoice, AdapterVersion};
pub use confidence::Signals;
pub use decision::{Answer, Decision, Status, Timings, TokenUsage};
pub use error::{ErrorClass, ErrorCode};
pub use event::{CellEvent, CellStep, StreamEvent, TokenLogprob};
pub use evidence::Evidence;
pub use feedback::{
    DecisionName, Feedback, FeedbackInput, FeedbackKind, FeedbackResult, OpenForecast,
    OutcomeInput, TraitWeightChange,
};
pub use forecast::Forecast;
pub use memory::{Memory, MemoryFilter, MemorySelector};
pub use message::{ChatMessage, Role};
pub use question::{Question, RequestInputs, SamplingOverrides, Target, tail};
pub use safety::{Finding, SafetyAction, SafetyReport, Side};
pub use timing::{AnswerMode, LatencyEstimate, Pace, Plan};
pub use trace::{
    Arm, CanaryTrace, ConfidenceTrace, RememberedTrace, RequestTrace, TimingTrace, Trace,
};

/// The finish reason of an answer that the safety policy stopped or replaced.
pub const STOPPED_BY_POLICY: &str = "content_filter";
