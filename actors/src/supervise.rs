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
use crate::{NyxError, RequestContext};

/// Time limit of [`ActorRef::send`]: the longest deadline of a request by default
/// (`requests.max_deadline_ms`). Callers with a deadline of their own pass it.
pub const SEND_LIMIT: Duration = Duration::from_secs(600);
/// When to retry a full mailbox, in seconds.
const RETRY_AFTER_S: u64 = 1;

/// Limits of restarts.
#[derive(Debug, Clone, Copy)]
pub struct RestartPolicy {
    /// Failures within `window` before quarantine.
    pub budget: usize,
    pub window: Duration,
    /// The first back-off; it doubles with each failure in the window.
    pub backoff: Duration,
    pub max_backoff: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { budget: 5, window: Duration::from_secs(60), backoff: Duration::from_millis(50), max_backoff: Duration::from_secs(5) }
    }
}

/// The decision after a failure: pure, so that a test controls its clock.
#[derive(Debug)]
struct RestartBudget {
    policy: RestartPolicy,
    failures: VecDeque<Instant>,
}

impl RestartBudget {
    /// The back-off before the next instance, or `None` for quarantine.
    fn failed(&mut self, now: Instant) -> Option<Duration> {
        while self.failures.front().is_some_and(|&at| now.duration_since(at) > self.policy.window) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if self.failures.len() > self.policy.budget {
            return None;
        }
        let doublings = u32::try_from(self.failures.len() - 1).unwrap_or(u32::MAX).min(20);
        Some(self.policy.backoff.saturating_mul(1 << doublings).min(self.policy.max_backoff))
    }
}

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
        Self { address: Arc::clone(&self.address), metrics: Arc::clone(&self.metrics), mailbox: self.mailbox, stop: self.stop.clone() }
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
        let this = Self { address: Arc::default(), metrics, mailbox, stop: CancellationToken::new() };
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
    pub async fn send_within<M, T>(&self, context: &RequestContext, doing: &'static str, message: M) -> Result<T, NyxError>
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
        let overloaded = NyxError::Overloaded { capacity: self.mailbox, retry_after_s: RETRY_AFTER_S };
        let sent = self.metrics.send(self.mailbox).ok_or(overloaded)?;
        let answer = Answering { answer: Box::pin(address.send(message)), metrics: Arc::clone(&self.metrics), _sent: sent };
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
    NyxError::ActorDown { actor: metrics.name.clone(), state: metrics.state().as_str(), reason: reason.to_owned() }
}

type MailboxAnswer<T> = Pin<Box<dyn Future<Output = Result<Result<T, NyxError>, MailboxError>> + Send>>;

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
            Err(MailboxError::Closed) => Err(down(&self.metrics, "it failed while it worked on this request")),
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
        if let (Some(answering), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { drop(answering.await) });
        }
    }
}

