//! The sink of one answer, from the device thread directly to the caller.

use std::ops::ControlFlow;
use std::time::Instant;

use nyx_domain::{CellStep, Finding, STOPPED_BY_POLICY, StreamEvent, TokenLogprob};
use nyx_engine::{EngineError, FinishReason, Finished, Piece, TokenSink};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::screen::StreamModerator;
use crate::cells::CellStream;
use crate::{NyxError, RequestContext};

/// One complete answer.
#[derive(Debug)]
pub struct AnswerText {
    pub text: String,
    pub finished: Finished,
    pub finish_reason: &'static str,
    pub first_token: Option<Instant>,
    /// Findings in it.
    pub findings: Vec<Finding>,
}

/// Collects an answer's text and forwards it. Runs on the device thread: never blocks.
pub(super) struct AnswerSink {
    index: usize,
    decision: Uuid,
    specialist: String,
    asked: Instant,
    cells: CellStream,
    events: Option<mpsc::Sender<StreamEvent>>,
    text: String,
    first_token: Option<Instant>,
    guard: StreamModerator,
    /// Log-probabilities of buffered text, which would reveal it.
    held: Vec<TokenLogprob>,
    hidden: bool,
    ending: oneshot::Sender<Result<AnswerText, NyxError>>,
}

impl AnswerSink {
    /// Nothing of a `hidden` answer is forwarded to `events`, but a closed receiver is noticed.
    pub(super) fn new(
        index: usize,
        context: &RequestContext,
        specialist: &str,
        cells: &CellStream,
        events: Option<mpsc::Sender<StreamEvent>>,
        guard: StreamModerator,
        hidden: bool,
    ) -> (Self, oneshot::Receiver<Result<AnswerText, NyxError>>) {
        let (ending, receiver) = oneshot::channel();
        let mut sink = Self {
            index,
            decision: context.id,
            specialist: specialist.to_owned(),
            asked: context.asked,
            cells: cells.clone(),
            events,
            text: String::new(),
            first_token: None,
            guard,
            held: Vec::new(),
            hidden,
            ending,
        };
        let opening = sink.guard.open();
        if !opening.is_empty() {
            sink.text.push_str(&opening);
            // a closed receiver is noticed with the first piece
            let _ = sink.pass_on(StreamEvent::Token { index, text: opening, logprobs: Vec::new() });
        }
        (sink, receiver)
    }

    fn pass_on(&self, event: StreamEvent) -> ControlFlow<()> {
        match &self.events {
            Some(events) if self.hidden && !events.is_closed() => ControlFlow::Continue(()),
            Some(events) if self.hidden || events.try_send(event).is_err() => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

impl TokenSink for AnswerSink {
    fn piece(&mut self, mut piece: Piece) -> ControlFlow<()> {
        if piece.text.contains('\0') {
            // a model may generate NUL, which the record cannot store: it is replaced
            piece.text = piece.text.replace('\0', "\u{FFFD}");
        }
        if self.first_token.is_none() && piece.tokens > 0 {
            let now = Instant::now();
            self.first_token = Some(now);
            if self.index == 0 {
                let first_token_ms = now.duration_since(self.asked).as_secs_f64() * 1e3;
                self.cells.publish(
                    Some(self.decision),
                    Some(&self.specialist),
                    CellStep::FirstToken { first_token_ms },
                );
            }
        }
        let said = !piece.text.is_empty();
        let text = if said { self.guard.pass(&piece.text) } else { String::new() };
        self.text.push_str(&text);
        self.held.extend(piece.logprobs);
        if self.guard.stopped() {
            let _ =
                self.pass_on(StreamEvent::Token { index: self.index, text, logprobs: Vec::new() });
            return ControlFlow::Break(());
        }
        let logprobs =
            if self.guard.is_buffering() { Vec::new() } else { std::mem::take(&mut self.held) };
        if text.is_empty() && logprobs.is_empty() {
            // nothing to forward yet, but a closed receiver must be noticed
            let gone = self.events.as_ref().is_some_and(mpsc::Sender::is_closed);
            return if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        self.pass_on(StreamEvent::Token { index: self.index, text, logprobs })
    }

    fn finish(mut self: Box<Self>, end: Result<Finished, EngineError>) {
        let answer = match end {
            Ok(finished) => {
                let already = self.guard.stopped();
                let text = self.guard.end();
                let stopped = self.guard.stopped();
                self.text.push_str(&text);
                let logprobs = if stopped { Vec::new() } else { std::mem::take(&mut self.held) };
                let something = !text.is_empty() || !logprobs.is_empty();
                if something && !already {
                    let _ = self.pass_on(StreamEvent::Token { index: self.index, text, logprobs });
                }
                let finish_reason =
                    if stopped { STOPPED_BY_POLICY } else { finish_reason(finished.reason) };
                // a closed receiver does not matter any more
                let _ = self.pass_on(StreamEvent::Finished {
                    index: self.index,
                    finish_reason: finish_reason.to_owned(),
                });
                let findings = self.guard.findings();
                Ok(AnswerText {
                    text: self.text,
                    finished,
                    finish_reason,
                    first_token: self.first_token,
                    findings,
                })
            }
            Err(error) => Err(NyxError::Engine(error)),
        };
        // a specialist that panicked meanwhile does not wait any more
        drop(self.ending.send(answer));
    }
}

/// The name in decisions and events.
pub(super) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Deadline => "deadline",
        FinishReason::Cancelled => "cancelled",
    }
}
