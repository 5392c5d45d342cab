//! `GET /v1/cells`: a live stream of decision events over a WebSocket.

use std::time::{Duration, Instant};

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_ws::{CloseCode, CloseReason, Closed, Message, MessageStream, Session};
use nyx_actors::Nyx;
use nyx_actors::cells::Subscription;
use nyx_domain::CellEvent;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::error::ApiError;
use super::extract::{Query, parsed};
use super::models::{specialist_names, target_of_specialist};

/// Interval between pings.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client that sends nothing, not even a pong, for this long is disconnected.
const GONE_AFTER: Duration = Duration::from_secs(65);
/// Maximum duration of one write before the client is disconnected.
const STALL: Duration = Duration::from_secs(10);

/// Which events to stream.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CellParams {
    /// Only events of this specialist; events before routing have no specialist.
    specialist: Option<String>,
    /// First every retained event with a higher id (of the last 10,000); only new events when
    /// absent.
    #[param(value_type = Option<u64>)]
    after: Option<String>,
}

/// Streams every step of every decision as typed JSON events with increasing ids.
///
/// `event` is `asked`, `scored`, `decided`, `retrieved`, `first_token`, `answered`, `recorded`,
/// `rewarded`, `weights_updated` or `failed`; `gap` reports that some events after `after` are no
/// longer retained. A client that reads too slowly is closed with code 1008 and may reconnect with
/// `after`.
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
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message)
            .with_header(header::UPGRADE, "websocket")
    })?;
    let reader =
        Reader { session, specialist, after, draining: nyx.admission.draining(), stall: STALL };
    actix_web::rt::spawn(reader.serve(nyx.cells.subscribe(after), messages));
    Ok(response)
}

struct Reader {
    session: Session,
    specialist: Option<String>,
    after: Option<u64>,
    draining: CancellationToken,
    /// Maximum duration of one write.
    stall: Duration,
}

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The client left, or cannot be written to.
    Gone,
    TooSlow(String),
    ShuttingDown,
    /// The client sent an invalid message.
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
        let reason =
            reason.map(|(code, description)| CloseReason { code, description: Some(description) });
        // a client that does not read does not receive the close frame either
        let _ = tokio::time::timeout(self.stall, self.session.close(reason)).await;
    }

    async fn run(
        &mut self,
        subscription: Subscription,
        mut messages: MessageStream,
    ) -> Result<(), End> {
        let Subscription { backlog, gap, mut live } = subscription;
        if gap {
            let first_kept = backlog.first().map(|event| event.id);
            let gap =
                json!({"event": "gap", "after": self.after, "first_kept": first_kept}).to_string();
            bounded(self.stall, self.session.text(gap)).await?;
        }
        for event in backlog {
            self.send(&event).await?;
        }
        let mut ping = tokio::time::interval(PING_EVERY);
        let mut answered = Instant::now();
        loop {
            tokio::select! {
                () = self.draining.cancelled() => return Err(End::ShuttingDown),
                event = live.recv() => match event {
                    Ok(event) => self.send(&event).await?,
                    Err(RecvError::Closed) => return Err(End::ShuttingDown),
                    Err(RecvError::Lagged(lost)) => {
                        return Err(End::TooSlow(format!("too slow: {lost} events lost; come back with ?after=ID")));
                    }
                },
                message = messages.recv() => {
                    answered = Instant::now();
                    match message {
                        Some(Ok(Message::Ping(bytes))) => bounded(self.stall, self.session.pong(&bytes)).await?,
                        Some(Ok(Message::Close(_))) | None => return Ok(()),
                        // messages from clients are ignored
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Err(End::Protocol(error.to_string())),
                    }
                }
                _ = ping.tick() => {
                    if answered.elapsed() > GONE_AFTER {
                        return Err(End::Gone);
                    }
                    bounded(self.stall, self.session.ping(b"")).await?;
                }
            }
        }
    }

    async fn send(&mut self, event: &CellEvent) -> Result<(), End> {
        if self.specialist.is_some() && event.specialist != self.specialist {
            return Ok(());
        }
        let text =
            serde_json::to_string(event).map_err(|error| End::Protocol(error.to_string()))?;
        bounded(self.stall, self.session.text(text)).await
    }
}

