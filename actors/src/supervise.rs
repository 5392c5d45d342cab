//! Supervision of actors: not `actix::Supervisor`, which calls `restarting()` on the same instance
//! and catches no panic.
//!
//! A supervised actor runs in a task of its arbiter. When that task ends by a panic, the factory
//! makes a new instance after a back-off; after too many failures in a window the actor is
//! quarantined until it is restarted manually. Callers hold an [`ActorRef`], never an `Addr`, so
//! that they reach the current instance. Work that must survive its actor (a device's queue) lives
//! outside it.

use std::any::Any;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, ArbiterHandle, AsyncContext, Context, Handler, MailboxError, Message};
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use crate::observe::{ActorMetrics, ActorState, Failure, Sent};
use crate::restart::{RestartBudget, RestartPolicy};
use crate::{NyxError, RequestContext};

/// Time limit of [`ActorRef::send`]: the longest deadline of a request by default
/// (`requests.max_deadline_ms`). Callers with a deadline of their own pass it.
pub const SEND_LIMIT: Duration = Duration::from_secs(600);
/// When to retry a full mailbox, in seconds.
const RETRY_AFTER_S: u64 = 1;

/// A handle of a supervised actor.
pub struct ActorRef<A: Actor> {
    address: Arc<RwLock<Option<Addr<A>>>>,
    metrics: Arc<ActorMetrics>,
    /// Capacity of the mailbox.
    mailbox: usize,
    stop: CancellationToken,
}

impl<A: Actor> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        Self {
            address: Arc::clone(&self.address),
            metrics: Arc::clone(&self.metrics),
            mailbox: self.mailbox,
            stop: self.stop.clone(),
        }
    }
}

impl<A: Actor<Context = Context<A>>> ActorRef<A> {
    /// Starts instances of `factory` on `arbiter` until [`stop`](Self::stop). At most `mailbox`
    /// messages wait for an instance.
    pub fn start(
        arbiter: &ArbiterHandle,
        metrics: Arc<ActorMetrics>,
        policy: RestartPolicy,
        mailbox: usize,
        factory: impl Fn() -> A + Send + 'static,
    ) -> Self {
        let this =
            Self { address: Arc::default(), metrics, mailbox, stop: CancellationToken::new() };
        let supervisor = this.clone();
        // an actor's context stays on its thread: the supervising task is created there
        arbiter.spawn_fn(move || {
            actix_rt::spawn(supervisor.keep_alive(policy, factory));
        });
        this
    }

    async fn keep_alive(self, policy: RestartPolicy, factory: impl Fn() -> A) {
        let mut budget = RestartBudget { policy, failures: VecDeque::new() };
        loop {
            let mut context = Context::new();
            // without actix's own capacity, which lets senders wait: `post` counts and refuses
            context.set_mailbox_capacity(0);
            self.metrics.new_instance();
            *self.address.write().unwrap_or_else(PoisonError::into_inner) = Some(context.address());
            let mut instance = actix_rt::spawn(context.into_future(factory()));
            self.publish(ActorState::Running, None);
            let ended = tokio::select! {
                ended = &mut instance => ended,
                () = self.metrics.restart.notified() => {
                    instance.abort();
                    let _ = instance.await;
                    tracing::info!(actor = %self.metrics.name, "restarted by hand");
                    budget.failures.clear();
                    self.count_restart();
                    continue;
                }
                () = self.stop.cancelled() => {
                    instance.abort();
                    break;
                }
            };
            *self.address.write().unwrap_or_else(PoisonError::into_inner) = None;
            let reason = match ended {
                Ok(()) => "stopped by itself".to_owned(),
                Err(error) if error.is_panic() => panic_message(&*error.into_panic()),
                Err(error) => error.to_string(),
            };
            tracing::error!(actor = %self.metrics.name, %reason, "actor failed");
            let failure = Some(Failure { at: Utc::now(), reason });
            match budget.failed(Instant::now()) {
                Some(backoff) => {
                    self.publish(ActorState::Restarting, failure);
                    tokio::select! {
                        () = tokio::time::sleep(backoff) => {}
                        () = self.metrics.restart.notified() => {}
                        () = self.stop.cancelled() => break,
                    }
                }
                None => {
                    self.publish(ActorState::Quarantined, failure);
                    tokio::select! {
                        () = self.metrics.restart.notified() => budget.failures.clear(),
                        () = self.stop.cancelled() => break,
                    }
                }
            }
            self.count_restart();
        }
        *self.address.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.publish(ActorState::Stopped, None);
    }

    fn count_restart(&self) {
        self.metrics.lifecycle.send_modify(|lifecycle| lifecycle.restarts += 1);
    }

