//! Acknowledged writes are on record exactly once, whichever write fails: SQLite's file is full, or
//! the disk fails.

use std::collections::BTreeSet;

use nyx_domain::{ErrorClass, FeedbackInput};
use sea_orm::sqlx::{Connection, Row, SqliteConnection};

use super::*;
use crate::RewardOptions;
use crate::feedback::NewFeedback;
use crate::feedback::scoring::feedback;
use crate::phoebe::messages::StoreTraitWeight;

/// The acknowledged and the attempted writes.
#[derive(Default)]
struct Told {
    acknowledged: Rows,
    tried: Rows,
}

/// Rows by their identifying column.
#[derive(Debug, Default, Clone, PartialEq)]
struct Rows {
    decisions: BTreeSet<String>,
    memories: BTreeSet<String>,
    /// By key.
    entries: BTreeSet<String>,
    /// By reason.
    weights: BTreeSet<String>,
}

fn thumbs(decision: &Decision, value: f64, key: &str) -> NewFeedback {
    let input = FeedbackInput {
        value,
        input: serde_json::json!({ "value": value }),
        ..FeedbackInput::default()
    };
    feedback(decision, None, &RewardOptions::default(), input, Some(key.to_owned())).unwrap()
}

/// Writes one row of every kind per step; returns the number of failed writes.
async fn load(store: &PhoebeStore, input: &mut Told, steps: usize) -> usize {
    let mut failures = 0;
    let mut note = |all: (&mut BTreeSet<String>, &mut BTreeSet<String>),
                    names: Vec<String>,
                    outcome: Result<(), NyxError>| {
        all.0.extend(names.clone());
        match outcome {
            Ok(()) => all.1.extend(names),
            Err(error) => {
                assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
                failures += 1;
            }
        }
    };
    let index = super::index(store).await;
    for _ in 0..steps {
        let Told { acknowledged, tried } = input;
        // long enough to need database pages of its own
        let decided = decision("moira", "Will it rain?", &"Perhaps. ".repeat(700));
        let outcome = store.record(&record(&decided, Some((0.25, "brier".into())))).await;
        let recorded = outcome.is_ok();
        note(
            (&mut tried.decisions, &mut acknowledged.decisions),
            vec![decided.id.to_string()],
            outcome,
        );
        let memory = |text: &str| Memory {
            id: Uuid::now_v7(),
            text: text.repeat(300),
            speaker: None,
            when: None,
            conversation: None,
            stored_at: now(),
            caption: None,
        };
        let memories = vec![memory("a boat "), memory("a zeppelin "), memory("a train ")];
        let ids = memories.iter().map(|memory| memory.id.to_string()).collect();
        let outcome = index.insert("local", super::vectors(&memories)).await;
        note((&mut tried.memories, &mut acknowledged.memories), ids, outcome);
        if recorded {
            // these must be refused or ignored without any fault: a recorded decision, and below a
            // key with another value
            let again = store.record(&record(&decided, None)).await;
            assert!(
                again.is_ok() || again.is_err_and(|error| error.class() == ErrorClass::Unavailable)
            );
            for value in [1.0, -0.5] {
                let key = format!("{}/{value}", decided.id);
                let outcome = store
                    .record_feedback(vec![thumbs(&decided, value, &key)], Some(weights::LEARNING))
                    .await;
                let input = outcome.is_ok();
                note(
                    (&mut tried.entries, &mut acknowledged.entries),
                    vec![key.clone()],
                    outcome.map(drop),
                );
                if input {
                    let other = store
                        .record_feedback(
                            vec![thumbs(&decided, value / 2.0, &key)],
                            Some(weights::LEARNING),
                        )
                        .await;
                    assert!(matches!(
                        other.unwrap_err().class(),
                        ErrorClass::Conflict | ErrorClass::Unavailable
                    ));
                }
            }
        }
        let reason = Uuid::now_v7().to_string();
        let change = StoreTraitWeight {
            name: "moira".into(),
            to: 0.5,
            reason: reason.clone(),
            reward: None,
            decision: None,
        };
        let outcome = store.store_trait_weight(change).await;
        note((&mut tried.weights, &mut acknowledged.weights), vec![reason], outcome.map(drop));
    }
    failures
}

