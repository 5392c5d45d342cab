//! Tests of the memory actor with the real embedder and a real database.

use std::path::Path;
use std::time::Duration;

use nyx_domain::{ErrorClass, Memory, MemoryFilter, MemorySelector};
use nyx_engine::Device;
use nyx_engine::embed::Embedder;
use uuid::Uuid;

use super::text::MAX_TEXT;
use super::*;
use crate::memory::messages::{Forget, Forgotten, NewMemory, Recall, Remember};
use crate::phoebe::search::{EmbedderId, LOCAL_TENANT, MemoryIndex};
use crate::phoebe::{self, PhoebeOptions, PhoebeStore};
use crate::testing::model;
use crate::testing::postgres::Postgres;
use crate::{NyxError, RequestContext};

mod server;

fn embedding() -> EmbeddingService {
    EmbeddingService::start(Embedder::load(&model("all-minilm-l6-v2"), &Device::Cpu).unwrap(), 8)
        .unwrap()
}

async fn parts_on(options: &PhoebeOptions, folder: &Path) -> MemoryService {
    let embedding = embedding();
    let store = PhoebeStore::connect(options, folder).await.unwrap();
    let index = MemoryIndex::open(store, &embedding.id(), false).await.unwrap();
    MemoryService {
        embedding,
        index,
        server: None,
        retention_days: None,
        recall: RecallOptions::default(),
    }
}

async fn parts(folder: &Path) -> MemoryService {
    parts_on(&PhoebeOptions::default(), folder).await
}

fn context() -> RequestContext {
    RequestContext::new(Duration::from_secs(60))
}

fn tell(text: &str, conversation: Option<&str>) -> Remember {
    let memory = NewMemory {
        text: text.into(),
        speaker: Some("me".into()),
        conversation: conversation.map(str::to_owned),
        ..NewMemory::default()
    };
    Remember { context: context(), memory }
}

impl MemoryService {
    async fn keep(&self, request: Remember) -> Result<Memory, NyxError> {
        Ok(self.remember(request.context, vec![request.memory]).await?.remove(0))
    }
}

fn ask(query: &str, k: usize) -> Recall {
    Recall {
        context: context(),
        query: query.into(),
        k,
        filter: MemoryFilter::default(),
        min_score: -1.0,
    }
}

const TOLD: [&str; 4] = [
    "My sister Clara moved to Lisbon in March.",
    "The boiler was serviced on Tuesday.",
    "I am allergic to peanuts.",
    "The garage code is 4711.",
];

/// The required behaviour on either database.
async fn remembers_and_recalls(parts: &MemoryService) {
    for (index, text) in TOLD.into_iter().enumerate() {
        let memory =
            parts.keep(tell(text, Some(if index < 2 { "home" } else { "health" }))).await.unwrap();
        assert_eq!((memory.text.as_str(), memory.speaker.as_deref()), (text, Some("me")));
    }
    for (question, text) in
        [("What did I tell you about my sister?", TOLD[0]), ("Which foods must I avoid?", TOLD[2])]
    {
        let found = parts.recall(ask(question, 2)).await.unwrap();
        assert_eq!((found.len(), found[0].memory.text.as_str()), (2, text), "{found:?}");
        assert!(found[0].score >= found[1].score && found[0].score <= 1.0001);
    }
    let elsewhere =
        Recall { filter: MemoryFilter::of(Some("health".into())), ..ask("my sister", 10) };
    let found = parts.recall(elsewhere).await.unwrap();
    assert!(
        found.len() == 2
            && found.iter().all(|hit| hit.memory.conversation.as_deref() == Some("health")),
        "{found:?}"
    );
    let near = parts
        .recall(Recall { min_score: 0.4, ..ask("Where does my sister Clara live?", 10) })
        .await
        .unwrap();
    assert_eq!(near.len(), 1, "{near:?}");
    let forgotten = parts
        .forget(Forget { context: context(), selector: MemorySelector::Id(near[0].memory.id) })
        .await
        .unwrap();
    assert_eq!(forgotten, Forgotten { forgotten: 1, erased: true });
    assert_eq!(
        parts.recall(ask("Where does my sister Clara live?", 10)).await.unwrap().len(),
        TOLD.len() - 1
    );
}

