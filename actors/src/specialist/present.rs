//! A specialist's prompt in tokens, for training: what it is trained on is what it is served.

use std::sync::Arc;

use super::messages::{Present, Presented};
use super::prompt::Written;
use super::state::SpecialistState;
use crate::NyxError;

impl SpecialistState {
    pub(super) async fn presented(
        self: Arc<Self>,
        message: Present,
    ) -> Result<Presented, NyxError> {
        let Present { context, question, answers } = message;
        let asked = question.last_user_message();
        let evidence = self.retrieve(&context, &asked, &question.inputs.memory).await?;
        let Written { prompt, choices, .. } =
            self.write_prompt(&context, &question, evidence, context.budget_ms()).await?;
        let continuations =
            if question.choices.is_some() { choices } else { self.response(&answers)? };
        Ok(Presented { prompt: prompt.tokens, continuations })
    }

    /// Answers in tokens, each with the token that ends it.
    fn response(&self, answers: &[String]) -> Result<Vec<Vec<u32>>, NyxError> {
        let end = self.setup.text.end_tokens().first().copied();
        answers
            .iter()
            .map(|answer| Ok(self.setup.text.encode(answer)?.into_iter().chain(end).collect()))
            .collect()
    }
}
