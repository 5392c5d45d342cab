//! Runs the same tests on both databases: SQLite in a file, and a PostgreSQL server started by the
//! test.

use chrono::SubsecRound;
use nyx_domain::{
    AdapterVersion, Answer, ChatMessage, ErrorClass, Evidence, Forecast, Memory, MemoryFilter,
    MemorySelector, RequestInputs, Role, Status, Timings, TokenUsage, Trace,
};
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use uuid::Uuid;

use super::messages::{ListDecisions, ListMemories, Neighbours, RecordDecision, StoreTraitWeight};
use super::search::{EmbedderId, MemoryIndex};
use super::*;
use crate::testing::postgres::Postgres;

mod faults;
mod feedback;
mod weights;

/// A decision with every field set.
fn decision(specialist: &str, question: &str, answer: &str) -> Decision {
    let by_name = |value: f64| {
        BTreeMap::from([(specialist.to_owned(), value), ("other".to_owned(), 1.0 - value)])
    };
    Decision {
        id: Uuid::now_v7(),
        asked_at: now(),
        instance: Uuid::now_v7().to_string(),
        conversation: Some("c-1".into()),
        endpoint: "/infer".into(),
        requested: "nyx".into(),
        messages: vec![
            ChatMessage::new(Role::System, "be \u{1f319} brief"),
            ChatMessage::new(Role::User, question),
        ],
        inputs: RequestInputs {
            context: Some("a text".into()),
            prior: Some(0.25),
            now: Some(now()),
            memory: nyx_domain::MemoryFilter::of(Some("c-1".into())),
            remember: true,
            external_key: None,
            allow_defer: false,
        },
        trace: Trace {
            forecast: Some(Forecast {
                prior: Some(0.25),
                choice: None,
                stated: vec![0.5],
                probability: 0.375,
            }),
            ..Trace::default()
        },
        question: question.into(),
        specialist: specialist.into(),
        scores: by_name(1.25),
        similarities: by_name(0.25),
        logits: by_name(2.5),
        propensities: by_name(0.75),
        trait_weights: by_name(0.0),
        propensity: 0.75,
        evidence: vec![Evidence {
            id: "memory:1".into(),
            text: "what was told".into(),
            score: 0.5,
            source: "memory".into(),
            speaker: Some("me".into()),
            when: Some(now()),
            context: vec!["Ben: what was told?".into()],
        }],
        answers: vec![Answer { text: answer.into(), finish_reason: "stop".into() }],
        choices: Some(vec!["a".into(), "b".into()]),
        choice_probabilities: Some(vec![0.25, 0.75]),
        probability: Some(0.1),
        confidence: None,
        activation: Some(0.5),
        reward: 0.0,
        adapter: Some(AdapterVersion {
            name: specialist.into(),
            id: "f".repeat(64),
            generation: 3,
        }),
        base_sha256: "b".repeat(64),
        sampling: serde_json::json!({"seed": u64::MAX, "temperature": 0.7}),
        usage: TokenUsage {
            prompt_tokens: 10,
            cached_tokens: 4,
            completion_tokens: 5,
            total_tokens: 15,
        },
        timings: Timings {
            decide_ms: 0.125,
            first_token_ms: Some(2.5),
            total_ms: 9.75,
            ..Timings::default()
        },
        status: Status::Answered,
        error: None,
    }
}

fn record(decision: &Decision, reward: Option<(f64, String)>) -> RecordDecision {
    RecordDecision { decision: Box::new(decision.clone()), reward, completes: false }
}

fn list(change: impl FnOnce(&mut ListDecisions)) -> ListDecisions {
    let mut query = ListDecisions { limit: 10, ..ListDecisions::default() };
    change(&mut query);
    query
}

async fn count(store: &PhoebeStore, table: &str) -> i64 {
    let connection = store.connection();
    let backend = connection.get_database_backend();
    let row = connection
        .query_one_raw(Statement::from_string(
            backend,
            format!("SELECT count(*) AS n FROM {table}"),
        ))
        .await
        .unwrap();
    row.unwrap().try_get("", "n").unwrap()
}

