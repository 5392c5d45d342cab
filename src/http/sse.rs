//! Server-sent events: streams an answer to a client that may disconnect or stop reading at any
//! time.

use std::convert::Infallible;
use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::Bytes;
use futures_util::stream;
use nyx_actors::NyxError;
use nyx_domain::{Decision, StreamEvent};
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::Instrument;

use super::error::ApiError;

/// Capacity of the channel between the device and a client: more events than a client can miss
/// before it is dropped as stalled. Memory is allocated as it fills.
pub const EVENTS: usize = 16_384;
/// Timeouts of a stream.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Idle time after which a comment keeps proxies from closing the connection.
    keep_alive: Duration,
    /// Maximum time that a client may leave a full buffer unread.
    stall: Duration,
    /// Maximum wait for the first token before the status is sent; a failure before that has its
    /// own status.
    hold_status: Duration,
}

const PACE: Pace = Pace {
    keep_alive: Duration::from_secs(15),
    stall: Duration::from_secs(20),
    hold_status: Duration::from_secs(10),
};
/// Capacity of the channel of writes to the socket.
const BODY_CHUNKS: usize = 32;

type Asking<'a> = Pin<Box<dyn Future<Output = Result<Decision, NyxError>> + 'a>>;

/// An answer in progress: its stream events and its result. Dropping it cancels the work.
pub struct Answering<'a> {
    events: mpsc::Receiver<StreamEvent>,
    ask: Option<Asking<'a>>,
    outcome: Option<Result<Decision, NyxError>>,
    open: bool,
}

/// The next step of an answer.
#[derive(Debug)]
pub enum Step {
    Event(StreamEvent),
    /// The end, after the last event: the decision is recorded, or it failed.
    Ended(Box<Result<Decision, NyxError>>),
    /// No event within the wait.
    Idle,
}

impl<'a> Answering<'a> {
    pub fn new(
        events: mpsc::Receiver<StreamEvent>,
        ask: impl Future<Output = Result<Decision, NyxError>> + 'a,
    ) -> Self {
        Self { events, ask: Some(Box::pin(ask)), outcome: None, open: true }
    }

    /// The next event, or the end. Must not be called after the end.
    pub async fn step(&mut self, patience: Duration) -> Step {
        while let Some(ask) = &mut self.ask {
            tokio::select! {
                biased;
                event = self.events.recv(), if self.open => match event {
                    Some(event) => return Step::Event(event),
                    // the events have ended, the result is still pending
                    None => self.open = false,
                },
                outcome = ask => {
                    self.ask = None;
                    self.outcome = Some(outcome);
                }
                () = tokio::time::sleep(patience) => return Step::Idle,
            }
        }
        // events sent before the end are in the channel by now
        match self.events.try_recv() {
            Ok(event) => Step::Event(event),
            Err(_) => {
                Step::Ended(Box::new(self.outcome.take().unwrap_or(Err(NyxError::Cancelled))))
            }
        }
    }
}

/// Writes the frames of an endpoint's stream.
pub trait Frames {
    fn event(&mut self, event: StreamEvent, out: &mut String);
    /// The decision is recorded: writes the remaining frames, `[DONE]` included.
    fn ended(&mut self, decision: Decision, out: &mut String);
    /// The request failed after the stream had begun.
    fn failed(&mut self, error: &ApiError, out: &mut String);
}

/// Responds with a stream. Nothing is sent before the first token: a failure before it is an
/// ordinary error with its own status.
///
/// A separate task drives the work, not the socket, so that a client that stops reading is
/// detected. `permit` is released when the last byte is written or the client disconnects.
///
/// # Errors
/// The error of a request that failed before its first token.
pub async fn respond(
    answering: Answering<'static>,
    permit: impl Sized + 'static,
    frames: impl Frames + 'static,
) -> Result<HttpResponse, ApiError> {
    paced(answering, permit, frames, PACE).await
}