/// The rows that a new SQLite connection finds in the file.
async fn on_record(path: &std::path::Path) -> Rows {
    let mut connection =
        SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let mut rows = Rows::default();
    for (into, sql) in [
        (&mut rows.decisions, "SELECT id FROM nyx_synthetic_specialist_queries"),
        (&mut rows.memories, "SELECT id FROM nyx_subjective_memory"),
        (&mut rows.entries, "SELECT key FROM nyx_feedback"),
        (&mut rows.weights, "SELECT reason FROM nyx_trait_weights WHERE reward IS NULL"),
    ] {
        for row in sea_orm::sqlx::query(sql).fetch_all(&mut connection).await.unwrap() {
            let name: String = row.get(0);
            assert!(into.insert(name.clone()), "{name} is there twice: {sql}");
        }
    }
    // each decision has its automatic reward, and each feedback entry has its reward
    let sql = "SELECT (SELECT count(*) FROM nyx_rewards) - (SELECT count(*) FROM nyx_synthetic_specialist_queries) - count(*) FROM nyx_feedback";
    let left: i64 = sea_orm::sqlx::query(sql).fetch_one(&mut connection).await.unwrap().get(0);
    assert_eq!(left, 0, "rewards without what they reward, or the reverse");
    let broken =
        sea_orm::sqlx::query("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
    assert_eq!(broken.get::<String, _>(0), "ok");
    connection.close().await.unwrap();
    rows
}

#[actix::test]
async fn a_file_that_was_full_once_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut failed = 0;
    for room in 0.. {
        let path = folder.path().join(format!("{room}.db"));
        let options = PhoebeOptions {
            url: Some(format!("sqlite://{}", path.display()).into()),
            ..PhoebeOptions::default()
        };
        let store = PhoebeStore::connect(&options, folder.path()).await.unwrap();
        let mut input = Told::default();
        assert_eq!(load(&store, &mut input, 1).await, 0);
        let pages = count_pages(&store).await;
        store
            .connection()
            .execute_unprepared(&format!("PRAGMA max_page_count = {}", pages + room))
            .await
            .unwrap();
        let failures = load(&store, &mut input, 3).await;
        failed += failures;
        // applies to the current connection, whether or not it is the same one
        store.connection().execute_unprepared("PRAGMA max_page_count = 1000000").await.unwrap();
        assert_eq!(
            load(&store, &mut input, 2).await,
            0,
            "with room for {room} pages: it does not write again"
        );
        store.close().await;
        assert_eq!(on_record(&path).await, input.acknowledged, "with room for {room} pages");
        std::fs::remove_file(&path).unwrap();
        if failures == 0 {
            break;
        }
    }
    assert!(failed > 10, "{failed} writes failed");
}

async fn count_pages(store: &PhoebeStore) -> i64 {
    let statement = Statement::from_string(DbBackend::Sqlite, "PRAGMA page_count");
    store
        .connection()
        .query_one_raw(statement)
        .await
        .unwrap()
        .unwrap()
        .try_get("", "page_count")
        .unwrap()
}

#[actix::test]
async fn a_disk_that_failed_once_loses_nothing_that_was_acknowledged() {
    nyx_sqlite_faults::register();
    let folder = tempfile::tempdir().unwrap();
    // one operation fails, or all later ones too; as on a broken disk, or as on a full one
    for (lasting, full) in [(false, false), (true, false), (false, true), (true, true)] {
        nyx_sqlite_faults::fail_as_full(full);
        let mut failed = 0;
        // the first operations one by one, then at intervals: a step performs about two hundred
        for n in (1..40).chain((40..).step_by(7)) {
            let path = folder.path().join(format!("{n}-{lasting}-{full}.db"));
            let url = Some(format!("sqlite://{}?vfs=nyx-faults", path.display()).into());
            let store = PhoebeStore::connect(
                &PhoebeOptions { url, ..PhoebeOptions::default() },
                folder.path(),
            )
            .await
            .unwrap();
            let mut input = Told::default();
            assert_eq!(load(&store, &mut input, 1).await, 0);
            nyx_sqlite_faults::fail_at(n, lasting);
            let failures = load(&store, &mut input, 2).await;
            let happened = nyx_sqlite_faults::lift();
            failed += failures;
            assert_eq!(
                load(&store, &mut input, 2).await,
                0,
                "after operation {n}, lasting {lasting}: it does not write again"
            );
            store.close().await;
            let found = on_record(&path).await;
            // a commit that was not acknowledged may still have reached the disk
            for (found, acknowledged, tried) in [
                (&found.decisions, &input.acknowledged.decisions, &input.tried.decisions),
                (&found.memories, &input.acknowledged.memories, &input.tried.memories),
                (&found.entries, &input.acknowledged.entries, &input.tried.entries),
                (&found.weights, &input.acknowledged.weights, &input.tried.weights),
            ] {
                let lost: Vec<_> = acknowledged.difference(found).collect();
                let invented: Vec<_> = found.difference(tried).collect();
                assert!(
                    lost.is_empty() && invented.is_empty(),
                    "operation {n}, lasting {lasting}: {lost:?} lost, {invented:?} invented"
                );
            }
            std::fs::remove_file(&path).unwrap();
            if happened == 0 {
                break;
            }
        }
        assert!(failed > 10, "{failed} writes failed");
    }
}

