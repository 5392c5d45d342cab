//! From the device thread straight to the caller: the sink of one answer.

use std::ops::ControlFlow;
use std::time::Instant;

use nyx_engine::{EngineError, FinishReason, Finished, Piece, TokenSink};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::cells::{CellStep, CellStream};
use crate::question::StreamEvent;
use crate::{NyxError, RequestContext};

/// One answer, complete.
#[derive(Debug)]
pub struct AnswerText {
    pub text: String,
    pub finished: Finished,
    pub first_token: Option<Instant>,
}

/// Collects an answer's text and passes it on as it comes. Lives on the device thread: never blocks.
pub(super) struct AnswerSink {
    index: usize,
    decision: Uuid,
    specialist: String,
    asked: Instant,
    cells: CellStream,
    events: Option<mpsc::Sender<StreamEvent>>,
    text: String,
    first_token: Option<Instant>,
    ending: oneshot::Sender<Result<AnswerText, NyxError>>,
}

impl AnswerSink {
    pub(super) fn new(
        index: usize,
        context: &RequestContext,
        specialist: &str,
        cells: &CellStream,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> (Self, oneshot::Receiver<Result<AnswerText, NyxError>>) {
        let (ending, receiver) = oneshot::channel();
        let sink = Self {
            index,
            decision: context.id,
            specialist: specialist.to_owned(),
            asked: context.asked,
            cells: cells.clone(),
            events,
            text: String::new(),
            first_token: None,
            ending,
        };
        (sink, receiver)
    }

    fn pass_on(&self, event: StreamEvent) -> ControlFlow<()> {
        match &self.events {
            Some(events) if events.try_send(event).is_err() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl TokenSink for AnswerSink {
    fn piece(&mut self, mut piece: Piece) -> ControlFlow<()> {
        if piece.text.contains('\0') {
            // a model may say it, the record cannot hold it: shown and kept as what cannot be shown
            piece.text = piece.text.replace('\0', "\u{FFFD}");
        }
        if self.first_token.is_none() && piece.tokens > 0 {
            let now = Instant::now();
            self.first_token = Some(now);
            if self.index == 0 {
                let first_token_ms = now.duration_since(self.asked).as_secs_f64() * 1e3;
                self.cells.publish(Some(self.decision), Some(&self.specialist), CellStep::FirstToken { first_token_ms });
            }
        }
        self.text.push_str(&piece.text);
        if piece.text.is_empty() && piece.logprobs.is_empty() {
            // nothing to show yet, but a reader who left must be noticed
            let gone = self.events.as_ref().is_some_and(mpsc::Sender::is_closed);
            return if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        self.pass_on(StreamEvent::Token { index: self.index, text: piece.text, logprobs: piece.logprobs })
    }

    fn finish(self: Box<Self>, end: Result<Finished, EngineError>) {
        let answer = match end {
            Ok(finished) => {
                let finish_reason = finish_reason(finished.reason).to_owned();
                // whether a reader is still there no longer matters
                let _ = self.pass_on(StreamEvent::Finished { index: self.index, finish_reason });
                Ok(AnswerText { text: self.text, finished, first_token: self.first_token })
            }
            Err(error) => Err(NyxError::Engine(error)),
        };
        // a specialist that panicked meanwhile waits no more
        drop(self.ending.send(answer));
    }
}

/// As decisions and events name it.
pub(super) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Deadline => "deadline",
        FinishReason::Cancelled => "cancelled",
    }
}