/// Decisions recorded at the same time share commits; one that is on record already does not harm
/// the others of its batch.
async fn records_in_batches(store: &PhoebeStore) {
    let before = count(store, "nyx_synthetic_specialist_queries").await;
    let writer = batch::DecisionWriter::new(store.clone());
    let decisions: Vec<Decision> =
        (0..200).map(|n| decision("moira", &n.to_string(), "a")).collect();
    // the first ten are sent twice
    let all = decisions.iter().chain(&decisions[..10]);
    let rewarded = Some((0.5, "brier".to_owned()));
    let writes = all.map(|decision| writer.record(record(decision, rewarded.clone())));
    for outcome in futures_util::future::join_all(writes).await {
        outcome.unwrap();
    }
    assert_eq!(count(store, "nyx_synthetic_specialist_queries").await, before + 200);
    for decision in decisions.iter().take(20) {
        let kept = store.decision(decision.id).await.unwrap();
        assert_eq!((&kept.question, kept.reward), (&decision.question, 0.5));
    }
    let (commits, decisions) = writer.counts();
    assert_eq!(decisions, 210);
    assert!(commits <= 210 - 64, "{commits} transactions for {decisions} decisions");
}

async fn keeps_decisions(store: &PhoebeStore) {
    let first = decision("moira", "Will it rain in Turin?", "Perhaps, \u{FFFD} and 100 % sure");
    let second = Decision {
        conversation: None,
        status: Status::Partial,
        ..decision("eleos", "I am sad", "I hear you")
    };
    store.record(&record(&first, Some((0.5, "brier".into())))).await.unwrap();
    store.record(&record(&second, None)).await.unwrap();
    let kept = store.decision(first.id).await.unwrap();
    assert_eq!(kept, Decision { reward: 0.5, ..first.clone() });
    assert_eq!(store.decision(second.id).await.unwrap(), second);
    // recording the same id again has no effect
    store
        .record(&record(
            &Decision { specialist: "kairos".into(), ..first.clone() },
            Some((-1.0, "x".into())),
        ))
        .await
        .unwrap();
    assert_eq!(store.decision(first.id).await.unwrap().specialist, "moira");
    assert_eq!(
        (count(store, "nyx_synthetic_specialist_queries").await, count(store, "nyx_rewards").await),
        (2, 1)
    );

    let ids =
        |found: Vec<Decision>| found.into_iter().map(|decision| decision.id).collect::<Vec<_>>();
    assert_eq!(ids(store.decisions(list(|_| {})).await.unwrap()), [second.id, first.id]);
    assert_eq!(ids(store.decisions(list(|query| query.limit = 1)).await.unwrap()), [second.id]);
    assert_eq!(
        ids(store.decisions(list(|query| query.before = Some(second.id))).await.unwrap()),
        [first.id]
    );
    assert_eq!(
        ids(store.decisions(list(|query| query.specialist = Some("moira".into()))).await.unwrap()),
        [first.id]
    );
    assert_eq!(
        ids(store.decisions(list(|query| query.conversation = Some("c-1".into()))).await.unwrap()),
        [first.id]
    );
    let nobody = list(|query| query.specialist = Some("' OR 1=1 --".into()));
    assert_eq!(store.decisions(nobody).await.unwrap(), []);
    let error =
        store.decisions(list(|query| query.conversation = Some("a\0b".into()))).await.unwrap_err();
    assert!(
        error.class() == ErrorClass::InvalidRequest
            && error.to_string().contains("conversation holds a NUL character at byte 1"),
        "{error}"
    );
    for limit in [0, 1001] {
        let error = store.decisions(list(|query| query.limit = limit)).await.unwrap_err();
        assert!(
            error.class() == ErrorClass::InvalidRequest
                && error.to_string().contains(&limit.to_string()),
            "{error}"
        );
    }
    assert_eq!(store.decision(Uuid::nil()).await.unwrap_err().class(), ErrorClass::NotFound);
}

async fn completes_a_deferred_decision_once(store: &PhoebeStore) {
    let answered = decision("kairos", "When?", "On Monday.");
    let deferred =
        Decision { status: Status::Deferred, answers: Vec::new(), reward: 0.0, ..answered.clone() };
    store.record(&record(&deferred, None)).await.unwrap();
    assert_eq!(store.decision(deferred.id).await.unwrap(), deferred);
    let complete = |decision: &Decision| RecordDecision {
        completes: true,
        ..record(decision, Some((0.25, "timeliness".into())))
    };
    store.record(&complete(&answered)).await.unwrap();
    assert_eq!(
        store.decision(answered.id).await.unwrap(),
        Decision { reward: 0.25, ..answered.clone() }
    );
    store
        .record(&complete(&Decision { status: Status::Failed, ..answered.clone() }))
        .await
        .unwrap();
    assert_eq!(store.decision(answered.id).await.unwrap().status, Status::Answered);
}