async fn paced(
    mut answering: Answering<'static>,
    permit: impl Sized + 'static,
    frames: impl Frames + 'static,
    pace: Pace,
) -> Result<HttpResponse, ApiError> {
    let mut begun = Vec::new();
    // after this time the status is sent in any case, and comments keep the connection alive
    let _ =
        tokio::time::timeout(pace.hold_status, first_words(&mut answering, &mut begun, pace)).await;
    if let Some(Step::Ended(outcome)) =
        begun.pop_if(|step| matches!(step, Step::Ended(outcome) if outcome.is_err()))
    {
        return Err(outcome.err().unwrap_or(NyxError::Cancelled).into());
    }
    let (sender, receiver) = mpsc::channel(BODY_CHUNKS);
    let work = async move {
        let _held_to_the_end = permit;
        tokio::select! {
            () = sender.closed() => tracing::debug!("the client disconnected from its stream"),
            () = write(answering, begun, frames, &sender, pace) => {}
        }
    };
    actix_web::rt::spawn(work.in_current_span());
    let body = stream::unfold(receiver, |mut receiver| async move {
        let chunk: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(chunk), receiver))
    });
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(body))
}

/// Waits for an event other than the choice of specialist.
async fn first_words(answering: &mut Answering<'_>, steps: &mut Vec<Step>, pace: Pace) {
    loop {
        match answering.step(pace.hold_status).await {
            Step::Idle => {}
            step @ Step::Event(StreamEvent::Decided { .. }) => steps.push(step),
            step => return steps.push(step),
        }
    }
}

/// Writes every step until the end, a disconnect or a stall.
async fn write(
    mut answering: Answering<'_>,
    begun: Vec<Step>,
    mut frames: impl Frames,
    sender: &mpsc::Sender<Bytes>,
    pace: Pace,
) {
    let mut begun = begun.into_iter();
    loop {
        let step = match begun.next() {
            Some(step) => step,
            None => answering.step(pace.keep_alive).await,
        };
        let mut out = String::new();
        let ended = matches!(step, Step::Ended(_));
        match step {
            Step::Event(event) => frames.event(event, &mut out),
            Step::Idle => out.push_str(": still here\n\n"),
            Step::Ended(outcome) => match *outcome {
                Ok(decision) => frames.ended(decision, &mut out),
                Err(error) => frames.failed(&error.into(), &mut out),
            },
        }
        if !out.is_empty() {
            match tokio::time::timeout(pace.stall, sender.send(Bytes::from(out))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    return tracing::info!(
                        "a client did not read its stream for {} s and was disconnected",
                        pace.stall.as_secs()
                    );
                }
            }
        }
        if ended {
            return;
        }
    }
}

/// One `data:` line.
pub fn data(value: &impl Serialize, out: &mut String) {
    // JSON has no raw line breaks, so it fits on one line; serialisation of our types does not fail
    let json = serde_json::to_string(value)
        .unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}"));
    let _ = write!(out, "data: {json}\n\n");
}

/// A named event with one `data:` line.
pub fn named(event: &str, value: &impl Serialize, out: &mut String) {
    let _ = writeln!(out, "event: {event}");
    data(value, out);
}

