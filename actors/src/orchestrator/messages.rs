//! What may be asked of the orchestrator.

use std::collections::BTreeMap;

use actix::Message;
use nyx_domain::{Decision, StreamEvent, TraitWeightChange};
use tokio::sync::mpsc;

use crate::phoebe::messages::StoreTraitWeight;
use crate::validation::ValidQuestion;
use crate::{NyxError, RequestContext};

/// Decides who answers, has it answered and recorded.
#[derive(Message)]
#[rtype(result = "Result<Box<Decision>, NyxError>")]
pub struct Ask {
    pub context: RequestContext,
    pub question: ValidQuestion,
    pub events: Option<mpsc::Sender<StreamEvent>>,
}

/// What entries did to trait weights, on record already: the master chooses by it from now on.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NyxError>")]
pub struct TraitWeightsMoved(pub Vec<TraitWeightChange>);

/// Sets the trait weight of a specialist by hand. Otherwise weights change only by entries ([`RecordFeedback`](crate::phoebe::messages::RecordFeedback)).
#[derive(Debug, Message)]
#[rtype(result = "Result<TraitWeightChange, NyxError>")]
pub struct UpdateTraitWeight(pub StoreTraitWeight);

/// Every specialist's weight, 0 where none was set.
#[derive(Debug, Message)]
#[rtype(result = "Result<BTreeMap<String, f64>, NyxError>")]
pub struct TraitWeights;

/// Weighs the specialists for a question, and has nobody speak.
#[derive(Debug, Message)]
#[rtype(result = "Result<Routing, NyxError>")]
pub struct Route {
    pub context: RequestContext,
    pub question: String,
}

/// What a question's specialists are worth, by name. Empty where the caller chose.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routing {
    /// The base model's score of each, less its content-free score; empty where they came too late.
    pub scores: BTreeMap<String, f64>,
    /// How like the question is to each one's examples; empty where the scores alone decide.
    pub similarities: BTreeMap<String, f64>,
    /// The similarity times its scale (without one the score), with the trait weight: the propensities follow from these.
    pub logits: BTreeMap<String, f64>,
    pub propensities: BTreeMap<String, f64>,
    pub decide_ms: f64,
}

impl Routing {
    /// Whose logit is the highest.
    pub fn best(&self) -> Option<&str> {
        self.logits.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name.as_str())
    }
}
