//! `GET /v1/cells`: the live stream of cell decisions over a WebSocket.

use std::time::{Duration, Instant};

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{CloseCode, CloseReason, Closed, Message, MessageStream, Session};
use nyx_actors::Nyx;
use nyx_actors::cells::{CellEvent, Subscription};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::error::ApiError;
use super::extract::{Query, parsed};
use super::models::{specialist_names, target_of_specialist};

/// How often a silent reader is pinged.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A reader that says nothing, not even pong, for this long is gone.
const GONE_AFTER: Duration = Duration::from_secs(65);
/// How long one write may take before the reader is given up.
const STALL: Duration = Duration::from_secs(10);

/// What to read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CellParams {
    /// Only events that concern this specialist; those before one was chosen concern none.
    specialist: Option<String>,
    /// Everything kept after this id (of the last 10,000) first; from now on when absent.
    #[param(value_type = Option<u64>)]
    after: Option<String>,
}

/// Streams every step of every decision as typed JSON events with rising ids.
///
/// `event` is `asked`, `scored`, `decided`, `retrieved`, `first_token`, `answered`, `recorded`, `rewarded`, `weights_updated` or `failed`; `gap` says that
/// some events after `after` are no longer kept. A reader that is too slow is closed with code 1008 and may come back with `after`.
#[utoipa::path(get, path = "/v1/cells", tag = "nyx", params(CellParams),
    responses((status = 101, description = "a WebSocket of JSON text messages"), (status = 426, description = "not a WebSocket request")))]
pub async fn cells(
    nyx: web::Data<Nyx>,
    query: Query<CellParams>,
    request: HttpRequest,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let CellParams { specialist, after } = query.0;
    target_of_specialist(&specialist_names(&nyx), specialist.as_deref())?;
    let after = parsed::<u64>("after", after.as_deref(), "an event's id, a whole number")?;
    let (response, session, messages) = actix_ws::handle(&request, body).map_err(|error| {
        let message = format!("{error}: expected a WebSocket handshake");
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message).with_header(header::UPGRADE, "websocket")
    })?;
    let reader = Reader { session, specialist, after, draining: nyx.draining() };
    actix_web::rt::spawn(reader.serve(nyx.cells.subscribe(after), messages));
    Ok(response)
}

struct Reader {
    session: Session,
    specialist: Option<String>,
    after: Option<u64>,
    draining: CancellationToken,
}

/// Why a reader is no longer served.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It left, or cannot be written to.
    Gone,
    TooSlow(String),
    ShuttingDown,
    /// It sent what is not a message.
    Protocol(String),
}

impl Reader {
    async fn serve(mut self, subscription: Subscription, messages: MessageStream) {
        let end = self.run(subscription, messages).await;
        let reason = match end {
            Err(End::TooSlow(reason)) => Some((CloseCode::Policy, reason)),
            Err(End::ShuttingDown) => Some((CloseCode::Away, "Nyx is shutting down".to_owned())),
            Err(End::Protocol(reason)) => Some((CloseCode::Protocol, reason)),
            Ok(()) | Err(End::Gone) => None,
        };
        let reason = reason.map(|(code, description)| CloseReason { code, description: Some(description) });
        // who does not read does not read this either
        let _ = tokio::time::timeout(STALL, self.session.close(reason)).await;
    }

    async fn run(&mut self, subscription: Subscription, mut messages: MessageStream) -> Result<(), End> {
        let Subscription { backlog, gap, mut live } = subscription;
        if gap {
            let first_kept = backlog.first().map(|event| event.id);
            let told = json!({"event": "gap", "after": self.after, "first_kept": first_kept}).to_string();
            bounded(self.session.text(told)).await?;
        }
        for event in backlog {
            self.tell(&event).await?;
        }
        let mut ping = tokio::time::interval(PING_EVERY);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                () = self.draining.cancelled() => return Err(End::ShuttingDown),
                event = live.recv() => match event {
                    Ok(event) => self.tell(&event).await?,
                    Err(RecvError::Closed) => return Err(End::ShuttingDown),
                    Err(RecvError::Lagged(lost)) => {
                        return Err(End::TooSlow(format!("too slow: {lost} events lost; come back with ?after=ID")));
                    }
                },
                message = messages.recv() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(Message::Ping(bytes))) => bounded(self.session.pong(&bytes)).await?,
                        Some(Ok(Message::Close(_))) | None => return Ok(()),
                        // nothing is expected from a reader, and nothing is wrong with a word
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(End::Protocol(error.to_string())),
                    }
                }
                _ = ping.tick() => {
                    if heard.elapsed() > GONE_AFTER {
                        return Err(End::Gone);
                    }
                    bounded(self.session.ping(b"")).await?;
                }
            }
        }
    }

    async fn tell(&mut self, event: &CellEvent) -> Result<(), End> {
        if self.specialist.is_some() && event.specialist != self.specialist {
            return Ok(());
        }
        let text = serde_json::to_string(event).map_err(|error| End::Protocol(error.to_string()))?;
        bounded(self.session.text(text)).await
    }
}

async fn bounded(write: impl Future<Output = Result<(), Closed>>) -> Result<(), End> {
    match tokio::time::timeout(STALL, write).await {
        Ok(written) => written.map_err(|Closed| End::Gone),
        Err(_) => Err(End::TooSlow(format!("too slow: nothing was read for {} s; come back with ?after=ID", STALL.as_secs()))),
    }
}