/// The last line of a stream whose decision is recorded.
pub fn done(out: &mut String) {
    out.push_str("data: [DONE]\n\n");
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Instant;

    use super::*;
    use crate::http::decisions::tests::decision;
    use actix_web::body::{BodySize, MessageBody, to_bytes};
    use uuid::Uuid;

    /// Writes only event names.
    struct Names;
    impl Frames for Names {
        fn event(&mut self, event: StreamEvent, out: &mut String) {
            out.push_str(match event {
                StreamEvent::Decided { .. } => "decided ",
                StreamEvent::Token { .. } => "token ",
                StreamEvent::Finished { .. } => "finished ",
            });
        }
        fn ended(&mut self, _: Decision, out: &mut String) {
            out.push_str("done");
        }
        fn failed(&mut self, error: &ApiError, out: &mut String) {
            out.push_str(error.detail.code);
        }
    }

    fn decided() -> StreamEvent {
        StreamEvent::Decided { decision: Uuid::nil(), specialist: "moira".into() }
    }

    fn token() -> StreamEvent {
        StreamEvent::Token { index: 0, text: "a".into(), logprobs: Vec::new() }
    }

    #[actix_web::test]
    async fn everything_sent_before_the_end_comes_before_it() {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let answering = Answering::new(receiver, async move {
            for event in [
                decided(),
                token(),
                token(),
                StreamEvent::Finished { index: 0, finish_reason: "stop".into() },
            ] {
                sender.try_send(event).unwrap();
            }
            Ok(decision())
        });
        let response = respond(answering, (), Names).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            to_bytes(response.into_body()).await.unwrap(),
            "decided token token finished done"
        );
    }

    #[actix_web::test]
    async fn a_failure_before_the_first_word_has_its_status_and_a_later_one_ends_the_stream() {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let early = Answering::new(receiver, async move {
            sender.try_send(decided()).unwrap();
            Err(NyxError::DeadlineExceeded { doing: "retrieving" })
        });
        assert_eq!(respond(early, (), Names).await.unwrap_err().status, 504);

        let (sender, receiver) = mpsc::channel(EVENTS);
        let late = Answering::new(receiver, async move {
            sender.try_send(token()).unwrap();
            tokio::task::yield_now().await;
            Err(NyxError::Internal("a fault".into()))
        });
        let body = respond(late, (), Names).await.unwrap().into_body();
        assert_eq!(to_bytes(body).await.unwrap(), "token internal_error");
    }

    #[actix_web::test]
    async fn a_client_that_leaves_frees_its_place_and_stops_the_work() {
        let permit = Rc::new(());
        let (sender, receiver) = mpsc::channel(EVENTS);
        let events = sender.clone();
        sender.try_send(token()).unwrap();
        let answering = Answering::new(receiver, async move {
            let _sender = sender;
            std::future::pending().await
        });
        let response = respond(answering, Rc::clone(&permit), Names).await.unwrap();
        assert_eq!(response.body().size(), BodySize::Stream);
        assert_eq!(Rc::strong_count(&permit), 2);
        drop(response);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Rc::strong_count(&permit) > 1 || !events.is_closed() {
            assert!(Instant::now() < deadline, "the place is still taken");
            tokio::task::yield_now().await;
        }
    }

    #[actix_web::test]
    async fn a_silent_stream_sends_comments_and_a_stalled_client_is_dropped() {
        let permit = Rc::new(());
        let (sender, receiver) = mpsc::channel(EVENTS);
        let answering = Answering::new(receiver, async move {
            let _sender = sender;
            std::future::pending().await
        });
        let brisk = Duration::from_millis(2);
        let response = paced(
            answering,
            Rc::clone(&permit),
            Names,
            Pace { keep_alive: brisk, stall: brisk, hold_status: brisk },
        )
        .await
        .unwrap();
        // the client does not read: the buffer fills with comments, and then it is disconnected
        let deadline = Instant::now() + Duration::from_secs(5);
        while Rc::strong_count(&permit) > 1 {
            assert!(Instant::now() < deadline, "the place is still taken");
            tokio::task::yield_now().await;
        }
        let body = to_bytes(response.into_body()).await.unwrap();
        assert!(body.starts_with(b": still here\n\n"));
    }

    #[test]
    fn frames_are_one_line_of_json_each() {
        let mut out = String::new();
        named("token", &serde_json::json!({"text": "two\nlines"}), &mut out);
        done(&mut out);
        assert_eq!(out, "event: token\ndata: {\"text\":\"two\\nlines\"}\n\ndata: [DONE]\n\n");
    }
}
