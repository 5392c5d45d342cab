//! `POST /v1/chat/completions`, compatible with OpenAI's endpoint.

pub(super) mod request;
mod response;
mod stream;

use actix_web::{HttpResponse, web};
use nyx_actors::{Nyx, NyxError};
use tokio::sync::mpsc;

use self::request::ChatRequest;
use self::response::{ChatCompletion, Heading, LogprobsByIndex};
use self::stream::{ChatFrames, ChunkExample};
use super::error::{ApiError, ErrorBody};
use super::extract::Admitted;
use super::models::specialist_names;
use super::sse::{self, Answering, EVENTS, Step};
use crate::http::state::AppState;

/// Maximum wait for each event of an answer that does not stream.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Answers a chat, as OpenAI's endpoint of the same name does. `model` selects the specialist:
/// `nyx` (the master model routes), `nyx/NAME` or `nyx/base`.
///
/// With `stream: true` the response is server-sent events of chunks; the last finish reason comes
/// with `nyx`, and `[DONE]` only once the decision is recorded. A failure after the first tokens is
/// an event `{"error": ...}` without `[DONE]`.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatRequest,
    responses((status = 200, content((ChatCompletion = "application/json"), (ChunkExample = "text/event-stream"))),
        (status = 404, description = "no such model", body = ErrorBody)))]
pub async fn complete(
    nyx: web::Data<Nyx>,
    state: web::Data<AppState>,
    request: Admitted<ChatRequest>,
) -> Result<HttpResponse, ApiError> {
    let Admitted { permit, client, body } = request;
    let asked = body.understood(&specialist_names(&nyx))?;
    let context = nyx.admission.context(asked.deadline_ms)?.of(client);
    let heading =
        Heading::new(context.id, asked.question.target.model(), &nyx.model.sha256, state.now());
    let n = asked.question.n;
    let nyx = nyx.get_ref().clone();

    if asked.stream {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let question = asked.question;
        let ask = async move { nyx.decisions.ask(context, question, Some(sender)).await };
        return sse::respond(
            Answering::new(receiver, ask),
            permit,
            ChatFrames::new(heading, n, asked.include_usage),
        )
        .await;
    }
    let wants_logprobs = asked.question.sampling.logprobs.is_some();
    let mut logprobs = LogprobsByIndex::default();
    let decision = if wants_logprobs {
        // log-probabilities are only in the stream events, not in the record
        let (sender, receiver) = mpsc::channel(EVENTS);
        let question = asked.question;
        let mut answering = Answering::new(receiver, async move {
            nyx.decisions.ask(context, question, Some(sender)).await
        });
        loop {
            match answering.step(PATIENCE).await {
                Step::Event(event) => logprobs.collect(event),
                Step::Idle => {}
                Step::Ended(outcome) => break *outcome,
            }
        }
    } else {
        Box::pin(nyx.decisions.ask(context, asked.question, None)).await
    };
    let decision = decision.map_err(blame_the_model)?;
    drop(permit);
    Ok(HttpResponse::Ok().json(ChatCompletion::new(
        heading,
        decision,
        wants_logprobs.then_some(logprobs),
    )))
}

/// On this endpoint the field `model` names the specialist.
fn blame_the_model(error: NyxError) -> ApiError {
    let unknown = matches!(error, NyxError::UnknownSpecialist { .. });
    let error = ApiError::from(error);
    if unknown { error.about("model") } else { error }
}