/// Names and words in other forms than they were stored in are found by full-text search,
/// regardless of the embedder.
async fn finds_words_in_any_script(parts: &MemoryService) {
    let texts = [
        "Our Zu\u{308}rich bank is the Ge\u{301}rard & Fils.",
        "Our Zürich office moved to Thalwil.",
        "Élodie keeps bees.",
        "Мария держит гусей.",
        "我妹妹住在北京。",
        "妹はサーバーを東京で運営している。",
        "할머니는 부산에 사신다.",
    ];
    let mut kept = Vec::new();
    for text in texts {
        kept.push(parts.keep(tell(text, Some("Zoe\u{308}"))).await.unwrap());
    }
    for (query, expected) in [
        ("Zürich", &[0, 1][..]),
        ("Zu\u{308}rich", &[0, 1]),
        ("zurich", &[0, 1]),
        ("Gérard", &[0]),
        ("ÉLODIE?", &[2]),
        ("elodie", &[2]),
        ("МАРИЯ?", &[3]),
        ("北京", &[4]),
        ("京", &[4, 5]),
        ("サーバー", &[5]),
        ("부산", &[6]),
    ] {
        let found = parts.recall(ask(query, 10)).await.unwrap();
        let by_words = |at: usize| {
            found.iter().any(|hit| hit.memory.id == kept[at].id && hit.lexical.is_some())
        };
        assert!(expected.iter().all(|at| by_words(*at)), "{query}: {found:?}");
        // a word match counts however low the cosine similarity; a memory that shares only a
        // character is excluded
        let strict = parts.recall(Recall { min_score: 1.0, ..ask(query, 10) }).await.unwrap();
        let counted: Vec<usize> = (0..texts.len())
            .filter(|at| strict.iter().any(|hit| hit.memory.id == kept[*at].id))
            .collect();
        assert_eq!(counted, expected, "{query}: {strict:?}");
    }
    for conversation in ["Zoë", "Zoe\u{308}"] {
        let filter = MemoryFilter::of(Some(conversation.to_owned()));
        assert_eq!(
            parts.recall(Recall { filter, ..ask("Zurich", 10) }).await.unwrap().len(),
            texts.len(),
            "{conversation}"
        );
    }
    let selector =
        MemorySelector::Matching { conversation: Some("Zoe\u{308}".into()), before: None };
    let forgotten = parts.forget(Forget { context: context(), selector }).await.unwrap();
    assert_eq!(forgotten.forgotten, texts.len() as u64);
}

#[actix::test]
async fn memories_are_found_by_meaning_and_by_words() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path()).await;
    finds_words_in_any_script(&parts).await;
    remembers_and_recalls(&parts).await;
}

#[actix::test]
async fn the_same_on_postgresql() {
    let server = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    let parts = parts_on(
        &PhoebeOptions { url: Some(server.url().into()), ..PhoebeOptions::default() },
        folder.path(),
    )
    .await;
    finds_words_in_any_script(&parts).await;
    remembers_and_recalls(&parts).await;
}

#[actix::test]
async fn what_was_deleted_stands_in_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path()).await;
    let secret = parts.keep(tell("The safe opens with Quetzalcoatlus.", None)).await.unwrap();
    parts.keep(tell(TOLD[1], None)).await.unwrap();
    let holds = || {
        let files = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap().to_ascii_lowercase());
        files.into_iter().any(|bytes| bytes.windows(14).any(|window| window == b"quetzalcoatlus"))
    };
    assert!(holds());
    parts
        .forget(Forget { context: context(), selector: MemorySelector::Id(secret.id) })
        .await
        .unwrap();
    assert!(!holds());
    assert_eq!(parts.recall(ask("Quetzalcoatlus", 5)).await.unwrap().len(), 1);
}

#[actix::test]
async fn another_embedder_is_refused_until_memories_are_indexed_anew() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path()).await;
    let other = EmbedderId { sha256: "f".repeat(64), dimension: 8 };
    let store = parts.index.phoebe().clone();
    // no memories yet: the tables are recreated for the other embedder
    MemoryIndex::open(store.clone(), &other, false).await.unwrap();
    MemoryIndex::open(store.clone(), &parts.embedding.id(), false).await.unwrap();
    let kept = parts.keep(tell(TOLD[0], None)).await.unwrap();
    let error = MemoryIndex::open(store.clone(), &other, false).await.unwrap_err().to_string();
    assert!(error.contains("nyx memories reindex") && error.contains("ffffffffffff"), "{error}");
    let anew = MemoryIndex::anew(store.clone(), &other, false).await.unwrap();
    let vector = vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(anew.dense(LOCAL_TENANT, &vector, 5, &MemoryFilter::default()).await.unwrap(), []);
    // an interrupted reindex must be repeated
    assert!(
        MemoryIndex::open(store.clone(), &other, false)
            .await
            .unwrap_err()
            .to_string()
            .contains("nyx memories reindex")
    );
    for _ in 0..2 {
        anew.index(LOCAL_TENANT, vec![(kept.clone(), vector.clone())]).await.unwrap();
    }
    anew.complete().await.unwrap();
    MemoryIndex::open(store, &other, false).await.unwrap();
    assert_eq!(
        anew.dense(LOCAL_TENANT, &vector, 5, &MemoryFilter::default()).await.unwrap().len(),
        1
    );
    assert_eq!(
        anew.lexical(LOCAL_TENANT, "Lisbon", 5, &MemoryFilter::default()).await.unwrap().hits.len(),
        1
    );
}