async fn keeps_memories(store: &PhoebeStore) {
    let input = |text: &str| Memory {
        id: Uuid::now_v7(),
        text: text.into(),
        speaker: Some("me".into()),
        when: Some((chrono::Utc::now() - chrono::TimeDelta::days(3)).trunc_subsecs(6)),
        conversation: None,
        stored_at: now(),
        caption: Some("a photo of a boat".into()),
    };
    let memories = [
        input("My sister Clara lives in Lisbon"),
        input("The boiler was serviced"),
        input("100% of 'quotes' \\ and _ stay"),
    ];
    let index = index(store).await;
    index.insert("local", vectors(&memories)).await.unwrap();
    // all or none: the last one already exists
    let twice = [input("never kept"), memories[0].clone()];
    assert!(index.insert("local", vectors(&twice)).await.is_err());
    let query = |tenant: &str, after, limit| ListMemories { tenant: tenant.into(), after, limit };
    assert_eq!(store.memories(query("local", None, 10)).await.unwrap(), memories);
    assert_eq!(
        store.memories(query("local", Some(memories[0].id), 1)).await.unwrap(),
        memories[1..2]
    );
    assert_eq!(store.memories(query("other", None, 10)).await.unwrap(), []);
    assert_eq!(
        index.lexical("local", "never kept", 5, &MemoryFilter::default()).await.unwrap().hits,
        []
    );
}

/// The search tables for an embedder of dimension 2.
async fn index(store: &PhoebeStore) -> MemoryIndex {
    MemoryIndex::open(store.clone(), &EmbedderId { sha256: "tiny".into(), dimension: 2 }, false)
        .await
        .unwrap()
}

fn vectors(memories: &[Memory]) -> Vec<(Memory, Vec<f32>)> {
    memories.iter().map(|memory| (memory.clone(), vec![0.6, 0.8])).collect()
}

async fn knows_neighbours(store: &PhoebeStore) {
    let day =
        |day: i64| (chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::days(day)).trunc_subsecs(6);
    let turn = |text: &str, conversation: Option<&str>, when: Option<i64>| Memory {
        id: Uuid::now_v7(),
        text: text.into(),
        speaker: None,
        when: when.map(day),
        conversation: conversation.map(str::to_owned),
        stored_at: now(),
        caption: None,
    };
    // recorded out of order; c and d at the same time; e without a time, so its storage time counts
    let e = turn("e", Some("walk"), None);
    let [c, d] = ["c", "d"].map(|text| turn(text, Some("walk"), Some(3)));
    let [b, a] = [("b", 2), ("a", 1)].map(|(text, day)| turn(text, Some("walk"), Some(day)));
    let (other, alone) = (turn("x", Some("talk"), Some(2)), turn("y", None, Some(2)));
    let ids = [&c, &a, &other, &alone].map(|memory| memory.id);
    index(store)
        .await
        .insert("local", vectors(&[e, c.clone(), d, b, a.clone(), other, alone]))
        .await
        .unwrap();
    let near =
        |ids: Vec<Uuid>, before, after| Neighbours { tenant: "local".into(), ids, before, after };
    let mut missing = ids.to_vec();
    missing.push(Uuid::now_v7());
    let found = store.neighbours(near(missing, 1, 2)).await.unwrap();
    let input = |of: &Memory| -> Vec<(i64, String)> {
        found
            .iter()
            .filter(|near| near.of == of.id)
            .map(|near| (near.distance, near.memory.text.clone()))
            .collect()
    };
    let places = |places: &[(i64, &str)]| -> Vec<(i64, String)> {
        places.iter().map(|(at, text)| (*at, (*text).to_owned())).collect()
    };
    assert_eq!(input(&c), places(&[(-1, "b"), (1, "d"), (2, "e")]));
    assert_eq!(input(&a), places(&[(1, "b"), (2, "c")]));
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!(
        store
            .neighbours(Neighbours { tenant: "other".into(), ..near(vec![c.id], 1, 1) })
            .await
            .unwrap(),
        []
    );
    assert_eq!(store.neighbours(near(Vec::new(), 1, 1)).await.unwrap(), []);
    let error = store.neighbours(near(vec![c.id; 1001], 1, 1)).await.unwrap_err();
    assert!(
        error.class() == ErrorClass::InvalidRequest && error.to_string().contains("ids are 1001"),
        "{error}"
    );
}

