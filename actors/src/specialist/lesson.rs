//! What a specialist reads of a question, in tokens: what it is trained on is what it will be served.

use std::sync::Arc;

use actix::{Handler, Message, ResponseFuture};

use super::{Specialist, SpecialistParts, Written};
use crate::question::Question;
use crate::{NyxError, RequestContext};

/// Writes a question as the specialist would read it, and has nobody speak.
#[derive(Message)]
#[rtype(result = "Result<Vec<Presented>, NyxError>")]
pub struct Present {
    pub context: RequestContext,
    pub question: Arc<Question>,
    /// What it should say to a question without choices.
    pub answers: Vec<String>,
}

/// One prompt, and the choices after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    pub prompt: Vec<u32>,
    /// The choices in tokens, in the order in which they were given; of a question without choices, the answers with their end.
    pub continuations: Vec<Vec<u32>>,
    /// Which choice of the question each stands for: with the names of two people exchanged, each stands for the other.
    pub stands_for: Vec<usize>,
}

impl Handler<Present> for Specialist {
    type Result = ResponseFuture<Result<Vec<Presented>, NyxError>>;

    fn handle(&mut self, message: Present, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let parts = Arc::clone(&self.parts);
        Box::pin(async move { parts.presented(message).await })
    }
}

impl SpecialistParts {
    /// The question as it is; where it is about two people, its two readings in its place. None at all where the text tells the two not apart: a rule
    /// answers then, and a model that learned its answers would give them where it should tell.
    async fn presented(self: Arc<Self>, message: Present) -> Result<Vec<Presented>, NyxError> {
        let Present { context, question, answers } = message;
        self.check_size(&question)?;
        let deadline_ms = context.budget_ms();
        let whole: Vec<usize> = (0..question.choices.as_ref().map_or(answers.len(), Vec::len)).collect();
        let asked = crate::orchestrator::last_question(&question);
        let (_, evidence) = self.look_up(&context, &asked, &question).await?;
        if let Some(mut found) = self.readings(&context, &question).await? {
            if !found.told_apart() {
                return Ok(Vec::new());
            }
            found.first = self.first_fits(&context, &found).await?;
            let mut exchanged_for = whole.clone();
            exchanged_for.swap(found.pair().0, found.pair().1);
            let mut readings = Vec::with_capacity(2);
            for (exchanged, stands_for) in [(false, whole), (true, exchanged_for)] {
                let Written { prompt, choices, .. } = self.write_reading(&context, &found, &evidence, exchanged, deadline_ms).await?;
                readings.push(Presented { prompt: prompt.tokens, continuations: choices, stands_for });
            }
            return Ok(readings);
        }
        let Written { prompt, choices, .. } = self.write_apart(&context, &question, evidence, None, deadline_ms).await?;
        let choices = if question.choices.is_some() { choices } else { self.spoken(&answers)? };
        let readings = vec![Presented { prompt: prompt.tokens, continuations: choices, stands_for: whole }];
        Ok(readings)
    }

    /// Answers in tokens, each with the token that ends it.
    fn spoken(&self, answers: &[String]) -> Result<Vec<Vec<u32>>, NyxError> {
        let end = self.text.end_tokens().first().copied();
        answers.iter().map(|answer| Ok(self.text.encode(answer)?.into_iter().chain(end).collect())).collect()
    }
}
