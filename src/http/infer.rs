//! The shape of `POST /infer`'s answer.

use std::collections::BTreeMap;

use nyx_actors::Decision;
use nyx_actors::decision::{AdapterVersion, Timings, TokenUsage};
use nyx_specialists::Evidence;
use serde::Serialize;
use uuid::Uuid;

/// What `/infer` answers.
#[derive(Debug, Serialize)]
pub struct InferResponse {
    pub decision_id: Uuid,
    pub specialist: String,
    pub answer: String,
    pub confidence: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice_probabilities: Option<BTreeMap<String, f64>>,
    pub decision: Choice,
    pub evidence: Vec<Evidence>,
    pub adapter: Option<AdapterVersion>,
    pub usage: TokenUsage,
    pub timings: Timings,
}

/// How the specialist was chosen: each maps a name to a number.
#[derive(Debug, Serialize)]
pub struct Choice {
    pub scores: BTreeMap<String, f64>,
    pub propensities: BTreeMap<String, f64>,
    pub trait_weights: BTreeMap<String, f64>,
}

impl From<Decision> for InferResponse {
    fn from(decision: Decision) -> Self {
        let answer = decision.answer().to_owned();
        let Decision { scores, propensities, trait_weights, choices, choice_probabilities, .. } = decision;
        Self {
            decision_id: decision.id,
            specialist: decision.specialist,
            answer,
            confidence: decision.confidence,
            choice_probabilities: choices.zip(choice_probabilities).map(|(choices, values)| choices.into_iter().zip(values).collect()),
            decision: Choice { scores, propensities, trait_weights },
            evidence: decision.evidence,
            adapter: decision.adapter,
            usage: decision.usage,
            timings: decision.timings,
        }
    }
}
