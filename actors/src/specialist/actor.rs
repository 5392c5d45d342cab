//! The specialist actor: hands each message to the state.

use std::sync::Arc;

use actix::{Actor, Context, Handler, ResponseFuture};

use super::answer::AnswerTask;
use super::messages::{AnswerRequest, Present, Presented, SpecialistAnswer};
use super::state::SpecialistState;
use crate::NyxError;
use crate::observe::ActorMetrics;

/// The actor of one specialist.
pub struct Specialist {
    state: Arc<SpecialistState>,
    metrics: Arc<ActorMetrics>,
}

impl Specialist {
    pub fn new(state: Arc<SpecialistState>, metrics: Arc<ActorMetrics>) -> Self {
        Self { state, metrics }
    }
}

impl Actor for Specialist {
    type Context = Context<Self>;
}

impl Handler<AnswerRequest> for Specialist {
    type Result = ResponseFuture<Result<SpecialistAnswer, NyxError>>;

    fn handle(&mut self, message: AnswerRequest, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let state = Arc::clone(&self.state);
        Box::pin(async move {
            let AnswerRequest { context, question, screened, events } = message;
            AnswerTask::new(state, context, question).await?.run(&screened, events).await
        })
    }
}

impl Handler<Present> for Specialist {
    type Result = ResponseFuture<Result<Presented, NyxError>>;

    fn handle(&mut self, message: Present, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let state = Arc::clone(&self.state);
        Box::pin(async move { state.presented(message).await })
    }
}