#[actix::test]
async fn a_transaction_that_failed_commits_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = PhoebeStore::connect(&PhoebeOptions::default(), folder.path()).await.unwrap();
    let insert = |id: &str| {
        format!(
            "INSERT INTO nyx_readiness (instance, at, padding) VALUES ('{id}', '2026-12-01', x'00')"
        )
    };
    let transaction = store.begin().await.unwrap();
    transaction.execute_unprepared(&insert("a")).await.unwrap();
    transaction.execute_unprepared("INSERT INTO nowhere VALUES (1)").await.unwrap_err();
    let refused = transaction.execute_unprepared(&insert("b")).await.unwrap_err().to_string();
    assert!(refused.contains("failed before") && refused.contains("nowhere"), "{refused}");
    let refused = transaction.commit().await.unwrap_err().to_string();
    assert!(refused.contains("failed before"), "{refused}");
    // dropped without commit or rollback
    let transaction = store.begin().await.unwrap();
    transaction.execute_unprepared(&insert("c")).await.unwrap();
    drop(transaction);
    assert_eq!(count(&store, "nyx_readiness").await, 0);
    let transaction = store.begin().await.unwrap();
    transaction.execute_unprepared(&insert("d")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(count(&store, "nyx_readiness").await, 1);
}

#[actix::test]
async fn a_database_in_memory_outlives_a_transaction_that_failed() {
    let options = PhoebeOptions { url: Some("sqlite::memory:".into()), ..PhoebeOptions::default() };
    let store = PhoebeStore::connect(&options, std::path::Path::new("/nowhere")).await.unwrap();
    let kept = decision("moira", "Will it rain?", "No");
    store.record(&record(&kept, None)).await.unwrap();
    let transaction = store.begin().await.unwrap();
    transaction.execute_unprepared("DELETE FROM nyx_synthetic_specialist_queries").await.unwrap();
    drop(transaction);
    assert_eq!(store.decision(kept.id).await.unwrap(), kept);
    store.can_write().await.unwrap();
}

#[actix::test]
async fn a_connection_that_lost_its_transaction_on_postgresql_is_closed() {
    let server = Postgres::start();
    let options = PhoebeOptions {
        url: Some(server.url().into()),
        max_connections: 2,
        ..PhoebeOptions::default()
    };
    let store = PhoebeStore::connect(&options, std::path::Path::new("/nowhere")).await.unwrap();
    let backend = async |on: &crate::phoebe::WriteTransaction| -> i32 {
        let asked = Statement::from_string(DbBackend::Postgres, "SELECT pg_backend_pid() AS pid");
        on.query_one_raw(asked).await.unwrap().unwrap().try_get("", "pid").unwrap()
    };
    // as many times as there are connections
    for _ in 0..2 {
        let transaction = store.begin().await.unwrap();
        let pid = backend(&transaction).await;
        transaction.execute_unprepared("INSERT INTO nowhere VALUES (1)").await.unwrap_err();
        // PostgreSQL itself would report success and roll back
        transaction.commit().await.unwrap_err();
        for _ in 0..3 {
            let transaction = store.begin().await.unwrap();
            assert_ne!(backend(&transaction).await, pid);
            transaction.commit().await.unwrap();
        }
    }
    let kept = decision("moira", "Will it rain?", "No");
    store.record(&record(&kept, None)).await.unwrap();
    assert_eq!(store.decision(kept.id).await.unwrap(), kept);
}

