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
    let policy =
        RestartPolicy { budget, backoff: Duration::from_millis(1), ..RestartPolicy::default() };
    let arbiter = actix::Arbiter::current();
    ActorRef::start(&arbiter, ActorMetrics::new("fragile", "test", None), policy, 4, move || {
        Fragile { born: births.fetch_add(1, Ordering::SeqCst) }
    })
}

async fn until(actor: &ActorRef<Fragile>, state: ActorState) {
    let mut lifecycle = actor.metrics.lifecycle.subscribe();
    let reached = lifecycle.wait_for(|lifecycle| lifecycle.state == state);
    tokio::time::timeout(Duration::from_secs(5), reached)
        .await
        .expect("state not reached")
        .expect("supervisor gone");
}

#[actix::test]
async fn a_panic_fails_its_request_and_a_new_instance_answers_the_next() {
    let actor = fragile(3);
    until(&actor, ActorState::Running).await;
    assert_eq!(actor.send(Born).await.unwrap(), 0);
    let error = actor.send(Break).await.unwrap_err();
    assert_eq!(error.error_type(), "actor_down");
    let mut lifecycle = actor.metrics.lifecycle.subscribe();
    let restarted = lifecycle
        .wait_for(|lifecycle| lifecycle.restarts == 1 && lifecycle.state == ActorState::Running);
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
    let actor = ActorRef::start(
        &arbiter,
        ActorMetrics::new("busy", "test", None),
        RestartPolicy::default(),
        PLACES,
        factory,
    );
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
    tokio::time::timeout(Duration::from_secs(5), settled)
        .await
        .expect("the mailbox does not settle");
}

#[actix::test]
async fn one_more_than_a_mailbox_holds_is_refused_at_once_and_served_again_afterwards() {
    let (actor, gate) = busy().await;
    let mut all: Vec<_> = (0..PLACES).map(|_| sent(&actor)).collect();
    waiting(&actor, PLACES as u64).await;
    let refused = |answer| {
        matches!(answer, Err(NyxError::Overloaded { capacity: PLACES, retry_after_s: 1.. }))
    };
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
    assert!(
        matches!(error, NyxError::DeadlineExceeded { doing: "an actor worked on the request" }),
        "{error}"
    );
    let context = RequestContext::new(patience);
    let error = actor.send_within(&context, "a birth was looked up", Born).await.unwrap_err();
    assert!(
        matches!(error, NyxError::DeadlineExceeded { doing: "a birth was looked up" }),
        "{error}"
    );
    assert!(
        (2 * patience..Duration::from_secs(5)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
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