async fn forgets_memories(store: &PhoebeStore) {
    let stored = |days: i64, conversation: &str, happened: Option<i64>| Memory {
        id: Uuid::now_v7(),
        text: "a zeppelin".into(),
        speaker: None,
        when: happened.map(|days| now() - chrono::TimeDelta::days(days)),
        conversation: Some(conversation.into()),
        stored_at: now() - chrono::TimeDelta::days(days),
        caption: None,
    };
    let memories = [
        stored(9, "x", None),
        stored(2, "x", Some(50)),
        stored(2, "y", Some(50)),
        stored(1, "z", None),
    ];
    let [old, long_ago, other, new] = memories.clone();
    let index = index(store).await;
    index.insert("local", vectors(&memories)).await.unwrap();
    let before = store.memory_count("local").await.unwrap();

    let day = |days: i64| now() - chrono::TimeDelta::days(days);
    let delete = async |selector| index.delete("local", &selector).await;
    assert_eq!(index.delete("other", &MemorySelector::All).await.unwrap(), 0);
    assert_eq!(delete(MemorySelector::StoredBefore(day(5))).await.unwrap(), 1);
    let matching = |conversation: &str| MemorySelector::Matching {
        conversation: Some(conversation.into()),
        before: Some(day(5)),
    };
    assert_eq!(delete(matching("x")).await.unwrap(), 1);
    assert_eq!(delete(matching("z")).await.unwrap(), 0);
    assert_eq!(
        delete(MemorySelector::Ids(vec![other.id, old.id, Uuid::now_v7()])).await.unwrap(),
        1
    );
    assert_eq!(delete(MemorySelector::Ids(vec![])).await.unwrap(), 0);
    assert_eq!(delete(MemorySelector::Id(old.id)).await.unwrap_err().class(), ErrorClass::NotFound);
    // deleted memories are not listed, are not neighbours, and are found by neither search
    assert_eq!(store.memory_count("local").await.unwrap(), before - 3);
    let after = ListMemories { tenant: "local".into(), after: Some(old.id), limit: 10 };
    assert_eq!(store.memories(after).await.unwrap(), std::slice::from_ref(&new));
    let around =
        Neighbours { tenant: "local".into(), ids: vec![old.id, long_ago.id], before: 9, after: 9 };
    assert_eq!(store.neighbours(around).await.unwrap(), []);
    let open = MemoryFilter::default();
    assert_eq!(index.lexical("local", "zeppelin", 10, &open).await.unwrap().hits.len(), 1);
    assert_eq!(
        index.dense("local", &[0.6, 0.8], 1000, &open).await.unwrap().len() as u64,
        before - 3
    );
    assert_eq!(delete(MemorySelector::All).await.unwrap(), before - 3);
    assert_eq!(index.lexical("local", "zeppelin", 10, &open).await.unwrap().hits, []);
    assert_eq!(
        (
            index.dense("local", &[0.6, 0.8], 10, &open).await.unwrap(),
            count(store, "nyx_subjective_memory").await
        ),
        (vec![], 0)
    );
}

async fn keeps_trait_weights(store: &PhoebeStore) {
    let change = |to: f64| StoreTraitWeight {
        name: "moira".into(),
        to,
        reason: "test".into(),
        reward: Some(1.0),
        decision: None,
    };
    let names = ["moira".to_owned(), "eleos".to_owned()];
    assert!(store.trait_weights(&names).await.unwrap().is_empty());
    // eight concurrent changes: each follows another one, and none is lost
    let changes = (1..=8).map(|step| {
        let store = store.clone();
        tokio::spawn(
            async move { store.store_trait_weight(change(f64::from(step))).await.unwrap() },
        )
    });
    let mut steps = Vec::new();
    for task in changes.collect::<Vec<_>>() {
        let change = task.await.unwrap();
        steps.push((change.from, change.to));
    }
    let mut at = 0.0;
    for _ in 0..8 {
        let place = steps
            .iter()
            .position(|(from, _)| *from == at)
            .unwrap_or_else(|| panic!("nothing follows {at}: {steps:?}"));
        at = steps.swap_remove(place).1;
    }
    assert_eq!(
        store.trait_weights(&names).await.unwrap(),
        BTreeMap::from([("moira".to_owned(), at)])
    );
    assert_eq!(count(store, "nyx_trait_weights").await, 8);
}

