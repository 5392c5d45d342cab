//! Screening a question, and answering one that no one is asked to answer.

use std::sync::Arc;

use nyx_domain::{Answer, CellStep, Question, STOPPED_BY_POLICY, StreamEvent};
use tokio::sync::mpsc;

use super::state::OrchestratorState;
use crate::RequestContext;
use crate::specialist::{Screened, SpecialistAnswer};
impl OrchestratorState {
    /// Screens what is asked; with choices, findings are only recorded.
    pub(super) fn screen(&self, context: &RequestContext, question: &Question, asked: &str) -> Arc<Screened> {
        // what is to be read counts as asked; earlier turns were screened when they were
        let read = question.inputs.context.as_ref().map(|context| format!("{context}\n\n{asked}"));
        let screened = Screened::of(&self.setup.safety, read.as_deref().unwrap_or(asked), question.choices.is_none());
        if !screened.findings().is_empty() {
            self.setup.cells.publish(Some(context.id), None, CellStep::Screened { findings: screened.findings().to_vec() });
        }
        Arc::new(screened)
    }
}

/// A refusal, as if it had been response.
pub(super) fn refused(
    text: &str,
    question: &Question,
    screened: &Screened,
    events: Option<&mpsc::Sender<StreamEvent>>,
) -> SpecialistAnswer {
    for index in 0..question.n {
        let told = [
            StreamEvent::Token { index, text: text.to_owned(), logprobs: Vec::new() },
            StreamEvent::Finished { index, finish_reason: STOPPED_BY_POLICY.to_owned() },
        ];
        for event in told {
            // whether a reader is still there no longer matters
            let _ = events.map(|events| events.try_send(event));
        }
    }
    let answers = (0..question.n).map(|_| Answer { text: text.to_owned(), finish_reason: STOPPED_BY_POLICY.to_owned() }).collect();
    let mut response = SpecialistAnswer { answers, ..SpecialistAnswer::default() };
    response.trace.safety = Some(screened.report(Vec::new()));
    response
}