async fn bounded(
    stall: Duration,
    write: impl Future<Output = Result<(), Closed>>,
) -> Result<(), End> {
    match tokio::time::timeout(stall, write).await {
        Ok(written) => written.map_err(|Closed| End::Gone),
        Err(_) => Err(End::TooSlow(format!(
            "too slow: nothing was read for {} s; come back with ?after=ID",
            stall.as_secs_f32()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use actix_web::{App, HttpServer};
    use futures_util::StreamExt;
    use nyx_actors::cells::CellStream;
    use nyx_domain::CellStep;

    use super::*;

    async fn stream(
        cells: web::Data<CellStream>,
        request: HttpRequest,
        body: web::Payload,
    ) -> actix_web::Result<HttpResponse> {
        let (response, session, messages) = actix_ws::handle(&request, body)?;
        let draining = CancellationToken::new();
        let reader = Reader {
            session,
            specialist: None,
            after: None,
            draining,
            stall: Duration::from_secs(60),
        };
        actix_web::rt::spawn(reader.serve(cells.subscribe(None), messages));
        Ok(response)
    }

    #[actix_web::test]
    async fn a_slow_reader_is_dropped_with_a_reason_and_slows_nobody() {
        let cells = CellStream::default();
        let data = web::Data::new(cells.clone());
        let server = HttpServer::new(move || {
            App::new().app_data(data.clone()).route("/", web::get().to(stream))
        });
        let server = server.workers(1).bind("127.0.0.1:0").unwrap();
        let address = server.addrs()[0];
        let running = server.disable_signals().run();
        let handle = running.handle();
        actix_web::rt::spawn(running);

        // one client reads as fast as it can, one sends a handshake and then does not read
        let (_, mut quick) =
            awc::Client::new().ws(format!("http://{address}/")).connect().await.unwrap();
        let mut slow = actix_web::rt::task::spawn_blocking(move || {
            let mut slow = TcpStream::connect(address).unwrap();
            slow.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let hello = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
            slow.write_all(hello.as_bytes()).unwrap();
            let mut first = [0];
            slow.read_exact(&mut first).unwrap();
            slow
        });
        let slow = (&mut slow).await.unwrap();
        let question = "?".repeat(20_000);
        let mut answered = 0;
        while answered < 4_000 {
            for _ in 0..200 {
                cells.publish(
                    None,
                    None,
                    CellStep::Asked { requested: "nyx".into(), question: question.clone() },
                );
            }
            let batch = answered + 200;
            while answered < batch {
                let frame = actix_web::rt::time::timeout(Duration::from_secs(60), quick.next())
                    .await
                    .expect("it was slowed");
                match frame.unwrap().unwrap() {
                    awc::ws::Frame::Text(_) => answered += 1,
                    frame => assert!(matches!(frame, awc::ws::Frame::Ping(_)), "{frame:?}"),
                }
            }
        }
        let said = actix_web::rt::task::spawn_blocking(move || {
            let (mut slow, mut said) = (slow, Vec::new());
            // until the server closes the connection or stops sending
            let _ = slow.read_to_end(&mut said);
            said
        });
        let said = said.await.unwrap();
        let reason = String::from_utf8_lossy(&said[said.len().saturating_sub(100)..]).into_owned();
        assert!(reason.contains("too slow") && reason.contains("?after=ID"), "{reason:?}");
        // a close frame's code comes before its reason
        let at = said.windows(8).rposition(|window| window == b"too slow").unwrap();
        assert_eq!(u16::from_be_bytes([said[at - 2], said[at - 1]]), 1008);
        handle.stop(false).await;
    }
}
