//! The whole of Nyx with its actors' thread held up: every mailbox has an end.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::{Actor, Context, Handler, Message};
use nyx_domain::{ChatMessage, Question, Role, Target};
use nyx_specialists::safety::SafetyPolicy;
use nyx_specialists::{BUILTIN, SpecialistPolicy};

use super::*;
use crate::devices::Score;
use crate::memory::messages::RememberMany;
use crate::observe::ActorState;
use crate::orchestrator::messages::TraitWeights;
use crate::phoebe::messages::Ping;
use crate::specialist::{AnswerRequest, Screened};
use crate::supervise::ActorRef;
use crate::testing::model;
use crate::trainer::GetStatus;
use crate::tree::MAILBOX;
use crate::{NyxError, NyxOptions, RequestContext};

const PATIENCE: Duration = Duration::from_secs(120);

fn options(data_dir: &Path) -> NyxOptions {
    NyxOptions {
        base_model: model("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"),
        embedder: model("all-minilm-l6-v2"),
        data_dir: data_dir.to_owned(),
        pool: Default::default(),
        routing: Default::default(),
        requests: Default::default(),
        rewards: Default::default(),
        phoebe: Default::default(),
        memory: Default::default(),
        adapters: Default::default(),
        training: Default::default(),
        facts: Default::default(),
        specialists: BUILTIN
            .iter()
            .map(|(name, text)| SpecialistPolicy::parse(name, text).unwrap())
            .collect(),
        safety: SafetyPolicy::builtin().unwrap(),
        confidence: Default::default(),
    }
}

type Sent = actix_rt::task::JoinHandle<bool>;

/// Fills an actor's mailbox, sees one more refused, and answers what waits: each with whether it
/// was refused.
async fn filled<A, M, T>(actor: &ActorRef<A>, message: impl Fn() -> M) -> Vec<Sent>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message<Result = Result<T, NyxError>> + Send + 'static,
    T: Send + 'static,
{
    let name = &actor.metrics().name;
    let send = |message: M| {
        let actor = actor.clone();
        actix_rt::spawn(async move {
            refused(&actor.send_until(message, Instant::now() + PATIENCE).await)
        })
    };
    let sent: Vec<Sent> = (0..MAILBOX).map(|_| send(message())).collect();
    let deadline = Instant::now() + PATIENCE;
    while actor.metrics().report().mailbox < MAILBOX as u64 {
        assert!(Instant::now() < deadline, "{name}: {:?}", actor.metrics().report());
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    assert!(refused(&actor.send(message()).await), "{name} takes more than its mailbox holds");
    assert!(begun.elapsed() < Duration::from_secs(1), "{name} refuses after {:?}", begun.elapsed());
    sent
}

fn refused<T>(answer: &Result<T, NyxError>) -> bool {
    matches!(answer, Err(NyxError::Overloaded { capacity: MAILBOX, retry_after_s: 1.. }))
}

/// Waits until all were answered, and sees that one more is taken.
async fn serves<A, M, T>(actor: &ActorRef<A>, sent: Vec<Sent>, message: M)
where
    A: Actor<Context = Context<A>> + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message<Result = Result<T, NyxError>> + Send + 'static,
    T: Send + 'static,
{
    let name = &actor.metrics().name;
    let mut refusals = 0;
    for answered in sent {
        refusals +=
            usize::from(tokio::time::timeout(PATIENCE, answered).await.expect("it hangs").unwrap());
    }
    // what was there before they came took places too
    assert!(refusals < MAILBOX / 2, "{name} refused {refusals}");
    let answer = actor.send_until(message, Instant::now() + PATIENCE).await;
    assert!(
        !refused(&answer)
            && !matches!(
                answer,
                Err(NyxError::DeadlineExceeded { .. } | NyxError::ActorDown { .. })
            ),
        "{name}"
    );
}

#[actix::test]
async fn every_actor_refuses_what_its_mailbox_does_not_hold_and_serves_again_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let nyx = NyxBuilder::new(options(folder.path())).start().await.unwrap();
    let system = &nyx.system;
    let cancelled = || {
        let context = RequestContext::new(PATIENCE);
        context.cancel.cancel();
        context
    };
    // each is refused, or answered, with next to no work
    let score = |replica| Score {
        context: cancelled(),
        prompt: vec![1],
        cacheable_prefix: 0,
        continuations: vec![vec![2]],
        adapter: None,
        replica,
    };
    let limits = &nyx.decisions.limits;
    let question = Question::new(
        vec![ChatMessage::new(Role::User, "long ".repeat(4_000))],
        Target::Base,
        "test",
    );
    let too_long = limits.validate(question).unwrap();
    let screened = Arc::new(Screened::of(&nyx.training.service.safety, "long", true));
    let speak = || AnswerRequest {
        context: cancelled(),
        question: too_long.clone(),
        screened: Arc::clone(&screened),
        events: None,
    };
    let none = || RememberMany { context: cancelled(), memories: Vec::new() };
    let trainer = &nyx.training.actor;
    // it is started last, and nobody waits for it
    let mut lifecycle = trainer.metrics().lifecycle.subscribe();
    lifecycle.wait_for(|lifecycle| lifecycle.state == ActorState::Running).await.unwrap();

    let (opened, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let (closed, held_up) = std::sync::mpsc::sync_channel(1);
    system.arbiter.spawn_fn(move || {
        closed.send(()).unwrap();
        // until the other end is dropped
        let _ = gate.recv();
    });
    held_up.recv().unwrap();
    let of_orchestrator = filled(&system.orchestrator, || TraitWeights).await;
    let of_pool = filled(&system.pool, || score(Some(usize::MAX))).await;
    let of_worker = filled(&system.devices.workers[0], || score(None)).await;
    let of_memory = filled(&system.memory, none).await;
    let of_phoebe = filled(&system.phoebe, || Ping).await;
    let of_trainer = filled(trainer, || GetStatus).await;
    let mut of_specialists = Vec::new();
    for actor in system.specialists.values() {
        of_specialists.push((actor, filled(actor, speak).await));
    }
    drop(opened);

    serves(&system.orchestrator, of_orchestrator, TraitWeights).await;
    serves(&system.pool, of_pool, score(Some(usize::MAX))).await;
    serves(&system.devices.workers[0], of_worker, score(None)).await;
    serves(&system.memory, of_memory, none()).await;
    serves(&system.phoebe, of_phoebe, Ping).await;
    serves(trainer, of_trainer, GetStatus).await;
    assert!(of_specialists.len() > BUILTIN.len(), "the base is an actor too");
    for (actor, sent) in of_specialists {
        serves(actor, sent, speak()).await;
    }
    nyx.shutdown(PATIENCE).await;
}