#[actix::test]
async fn readiness_writes_and_says_what_keeps_it_from_writing() {
    let folder = tempfile::tempdir().unwrap();
    let options = PhoebeOptions { acquire_timeout_ms: 4_000, ..PhoebeOptions::default() };
    let store = PhoebeStore::connect(&options, folder.path()).await.unwrap();
    let fresh = std::time::Duration::from_millis(1_050);
    // concurrent checks share one write
    let asked = futures_util::future::join_all((0..8).map(|_| store.can_write())).await;
    assert!(asked.iter().all(Result::is_ok), "{asked:?}");
    let version = async || -> String {
        let asked = Statement::from_string(
            DbBackend::Sqlite,
            "SELECT hex(padding) AS bytes FROM nyx_readiness",
        );
        store
            .connection()
            .query_one_raw(asked)
            .await
            .unwrap()
            .unwrap()
            .try_get("", "bytes")
            .unwrap()
    };
    let written = version().await;
    store.can_write().await.unwrap();
    assert_eq!(version().await, written, "asked again within a second, it writes nothing");
    tokio::time::sleep(fresh).await;
    store.can_write().await.unwrap();
    assert_ne!(version().await, written, "asked again later, it writes");
    assert_eq!(count(&store, "nyx_readiness").await, 1);

    // the file is full until the limit is lifted
    tokio::time::sleep(fresh).await;
    let pages = count_pages(&store).await;
    store
        .connection()
        .execute_unprepared(&format!(
            "DELETE FROM nyx_readiness; VACUUM; PRAGMA max_page_count = {}",
            pages - 2
        ))
        .await
        .unwrap();
    let error = store.can_write().await.unwrap_err();
    assert!(
        error.class() == ErrorClass::Unavailable && error.to_string().contains("full"),
        "{error}"
    );
    tokio::time::sleep(fresh).await;
    store.connection().execute_unprepared("PRAGMA max_page_count = 1000000").await.unwrap();
    store.can_write().await.unwrap();

    // another process holds the write lock: the check fails within two seconds
    tokio::time::sleep(fresh).await;
    let url = format!("sqlite://{}", folder.path().join("phoebe.db").display());
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    sea_orm::sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let begun = std::time::Instant::now();
    let error = store.can_write().await.unwrap_err();
    assert!(error.to_string().contains("nothing could be written in 1800 ms"), "{error}");
    assert!(begun.elapsed() < std::time::Duration::from_millis(2_500), "{:?}", begun.elapsed());
    other.close().await.unwrap();
    tokio::time::sleep(fresh).await;
    // the blocked connection is closed first
    let again = async || loop {
        match store.can_write().await {
            Ok(()) => return,
            Err(_) => tokio::time::sleep(fresh).await,
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), again()).await.unwrap();
}

#[actix::test]
async fn a_file_that_was_removed_or_replaced_is_written_no_more() {
    type Harm = fn(&std::path::Path);
    let (removed, replaced, moved): (Harm, Harm, Harm) = (
        |folder| std::fs::remove_file(folder.join("phoebe.db")).unwrap(),
        |folder| {
            std::fs::copy(folder.join("phoebe.db"), folder.join("copy")).unwrap();
            std::fs::rename(folder.join("copy"), folder.join("phoebe.db")).unwrap();
        },
        |folder| {
            std::fs::rename(folder, folder.with_extension("old")).unwrap();
            std::fs::create_dir(folder).unwrap();
        },
    );
    let no_log: Harm = |folder| std::fs::remove_file(folder.join("phoebe.db-wal")).unwrap();
    for (what, harm) in
        [("removed", removed), ("replaced", replaced), ("removed", moved), ("removed", no_log)]
    {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("data");
        std::fs::create_dir(&folder).unwrap();
        let options = PhoebeOptions { acquire_timeout_ms: 1_000, ..PhoebeOptions::default() };
        let store = PhoebeStore::connect(&options, &folder).await.unwrap();
        store.record(&record(&decision("moira", "Will it rain?", "No"), None)).await.unwrap();
        let index = super::index(&store).await;
        harm(&folder);
        for error in [
            store
                .record(&record(&decision("moira", "Will it rain?", "No"), None))
                .await
                .unwrap_err(),
            store.can_write().await.unwrap_err(),
            // also on a newly opened connection
            index.delete("local", &MemorySelector::All).await.unwrap_err(),
        ] {
            assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
        let error = store.can_write().await.unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("phoebe.db"), "{error}");
        if harm as usize == moved as usize {
            assert!(!folder.join("phoebe.db").exists(), "no empty database was made in its place");
            // once the file is restored, writes succeed again
            std::fs::remove_dir(&folder).unwrap();
            std::fs::rename(folder.with_extension("old"), &folder).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
            store.can_write().await.unwrap();
        }
        store.close().await;
    }
}
