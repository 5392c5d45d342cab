//! Screening of a question, and refusals.

use std::sync::Arc;

use nyx_domain::{Answer, CellStep, Question, STOPPED_BY_POLICY, StreamEvent};
use tokio::sync::mpsc;

use super::state::OrchestratorState;
use crate::RequestContext;
use crate::specialist::{Screened, SpecialistAnswer};

impl OrchestratorState {
    /// Screens a question; with choices, findings are only recorded.
    pub(super) fn screen(
        &self,
        context: &RequestContext,
        question: &Question,
        asked: &str,
    ) -> Arc<Screened> {
        // the context counts as part of the question; earlier turns were screened before
        let read = question.inputs.context.as_ref().map(|context| format!("{context}\n\n{asked}"));
        let screened = Screened::of(
            &self.setup.safety,
            read.as_deref().unwrap_or(asked),
            question.choices.is_none(),
        );
        if !screened.findings().is_empty() {
            self.setup.cells.publish(
                Some(context.id),
                None,
                CellStep::Screened { findings: screened.findings().to_vec() },
            );
        }
        Arc::new(screened)
    }
}

/// A refusal as a specialist's answer.
pub(super) fn refused(
    text: &str,
    question: &Question,
    screened: &Screened,
    events: Option<&mpsc::Sender<StreamEvent>>,
) -> SpecialistAnswer {
    for index in 0..question.n {
        let parts = [
            StreamEvent::Token { index, text: text.to_owned(), logprobs: Vec::new() },
            StreamEvent::Finished { index, finish_reason: STOPPED_BY_POLICY.to_owned() },
        ];
        for event in parts {
            // a reader that has left does not matter any more
            let _ = events.map(|events| events.try_send(event));
        }
    }
    let answers = (0..question.n)
        .map(|_| Answer { text: text.to_owned(), finish_reason: STOPPED_BY_POLICY.to_owned() })
        .collect();
    let mut response = SpecialistAnswer { answers, ..SpecialistAnswer::default() };
    response.trace.safety = Some(screened.report(Vec::new()));
    response
}