async fn behaves(options: &PhoebeOptions, folder: &std::path::Path) {
    // several processes may start on one database concurrently
    let stores =
        futures_util::future::try_join_all((0..4).map(|_| PhoebeStore::connect(options, folder)))
            .await
            .unwrap();
    let store = stores[0].clone();
    assert_eq!(store.pending_migrations().await.unwrap(), 0);
    store.can_write().await.unwrap();
    for table in ["nyx_adapters", "nyx_training_runs"] {
        assert_eq!(count(&store, table).await, 0);
    }
    keeps_decisions(&store).await;
    keeps_memories(&store).await;
    knows_neighbours(&store).await;
    forgets_memories(&store).await;
    keeps_trait_weights(&store).await;
    feedback::keeps_verdicts(&store).await;
    feedback::hears_each_key_once(&stores).await;
    weights::moves_trait_weights_once(&stores).await;
    completes_a_deferred_decision_once(&store).await;
    store.close().await;
    // another process reads what this one acknowledged
    let again = PhoebeStore::connect(options, folder).await.unwrap();
    assert_eq!(
        again.decisions(list(|query| query.limit = 100)).await.unwrap().len(),
        3 + feedback::DECISIONS + feedback::KEYED + weights::DECISIONS
    );
    again.close().await;
}

#[actix::test]
async fn phoebe_keeps_the_record_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    behaves(&PhoebeOptions::default(), folder.path()).await;
    assert!(folder.path().join("phoebe.db").is_file());
}

#[actix::test]
async fn phoebe_keeps_the_record_on_postgresql() {
    let server = Postgres::start();
    let options = PhoebeOptions { url: Some(server.url().into()), ..PhoebeOptions::default() };
    behaves(&options, std::path::Path::new("/nowhere")).await;
}

#[actix::test]
async fn decisions_that_arrive_together_share_commits_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let store = PhoebeStore::connect(&PhoebeOptions::default(), folder.path()).await.unwrap();
    records_in_batches(&store).await;
}

#[actix::test]
async fn decisions_that_arrive_together_share_commits_on_postgresql() {
    let server = Postgres::start();
    let options = PhoebeOptions { url: Some(server.url().into()), ..PhoebeOptions::default() };
    let store = PhoebeStore::connect(&options, std::path::Path::new("/nowhere")).await.unwrap();
    records_in_batches(&store).await;
}

#[actix::test]
async fn what_aletheia_reads_through_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = PhoebeStore::connect(&PhoebeOptions::default(), folder.path()).await.unwrap();
    let error = store.reading().execute_unprepared("DELETE FROM nyx_rewards").await.unwrap_err();
    assert!(error.to_string().contains("readonly"), "{error}");
}

#[actix::test]
async fn a_statement_that_runs_too_long_is_given_up_on_postgresql() {
    let server = Postgres::start();
    let options = PhoebeOptions {
        url: Some(server.url().into()),
        statement_timeout_ms: 100,
        ..PhoebeOptions::default()
    };
    let store = PhoebeStore::connect(&options, std::path::Path::new("/nowhere")).await.unwrap();
    assert_eq!(store.connection().get_database_backend(), DbBackend::Postgres);
    // concurrently, so that each uses its own connection
    let sleep = || store.connection().execute_unprepared("SELECT pg_sleep(30)");
    let (first, second, third) = tokio::join!(sleep(), sleep(), sleep());
    for slept in [first, second, third] {
        let error = slept.unwrap_err().to_string();
        assert!(error.contains("statement timeout"), "{error}");
    }
}

#[actix::test]
async fn a_database_that_cannot_be_reached_is_named_without_its_password() {
    let url = Some("postgres://nyx:hush@127.0.0.1:1/nyx".into());
    let options = PhoebeOptions { url, acquire_timeout_ms: 500, ..PhoebeOptions::default() };
    let error = PhoebeStore::connect(&options, std::path::Path::new("/nowhere"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("postgres://***@127.0.0.1:1/nyx") && !error.contains("hush"), "{error}");
}