/// The message of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| payload.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "without a message".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fragile {
        born: u64,
    }
    #[derive(Message)]
    #[rtype(result = "Result<u64, NyxError>")]
    struct Born;
    #[derive(Message)]
    #[rtype(result = "Result<u64, NyxError>")]
    struct Break;

    impl Actor for Fragile {
        type Context = Context<Self>;
    }
    impl Handler<Born> for Fragile {
        type Result = Result<u64, NyxError>;
        fn handle(&mut self, _: Born, _: &mut Self::Context) -> Self::Result {
            Ok(self.born)
        }
    }
    impl Handler<Break> for Fragile {
        type Result = Result<u64, NyxError>;
        fn handle(&mut self, _: Break, _: &mut Self::Context) -> Self::Result {
            panic!("broken on purpose")
        }
    }

    fn fragile(budget: usize) -> ActorRef<Fragile> {
        let births = std::sync::atomic::AtomicU64::new(0);
        let policy = RestartPolicy { budget, backoff: Duration::from_millis(1), ..RestartPolicy::default() };
        let arbiter = actix::Arbiter::current();
        ActorRef::start(&arbiter, ActorMetrics::new("fragile", "test", None), policy, 4, move || Fragile {
            born: births.fetch_add(1, Ordering::SeqCst),
        })
    }

    async fn until(actor: &ActorRef<Fragile>, state: ActorState) {
        let mut lifecycle = actor.metrics.lifecycle.subscribe();
        let reached = lifecycle.wait_for(|lifecycle| lifecycle.state == state);
        tokio::time::timeout(Duration::from_secs(5), reached).await.expect("state not reached").expect("supervisor gone");
    }

    #[actix::test]
    async fn a_panic_fails_its_request_and_a_new_instance_answers_the_next() {
        let actor = fragile(3);
        until(&actor, ActorState::Running).await;
        assert_eq!(actor.send(Born).await.unwrap(), 0);
        let error = actor.send(Break).await.unwrap_err();
        assert_eq!(error.error_type(), "actor_down");
        let mut lifecycle = actor.metrics.lifecycle.subscribe();
        let restarted = lifecycle.wait_for(|lifecycle| lifecycle.restarts == 1 && lifecycle.state == ActorState::Running);
        tokio::time::timeout(Duration::from_secs(5), restarted).await.unwrap().unwrap();
        assert_eq!(actor.send(Born).await.unwrap(), 1);
        let report = actor.metrics.report();
        assert!(report.last_failure.unwrap().reason.contains("broken on purpose"));
        assert_eq!((report.in_flight, report.processed, report.failed), (0, 3, 1));
    }

    #[actix::test]
    async fn too_many_failures_quarantine_until_restarted_by_hand() {
        let actor = fragile(0);
        until(&actor, ActorState::Running).await;
        actor.send(Break).await.unwrap_err();
        until(&actor, ActorState::Quarantined).await;
        assert!(actor.send(Born).await.unwrap_err().to_string().contains("quarantined"));
        actor.metrics.restart.notify_one();
        until(&actor, ActorState::Running).await;
        assert_eq!(actor.send(Born).await.unwrap(), 1);
        actor.stop();
        until(&actor, ActorState::Stopped).await;
    }

    /// Handles nothing until its gate is opened.
    #[derive(Debug)]
    struct Busy(Arc<tokio::sync::Notify>);

    impl Actor for Busy {
        type Context = Context<Self>;

        fn started(&mut self, context: &mut Self::Context) {
            let gate = Arc::clone(&self.0);
            context.wait(actix::fut::wrap_future(async move { gate.notified().await }));
        }
    }
    impl Handler<Born> for Busy {
        type Result = Result<u64, NyxError>;
        // it does not report taking the message up
        fn handle(&mut self, _: Born, _: &mut Self::Context) -> Self::Result {
            Ok(7)
        }
    }

    const PLACES: usize = 4;

    async fn busy() -> (ActorRef<Busy>, Arc<tokio::sync::Notify>) {
        let gate = Arc::new(tokio::sync::Notify::new());
        let opened = Arc::clone(&gate);
        let arbiter = actix::Arbiter::current();
        let factory = move || Busy(Arc::clone(&opened));
        let actor = ActorRef::start(&arbiter, ActorMetrics::new("busy", "test", None), RestartPolicy::default(), PLACES, factory);
        let mut lifecycle = actor.metrics.lifecycle.subscribe();
        lifecycle.wait_for(|lifecycle| lifecycle.state == ActorState::Running).await.unwrap();
        (actor, gate)
    }

    fn sent(actor: &ActorRef<Busy>) -> actix_rt::task::JoinHandle<Result<u64, NyxError>> {
        let actor = actor.clone();
        actix_rt::spawn(async move { actor.send(Born).await })
    }

    async fn waiting(actor: &ActorRef<Busy>, messages: u64) {
        let settled = async {
            while actor.metrics.report().mailbox != messages {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), settled).await.expect("the mailbox does not settle");
    }

    #[actix::test]
    async fn one_more_than_a_mailbox_holds_is_refused_at_once_and_served_again_afterwards() {
        let (actor, gate) = busy().await;
        let mut all: Vec<_> = (0..PLACES).map(|_| sent(&actor)).collect();
        waiting(&actor, PLACES as u64).await;
        let refused = |answer| matches!(answer, Err(NyxError::Overloaded { capacity: PLACES, retry_after_s: 1.. }));
        assert!(refused(actor.send(Born).await));
        // a message waits until it is taken up, whether or not a caller still waits for its answer
        let left = all.remove(0);
        left.abort();
        assert!(left.await.unwrap_err().is_cancelled());
        assert!(refused(actor.send(Born).await));
        gate.notify_one();
        for answered in all {
            assert_eq!(answered.await.unwrap().unwrap(), 7);
        }
        waiting(&actor, 0).await;
        for _ in 0..3 * PLACES {
            assert_eq!(actor.send(Born).await.unwrap(), 7);
        }
        let report = actor.metrics.report();
        assert_eq!((report.mailbox, report.in_flight), (0, 0));
    }

    #[actix::test]
    async fn an_actor_that_does_not_answer_is_waited_for_until_the_deadline() {
        let (actor, gate) = busy().await;
        let begun = Instant::now();
        let patience = Duration::from_millis(50);
        let error = actor.send_until(Born, begun + patience).await.unwrap_err();
        assert!(matches!(error, NyxError::DeadlineExceeded { doing: "an actor worked on the request" }), "{error}");
        let context = RequestContext::new(patience);
        let error = actor.send_within(&context, "a birth was looked up", Born).await.unwrap_err();
        assert!(matches!(error, NyxError::DeadlineExceeded { doing: "a birth was looked up" }), "{error}");
        assert!((2 * patience..Duration::from_secs(5)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        let context = RequestContext::new(Duration::from_secs(60));
        context.cancel.cancel();
        assert!(matches!(actor.send_within(&context, "", Born).await, Err(NyxError::Cancelled)));
        // no message is sent after its deadline
        waiting(&actor, 3).await;
        assert!(matches!(actor.send_until(Born, begun).await, Err(NyxError::DeadlineExceeded { .. })));
        waiting(&actor, 3).await;
        gate.notify_one();
        assert_eq!(actor.send(Born).await.unwrap(), 7);
        waiting(&actor, 0).await;
    }

    #[actix::test]
    async fn what_waits_for_an_instance_that_is_gone_takes_no_place_of_the_next() {
        let (actor, gate) = busy().await;
        let all: Vec<_> = (0..PLACES).map(|_| sent(&actor)).collect();
        waiting(&actor, PLACES as u64).await;
        actor.metrics.restart.notify_one();
        for lost in all {
            assert!(matches!(lost.await.unwrap(), Err(NyxError::ActorDown { .. })));
        }
        waiting(&actor, 0).await;
        gate.notify_one();
        assert_eq!(actor.send(Born).await.unwrap(), 7);
    }

    #[test]
    fn back_off_doubles_and_old_failures_are_forgiven() {
        let policy = RestartPolicy { budget: 3, ..RestartPolicy::default() };
        let mut budget = RestartBudget { policy, failures: VecDeque::new() };
        let start = Instant::now();
        assert_eq!(budget.failed(start), Some(policy.backoff));
        assert_eq!(budget.failed(start), Some(policy.backoff * 2));
        assert_eq!(budget.failed(start), Some(policy.backoff * 4));
        assert_eq!(budget.failed(start), None);
        assert_eq!(budget.failed(start + policy.window + Duration::from_secs(1)), Some(policy.backoff));
    }
}
