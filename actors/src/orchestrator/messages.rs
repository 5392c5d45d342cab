//! What may be asked of the orchestrator.

use std::collections::BTreeMap;

use actix::Message;
use tokio::sync::mpsc;

use crate::phoebe::messages::{StoreTraitWeight, TraitWeightChange};
use crate::question::{Question, StreamEvent};
use crate::{Decision, NyxError, RequestContext};

/// Decides who answers, has it answered and recorded.
#[derive(Message)]
#[rtype(result = "Result<Box<Decision>, NyxError>")]
pub struct Ask {
    pub context: RequestContext,
    pub question: Question,
    pub events: Option<mpsc::Sender<StreamEvent>>,
}

/// Moves the trait weight of a specialist: the one way in which weights change.
#[derive(Debug, Message)]
#[rtype(result = "Result<TraitWeightChange, NyxError>")]
pub struct UpdateTraitWeight(pub StoreTraitWeight);

/// Every specialist's weight, 0 where none was set.
#[derive(Debug, Message)]
#[rtype(result = "Result<BTreeMap<String, f64>, NyxError>")]
pub struct TraitWeights;
