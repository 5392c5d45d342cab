//! `remember: true`: the question and the answer become memories of the conversation.

use std::time::Duration;

use nyx_domain::{Decision, MemorySelector, Question, RememberedTrace, STOPPED_BY_POLICY, Status};
use uuid::Uuid;

use super::record::RECORD_GRACE;
use super::state::OrchestratorState;
use crate::RequestContext;
use crate::memory::messages::{Forget, NewMemory, RememberMany};

/// The speaker of a question.
const USER: &str = "user";

impl OrchestratorState {
    /// Stores the user's last message and the answer, in this order and within `budget`, and
    /// records their ids in the trace. A failure does not fail the answer: the trace has the
    /// reason. Returns the ids.
    pub(super) async fn remember(
        &self,
        context: &RequestContext,
        question: &Question,
        decision: &mut Decision,
        budget: Duration,
    ) -> Vec<Uuid> {
        if !question.inputs.remember || decision.status != Status::Answered {
            return Vec::new();
        }
        if decision.answers.iter().any(|answer| answer.finish_reason == STOPPED_BY_POLICY) {
            let warning = "not stored: the safety policy stopped the answer".to_owned();
            decision.trace.remembered = Some(RememberedTrace::Warning(warning));
            return Vec::new();
        }
        let turn = |speaker: &str, text: &str| NewMemory {
            text: text.to_owned(),
            speaker: Some(speaker.to_owned()),
            when: Some(question.inputs.now.unwrap_or(decision.asked_at)),
            conversation: question.conversation.clone(),
            caption: None,
        };
        let memories =
            vec![turn(USER, &decision.question), turn(&decision.specialist, decision.answer())];
        let own = RequestContext { span: context.span.clone(), ..RequestContext::new(budget) };
        let answer_by = own.answer_by();
        let kept =
            self.setup.memory.send_until(RememberMany { context: own, memories }, answer_by).await;
        let (ids, note) = match kept {
            Ok(kept) => {
                let ids: Vec<Uuid> = kept.into_iter().map(|memory| memory.id).collect();
                (ids.clone(), RememberedTrace::Ids(ids))
            }
            Err(error) => {
                tracing::warn!(%error, decision = %decision.id, "what was asked and answered could not be remembered");
                (Vec::new(), RememberedTrace::Warning(error.to_string()))
            }
        };
        decision.trace.remembered = Some(note);
        ids
    }

    /// Deletes the memories of a decision that could not be recorded: a retry must not store them
    /// twice.
    pub(super) async fn unremember(&self, ids: Vec<Uuid>) {
        if ids.is_empty() {
            return;
        }
        let context = RequestContext::new(RECORD_GRACE);
        let answer_by = context.answer_by();
        if let Err(error) = self
            .setup
            .memory
            .send_until(Forget { context, selector: MemorySelector::Ids(ids) }, answer_by)
            .await
        {
            tracing::warn!(%error, "what was remembered of a decision that is not on record could not be taken back");
        }
    }
}