#[actix::test]
async fn newer_memories_rank_first_where_age_counts_and_duplicates_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = parts(folder.path()).await;
    let years = chrono::TimeDelta::days(800);
    for (text, when) in [
        ("I live in Oslo.", phoebe::now() - years),
        ("I live in Turin.", phoebe::now()),
        ("I live in Turin!", phoebe::now()),
    ] {
        let memory = NewMemory { text: text.into(), when: Some(when), ..NewMemory::default() };
        parts.remember(context(), vec![memory]).await.unwrap();
    }
    parts.recall.recency_weight = 10.0;
    let found = parts.recall(ask("I live in Oslo.", 3)).await.unwrap();
    assert_eq!(found[2].memory.text, "I live in Oslo.", "{found:?}");
    parts.recall = RecallOptions { mmr_lambda: 0.3, ..RecallOptions::default() };
    let found = parts.recall(ask("I live in Turin", 2)).await.unwrap();
    assert!(found.iter().any(|hit| hit.memory.text == "I live in Oslo."), "{found:?}");
}

#[actix::test]
async fn what_is_too_old_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = parts(folder.path()).await;
    let old = Memory {
        id: Uuid::now_v7(),
        text: TOLD[0].into(),
        speaker: None,
        when: None,
        conversation: None,
        stored_at: phoebe::now() - chrono::TimeDelta::days(40),
        caption: None,
    };
    let vector = parts.embedding.embed(vec![old.passage()]).await.unwrap().vectors.remove(0);
    parts.index.insert("someone", vec![(old, vector)]).await.unwrap();
    parts.keep(tell(TOLD[1], None)).await.unwrap();
    parts.retention_days = Some(50);
    parts.retain().await.unwrap();
    assert_eq!(parts.index.phoebe().memory_count("someone").await.unwrap(), 1);
    parts.retention_days = Some(30);
    parts.retain().await.unwrap();
    assert_eq!(parts.index.phoebe().memory_count("someone").await.unwrap(), 0);
    assert_eq!(parts.index.phoebe().memory_count(LOCAL_TENANT).await.unwrap(), 1);
}

#[actix::test]
async fn turns_beside_a_memory_come_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path()).await;
    for text in ["Where did Clara move?", "To Lisbon, in March.", "How nice."] {
        parts.keep(tell(text, Some("walk"))).await.unwrap();
    }
    let found = parts.recall(ask("Lisbon", 1)).await.unwrap();
    assert_eq!(found[0].exchange(), ["me: Where did Clara move?"]);
    assert_eq!(found[0].beside.after[0].text, "How nice.");
}

#[actix::test]
async fn a_large_job_holds_no_other_up() {
    let embedding = embedding();
    let large =
        || vec!["The boiler was serviced on Tuesday, and again on Wednesday.".repeat(4); 128];
    let (patient, left) = (embedding.embed(large()), embedding.embed(large()));
    let one = async {
        let vectors = embedding.embed(vec!["a cat".into()]).await.unwrap().vectors;
        (vectors.len(), std::time::Instant::now())
    };
    let patient = async { (patient.await.unwrap().vectors.len(), std::time::Instant::now()) };
    let left = async { tokio::time::timeout(Duration::from_millis(50), left).await.is_err() };
    let ((all, all_at), left, (one, one_at)) = tokio::join!(patient, left, one);
    assert_eq!((all, left, one), (128, true, 1));
    assert!(one_at < all_at, "the small job waited for the large one");
}

#[actix::test]
async fn what_cannot_be_remembered_or_recalled_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path()).await;
    let huge = "a".repeat(MAX_TEXT + 1);
    for (text, says) in [("", "empty"), (" \n", "empty"), (huge.as_str(), "32769")] {
        let error = parts.keep(tell(text, None)).await.unwrap_err();
        assert!(
            error.class() == ErrorClass::InvalidRequest && error.to_string().contains(says),
            "{error}"
        );
    }
    for (query, k, says) in [("", 1, "q is empty"), ("a", 0, "k is 0"), ("a", 101, "k is 101")] {
        let error = parts.recall(ask(query, k)).await.unwrap_err();
        assert!(
            error.class() == ErrorClass::InvalidRequest && error.to_string().contains(says),
            "{error}"
        );
    }
    let long = tell("a", Some(&"c".repeat(257)));
    assert!(parts.keep(long).await.unwrap_err().to_string().contains("conversation has 257 bytes"));
    let late = Recall { context: RequestContext::new(Duration::ZERO), ..ask("a", 1) };
    assert_eq!(parts.recall(late).await.unwrap_err().class(), ErrorClass::DeadlineExceeded);
}
