//! What a specialist reads of a question, in tokens: what it is trained on is what it will be served.

use std::sync::Arc;

use actix::{Handler, Message, ResponseFuture};

use super::{Specialist, SpecialistParts, Written};
use crate::{NyxError, RequestContext};
use nyx_domain::Question;

/// Writes a question as the specialist would read it, and has nobody speak.
#[derive(Message)]
#[rtype(result = "Result<Presented, NyxError>")]
pub struct Present {
    pub context: RequestContext,
    pub question: Arc<Question>,
    /// What it should say to a question without choices.
    pub answers: Vec<String>,
}

/// A prompt, and what may come after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    pub prompt: Vec<u32>,
    /// The choices in tokens, in the order in which they were given; of a question without choices, the answers with their end.
    pub continuations: Vec<Vec<u32>>,
}

impl Handler<Present> for Specialist {
    type Result = ResponseFuture<Result<Presented, NyxError>>;

    fn handle(&mut self, message: Present, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = Arc::clone(&self.parts);
        Box::pin(async move { parts.presented(message).await })
    }
}

impl SpecialistParts {
    async fn presented(self: Arc<Self>, message: Present) -> Result<Presented, NyxError> {
        let Present { context, question, answers } = message;
        self.check_size(&question)?;
        let asked = question.last_user_message();
        let evidence = self.retrieve(&context, &asked, &question.inputs.memory).await?;
        let Written { prompt, choices, .. } = self.write_apart(&context, &question, evidence, context.budget_ms()).await?;
        let continuations = if question.choices.is_some() { choices } else { self.response(&answers)? };
        Ok(Presented { prompt: prompt.tokens, continuations })
    }

    /// Answers in tokens, each with the token that ends it.
    fn response(&self, answers: &[String]) -> Result<Vec<Vec<u32>>, NyxError> {
        let end = self.text.end_tokens().first().copied();
        answers.iter().map(|answer| Ok(self.text.encode(answer)?.into_iter().chain(end).collect())).collect()
    }
}
