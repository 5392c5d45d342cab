//! Forgetting, also when something is in the way.

use chrono::TimeDelta;

use super::*;
use crate::phoebe::messages::{ListForgotten, MarkForgotten, MarkIndexed, MemorySelector};

fn forget(selector: MemorySelector) -> Forget {
    Forget { context: context(), selector }
}

async fn alive(parts: &MemoryParts) -> Vec<String> {
    let list = ListMemories { unindexed_only: false, after: None, limit: 1000 };
    parts.phoebe.send(list).await.unwrap().into_iter().map(|memory| memory.text).collect()
}

async fn found(parts: &MemoryParts) -> usize {
    parts.recall(ask("anything", 100)).await.unwrap().len()
}

#[actix::test]
async fn what_is_forgotten_is_found_no_more_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path()).await;
    let day = |day: i64| Some(DateTime::UNIX_EPOCH + TimeDelta::days(day));
    let new = |text: &str, conversation: Option<&str>, when: Option<DateTime<Utc>>| NewMemory {
        text: text.into(),
        when,
        conversation: conversation.map(str::to_owned),
        ..NewMemory::default()
    };
    let told = vec![
        new("a", None, day(1)),
        new("b", Some("home"), day(2)),
        new("c", Some("home"), day(3)),
        new("d", Some("work"), day(3)),
        // as of now
        new("e", Some("work"), None),
        new("f", None, None),
    ];
    let kept = parts.remember(context(), told).await.unwrap();
    assert_eq!((alive(&parts).await, found(&parts).await), (["a", "b", "c", "d", "e", "f"].map(str::to_owned).to_vec(), 6));

    let done = |forgotten| Forgotten { forgotten, erased: true };
    assert_eq!(parts.forget(forget(MemorySelector::Id(kept[0].id))).await.unwrap(), done(1));
    let error = parts.forget(forget(MemorySelector::Id(kept[0].id))).await.unwrap_err();
    assert!(error.status() == 404 && error.to_string().contains(&kept[0].id.to_string()), "{error}");
    let both = MemorySelector::Matching { conversation: Some("home".into()), before: day(3) };
    assert_eq!(parts.forget(forget(both)).await.unwrap(), done(1));
    assert_eq!(alive(&parts).await, ["c", "d", "e", "f"]);
    let old = MemorySelector::Matching { conversation: None, before: day(4) };
    assert_eq!(parts.forget(forget(old)).await.unwrap(), done(2));
    let conversation = MemorySelector::Matching { conversation: Some("work".into()), before: None };
    assert_eq!(parts.forget(forget(conversation.clone())).await.unwrap(), done(1));
    assert_eq!(parts.forget(forget(conversation)).await.unwrap(), done(0));
    assert_eq!((alive(&parts).await, found(&parts).await), (vec!["f".to_owned()], 1));
    let nothing = parts.forget(forget(MemorySelector::Matching { conversation: None, before: None })).await.unwrap_err();
    assert!(nothing.status() == 400 && nothing.to_string().contains("expected one of them"), "{nothing}");
    assert_eq!(parts.forget(forget(MemorySelector::All)).await.unwrap(), done(1));
    assert_eq!((alive(&parts).await.len(), found(&parts).await, parts.store.count().await.unwrap()), (0, 0, 0));
    assert!(parts.phoebe.send(ListForgotten { limit: 10 }).await.unwrap().is_empty());
    assert_eq!(parts.heal().await.unwrap(), 0);
}

#[actix::test]
async fn a_forgetting_that_was_cut_short_is_finished_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (gone, kept) = {
        let parts = parts(folder.path()).await;
        let gone = parts.keep(tell(TOLD[0], None)).await.unwrap();
        let kept = parts.keep(tell(TOLD[2], None)).await.unwrap();
        // the crash: marked, and neither out of the index nor deleted
        parts.phoebe.send(MarkForgotten(MemorySelector::Ids(vec![gone.id]))).await.unwrap();
        assert_eq!(found(&parts).await, 2);
        (gone, kept)
    };
    let parts = parts(folder.path()).await;
    parts.keep_house(true).await.unwrap();
    assert_eq!(parts.recall(ask("sister", 10)).await.unwrap().into_iter().map(|hit| hit.memory).collect::<Vec<_>>(), [kept]);
    assert!(parts.phoebe.send(ListForgotten { limit: 10 }).await.unwrap().is_empty());
    // whoever indexed it meanwhile is told that it is not to be there
    assert_eq!(parts.phoebe.send(MarkIndexed(vec![gone.id])).await.unwrap(), [gone.id]);
    parts.index(vec![gone]).await.unwrap();
    assert_eq!(found(&parts).await, 1);
}

#[actix::test]
async fn an_index_that_does_not_answer_is_swept_later_and_one_of_this_process_alone_deletes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (parts, failing) = failing_parts(folder.path()).await;
    failing.fails.store(false, Ordering::SeqCst);
    let memory = parts.keep(tell(TOLD[0], None)).await.unwrap();
    let beside = MemoryParts::new(parts.embedding.clone(), Arc::new(EdgeStore::temporary(384).unwrap()), parts.phoebe.clone(), false, None);
    assert_eq!(beside.heal().await.unwrap(), 1);

    failing.fails.store(true, Ordering::SeqCst);
    let forgotten = parts.forget(forget(MemorySelector::Id(memory.id))).await.unwrap();
    assert_eq!(forgotten, Forgotten { forgotten: 1, erased: false });
    assert!(alive(&parts).await.is_empty());
    beside.sweep().await.unwrap();
    assert_eq!(found(&beside).await, 0);
    assert_eq!(parts.phoebe.send(ListForgotten { limit: 10 }).await.unwrap(), [memory.id], "the lasting index still has it");

    failing.fails.store(false, Ordering::SeqCst);
    assert_eq!(parts.sweep().await.unwrap(), 1);
    assert_eq!((found(&parts).await, parts.phoebe.send(ListForgotten { limit: 10 }).await.unwrap()), (0, vec![]));
}

#[actix::test]
async fn memories_are_kept_as_long_as_they_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let parts = MemoryParts { retention_days: Some(30), ..parts(folder.path()).await };
    let stored = |days: i64, text: &str| Memory {
        stored_at: phoebe::now() - TimeDelta::days(days),
        when: Some(DateTime::UNIX_EPOCH),
        ..plain(text)
    };
    // it counts from when it was stored: what is told today of long ago stays
    parts.phoebe.send(StoreMemories(vec![stored(31, TOLD[0]), stored(29, TOLD[1]), stored(0, TOLD[2])])).await.unwrap();
    parts.keep_house(false).await.unwrap();
    assert_eq!(found(&parts).await, 3);
    parts.keep_house(true).await.unwrap();
    assert_eq!((alive(&parts).await, found(&parts).await), (vec![TOLD[1].to_owned(), TOLD[2].to_owned()], 2));
}
