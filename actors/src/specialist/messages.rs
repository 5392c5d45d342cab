//! Messages of a specialist.

use std::sync::Arc;

use actix::Message;
use nyx_domain::{
    AdapterVersion, Answer, AnswerMode, Evidence, Finding, Signals, StreamEvent, Timings,
    TokenUsage, Trace,
};
use nyx_engine::SamplingParams;
use nyx_specialists::AutomaticReward;
use tokio::sync::mpsc;

use super::screen::Screened;
use crate::validation::ValidQuestion;
use crate::{NyxError, RequestContext};

/// Answers a question that was routed to this specialist.
#[derive(Message)]
#[rtype(result = "Result<SpecialistAnswer, NyxError>")]
pub struct AnswerRequest {
    pub context: RequestContext,
    pub question: ValidQuestion,
    pub screened: Arc<Screened>,
    pub events: Option<mpsc::Sender<StreamEvent>>,
}

/// A specialist's answer and its record.
#[derive(Debug, Default)]
pub struct SpecialistAnswer {
    pub evidence: Vec<Evidence>,
    pub answers: Vec<Answer>,
    pub choice_probabilities: Option<Vec<f64>>,
    pub probability: Option<f64>,
    /// Estimated probability that the answer is right; `None` without a calibrator.
    pub confidence: Option<f64>,
    /// The inputs of the confidence.
    pub(crate) signals: Signals,
    pub automatic_reward: Option<AutomaticReward>,
    pub adapter: Option<AdapterVersion>,
    pub sampling: SamplingParams,
    pub usage: TokenUsage,
    pub trace: Trace,
    /// The mode of the answer, where one was planned.
    pub(crate) mode: Option<AnswerMode>,
    /// Findings of the safety policy in the answers.
    pub(crate) findings: Vec<Finding>,
    /// Without `decide_ms` and `total_ms`.
    pub timings: Timings,
}

/// Writes the prompt of a question without generating an answer.
#[derive(Message)]
#[rtype(result = "Result<Presented, NyxError>")]
pub struct Present {
    pub context: RequestContext,
    pub question: ValidQuestion,
    /// Answers to a question without choices.
    pub answers: Vec<String>,
}

/// A prompt and its continuations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    pub prompt: Vec<u32>,
    /// The choices in tokens, in their order; for a question without choices, the answers with
    /// their end token.
    pub continuations: Vec<Vec<u32>>,
}