    fn publish(&self, state: ActorState, failure: Option<Failure>) {
        self.metrics.lifecycle.send_modify(|lifecycle| {
            lifecycle.state = state;
            lifecycle.since = Instant::now();
            if failure.is_some() {
                lifecycle.last_failure = failure;
            }
        });
    }

    /// Sends `message` and waits for its answer, up to [`SEND_LIMIT`].
    ///
    /// # Errors
    /// The handler's error; [`NyxError::Overloaded`] at once when the mailbox is full;
    /// [`NyxError::DeadlineExceeded`]; [`NyxError::ActorDown`] when there is no instance or it died
    /// during the message.
    pub async fn send<M, T>(&self, message: M) -> Result<T, NyxError>
    where
        M: Message<Result = Result<T, NyxError>> + Send + 'static,
        T: Send + 'static,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        self.send_until(message, Instant::now() + SEND_LIMIT).await
    }

    /// The same, waiting until `deadline`. A message that was taken up is processed all the same.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_until<M, T>(&self, message: M, deadline: Instant) -> Result<T, NyxError>
    where
        M: Message<Result = Result<T, NyxError>> + Send + 'static,
        T: Send + 'static,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let late = NyxError::DeadlineExceeded { doing: self.metrics.doing() };
        if deadline <= Instant::now() {
            return Err(late);
        }
        tokio::time::timeout_at(deadline.into(), self.post(message)?).await.unwrap_or(Err(late))
    }

    /// The same within a request: until its deadline, or until it is cancelled. `doing` names the
    /// work in the error.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`NyxError::Cancelled`].
    pub async fn send_within<M, T>(
        &self,
        context: &RequestContext,
        doing: &'static str,
        message: M,
    ) -> Result<T, NyxError>
    where
        M: Message<Result = Result<T, NyxError>> + Send + 'static,
        T: Send + 'static,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        context.bound(doing, self.post(message)?).await
    }

    /// Puts `message` in the mailbox.
    fn post<M, T>(&self, message: M) -> Result<Posted<T>, NyxError>
    where
        M: Message<Result = Result<T, NyxError>> + Send + 'static,
        T: Send + 'static,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let address = self.address.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(address) = address else { return Err(self.down("it has no running instance")) };
        let overloaded =
            NyxError::Overloaded { capacity: self.mailbox, retry_after_s: RETRY_AFTER_S };
        let sent = self.metrics.send(self.mailbox).ok_or(overloaded)?;
        let answer = Answering {
            answer: Box::pin(address.send(message)),
            metrics: Arc::clone(&self.metrics),
            _sent: sent,
        };
        Ok(Posted(Some(answer)))
    }

    fn down(&self, reason: &str) -> NyxError {
        down(&self.metrics, reason)
    }

    pub fn metrics(&self) -> &Arc<ActorMetrics> {
        &self.metrics
    }

    /// Ends the instance without a restart.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

fn down(metrics: &ActorMetrics, reason: &str) -> NyxError {
    NyxError::ActorDown {
        actor: metrics.name.clone(),
        state: metrics.state().as_str(),
        reason: reason.to_owned(),
    }
}

type MailboxAnswer<T> =
    Pin<Box<dyn Future<Output = Result<Result<T, NyxError>, MailboxError>> + Send>>;

/// A pending answer.
struct Answering<T> {
    answer: MailboxAnswer<T>,
    metrics: Arc<ActorMetrics>,
    _sent: Sent,
}

impl<T> Future for Answering<T> {
    type Output = Result<T, NyxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let answer = match ready!(self.answer.as_mut().poll(context)) {
            Ok(answer) => answer,
            Err(MailboxError::Closed) => {
                Err(down(&self.metrics, "it failed while it worked on this request"))
            }
            Err(MailboxError::Timeout) => Err(down(&self.metrics, "it did not answer in time")),
        };
        self.metrics.processed.fetch_add(1, Ordering::Relaxed);
        if answer.is_err() {
            self.metrics.failed.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(answer)
    }
}

/// A message in a mailbox and its answer. actix silently drops a message that no caller waits for:
/// so a task always waits, and its capacity is free exactly when the message has left the mailbox.
struct Posted<T: Send + 'static>(Option<Answering<T>>);

impl<T: Send + 'static> Future for Posted<T> {
    type Output = Result<T, NyxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let Some(answering) = self.0.as_mut() else { return Poll::Pending };
        let answer = ready!(Pin::new(answering).poll(context));
        self.0 = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for Posted<T> {
    fn drop(&mut self) {
        // without a runtime, the program is ending
        if let (Some(answering), Ok(runtime)) =
            (self.0.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { drop(answering.await) });
        }
    }
}

/// The message of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "without a message".to_owned()))
}

#[cfg(test)]
mod tests;
