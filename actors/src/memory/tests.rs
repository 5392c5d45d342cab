//! The memory keeper with the real embedder, the real store and a real phoebe.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use nyx_engine::Device;
use nyx_engine::embed::Embedder;
use tempfile::TempDir;

use super::*;

mod forgetting;
mod recalling;
mod server;
mod stores;

use crate::phoebe::{PhoebeOptions, PhoebeStore};
use crate::supervise::RestartPolicy;
use crate::testing::model;

fn embedding() -> EmbeddingService {
    EmbeddingService::start(Embedder::load(&model("all-minilm-l6-v2"), &Device::Cpu).unwrap(), 8).unwrap()
}

async fn phoebe(folder: &Path) -> Supervised<Phoebe> {
    let store = PhoebeStore::connect(&PhoebeOptions::default(), folder).await.unwrap();
    let vitals = Vitals::new("phoebe", "phoebe", None);
    let phoebe = {
        let vitals = Arc::clone(&vitals);
        Supervised::start(&actix::Arbiter::current(), Arc::clone(&vitals), RestartPolicy::default(), 64, move || {
            Phoebe::new(store.clone(), Arc::clone(&vitals))
        })
    };
    let mut lifecycle = vitals.lifecycle.subscribe();
    lifecycle.wait_for(|lifecycle| lifecycle.state == crate::observe::ActorState::Running).await.unwrap();
    phoebe
}

async fn parts(folder: &Path) -> MemoryParts {
    let embedding = embedding();
    let store = Arc::new(EdgeStore::open(&folder.join("memory"), embedding.dimension()).unwrap());
    MemoryParts::new(embedding, store, phoebe(folder).await, true, None)
}

fn context() -> RequestContext {
    RequestContext::new(Duration::from_secs(60))
}

fn tell(text: &str, conversation: Option<&str>) -> Remember {
    let memory =
        NewMemory { text: text.into(), speaker: Some("me".into()), conversation: conversation.map(str::to_owned), ..NewMemory::default() };
    Remember { context: context(), memory }
}

impl MemoryParts {
    async fn keep(&self, request: Remember) -> Result<Memory, NyxError> {
        Ok(self.remember(request.context, vec![request.memory]).await?.remove(0))
    }
}

fn plain(text: &str) -> Memory {
    Memory { id: Uuid::now_v7(), text: text.into(), speaker: None, when: None, conversation: None, stored_at: phoebe::now(), caption: None }
}

fn ask(query: &str, k: usize) -> Recall {
    Recall { context: context(), query: query.into(), k, filter: MemoryFilter::default(), min_score: -1.0 }
}

const TOLD: [&str; 4] = [
    "My sister Clara moved to Lisbon in March.",
    "The boiler was serviced on Tuesday.",
    "I am allergic to peanuts.",
    "The garage code is 4711.",
];

/// What any store must do under the keeper.
async fn remembers_and_recalls(parts: &MemoryParts) {
    for (index, text) in TOLD.into_iter().enumerate() {
        let memory = parts.keep(tell(text, Some(if index < 2 { "home" } else { "health" }))).await.unwrap();
        assert_eq!((memory.text.as_str(), memory.speaker.as_deref()), (text, Some("me")));
    }
    for (question, text) in [("What did I tell you about my sister?", TOLD[0]), ("Which foods must I avoid?", TOLD[2])] {
        let found = parts.recall(ask(question, 2)).await.unwrap();
        assert_eq!((found.len(), found[0].memory.text.as_str()), (2, text), "{found:?}");
        assert!(found[0].score >= found[1].score && found[0].score <= 1.0001);
    }
    let elsewhere = Recall { filter: MemoryFilter::of(Some("health".into())), ..ask("my sister", 10) };
    let found = parts.recall(elsewhere).await.unwrap();
    assert!(found.len() == 2 && found.iter().all(|hit| hit.memory.conversation.as_deref() == Some("health")), "{found:?}");
    let near = parts.recall(Recall { min_score: 0.4, ..ask("Where does my sister Clara live?", 10) }).await.unwrap();
    assert_eq!(near.len(), 1, "{near:?}");
    assert_eq!(parts.store.count().await.unwrap(), TOLD.len());
    parts.store.delete(vec![near[0].memory.id]).await.unwrap();
    assert_eq!(parts.store.count().await.unwrap(), TOLD.len() - 1);
}

#[actix::test]
async fn what_was_told_is_found_by_its_meaning() {
    let folder = tempfile::tempdir().unwrap();
    remembers_and_recalls(&parts(folder.path()).await).await;
}

#[actix::test]
async fn the_same_on_a_qdrant_server_where_there_is_one() {
    let Ok(url) = std::env::var("QDRANT_URL") else {
        return println!("skipped: QDRANT_URL is not set, so there is no Qdrant server to try");
    };
    let folder = tempfile::tempdir().unwrap();
    let embedding = embedding();
    let collection = format!("nyx_test_{}", Uuid::now_v7().simple());
    let options = MemoryOptions { store: StoreKind::Qdrant, url: Some(url), collection, ..MemoryOptions::default() };
    let store = Arc::new(QdrantStore::open(&options, embedding.dimension()).await.unwrap());
    remembers_and_recalls(&MemoryParts::new(embedding, store, phoebe(folder.path()).await, true, None)).await;
}

#[actix::test]
async fn an_index_that_was_lost_or_missed_some_is_healed_from_phoebe() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts(folder.path()).await;
    parts.keep(tell(TOLD[0], None)).await.unwrap();
    assert_eq!(parts.heal().await.unwrap(), 0);
    // a crash between the two writes: phoebe has it, the index does not
    let missed = plain(TOLD[1]);
    parts.phoebe.send(StoreMemories(vec![missed.clone()])).await.unwrap();
    assert_eq!(parts.heal().await.unwrap(), 1);
    assert_eq!(parts.recall(ask("heating maintenance", 1)).await.unwrap()[0].memory, missed);
    assert_eq!(parts.heal().await.unwrap(), 0);
    // the folder is gone: all of it is built again
    let elsewhere: TempDir = tempfile::tempdir().unwrap();
    let empty = Arc::new(EdgeStore::open(&elsewhere.path().join("memory"), parts.embedding.dimension()).unwrap());
    let anew = MemoryParts { store: empty, ..parts.clone() };
    assert_eq!(anew.heal().await.unwrap(), 2);
    assert_eq!(anew.recall(ask("my sister", 1)).await.unwrap()[0].memory.text, TOLD[0]);
    // a part of it is gone
    anew.store.delete(vec![missed.id]).await.unwrap();
    assert_eq!(anew.heal().await.unwrap(), 2);
    assert_eq!(anew.recall(ask("heating maintenance", 1)).await.unwrap()[0].memory, missed);
    // an index for this process alone holds everything, and tells phoebe nothing
    let late = Memory { id: Uuid::now_v7(), text: TOLD[2].into(), ..missed };
    parts.phoebe.send(StoreMemories(vec![late.clone()])).await.unwrap();
    let beside = MemoryParts { store: Arc::new(EdgeStore::temporary(384).unwrap()), lasting: false, ..parts.clone() };
    assert_eq!(beside.heal().await.unwrap(), 3);
    assert_eq!(beside.recall(ask("allergies", 1)).await.unwrap()[0].memory, late);
    assert_eq!(parts.heal().await.unwrap(), 1, "the lasting index still lacks it");
}

/// A real store whose writes fail while told to.
struct Failing {
    store: EdgeStore,
    fails: AtomicBool,
}

#[async_trait]
impl MemoryStore for Failing {
    fn name(&self) -> &'static str {
        "failing"
    }
    async fn upsert(&self, memories: Vec<IndexedMemory>) -> Result<(), NyxError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(NyxError::VectorStore { doing: "writing", reason: "the disk is full".into() });
        }
        self.store.upsert(memories).await
    }
    async fn dense(&self, vector: Vec<f32>, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError> {
        self.store.dense(vector, k, filter).await
    }
    async fn lexical(&self, text: &str, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError> {
        self.store.lexical(text, k, filter).await
    }
    async fn clear(&self) -> Result<(), NyxError> {
        self.store.clear().await
    }
    async fn delete(&self, ids: Vec<Uuid>) -> Result<(), NyxError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(NyxError::VectorStore { doing: "deleting", reason: "the disk is full".into() });
        }
        self.store.delete(ids).await
    }
    async fn count(&self) -> Result<usize, NyxError> {
        self.store.count().await
    }
}

async fn failing_parts(folder: &Path) -> (MemoryParts, Arc<Failing>) {
    let embedding = embedding();
    let store = EdgeStore::open(&folder.join("memory"), embedding.dimension()).unwrap();
    let failing = Arc::new(Failing { store, fails: AtomicBool::new(true) });
    let store: Arc<dyn MemoryStore> = Arc::<Failing>::clone(&failing);
    (MemoryParts::new(embedding, store, phoebe(folder).await, true, None), failing)
}

#[actix::test]
async fn a_memory_that_could_not_be_indexed_is_kept_and_indexed_later() {
    let folder = tempfile::tempdir().unwrap();
    let (parts, failing) = failing_parts(folder.path()).await;
    let memory = parts.keep(tell(TOLD[0], None)).await.unwrap();
    assert_eq!(parts.recall(ask("my sister", 1)).await.unwrap(), []);
    assert!(parts.heal().await.unwrap_err().to_string().contains("the disk is full"));
    failing.fails.store(false, Ordering::SeqCst);
    assert_eq!(parts.heal().await.unwrap(), 1);
    assert_eq!(parts.recall(ask("my sister", 1)).await.unwrap()[0].memory, memory);
}

#[actix::test]
async fn memories_are_there_when_the_store_is_opened_again_and_not_twice_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let embedding = embedding();
    let path = folder.path().join("memory");
    let vector = embedding.embed(vec![TOLD[0].into()]).await.unwrap().vectors.remove(0);
    let memory = Memory { when: Some(phoebe::now()), caption: Some("a photo of a tram".into()), ..plain(TOLD[0]) };
    let store = EdgeStore::open(&path, 384).unwrap();
    store.upsert(vec![IndexedMemory { memory: memory.clone(), vector: vector.clone() }]).await.unwrap();
    drop(store);
    let store = EdgeStore::open(&path, 384).unwrap();
    assert_eq!(store.dense(vector, 5, &MemoryFilter::default()).await.unwrap()[0].memory, memory);
    drop(store);
    let store = EdgeStore::open(&path, 384).unwrap();
    let busy = EdgeStore::open(&path, 384).map(drop).expect_err("it is open");
    assert!(matches!(&busy, NyxError::VectorStoreBusy { folder } if *folder == path), "{busy}");
    drop(store);
    // made for another embedder: an empty one in its place, for phoebe to fill
    let other = EdgeStore::open(&path, 128).unwrap();
    assert_eq!(other.count().await.unwrap(), 0);
}

#[actix::test]
async fn a_large_job_holds_no_other_up() {
    let embedding = embedding();
    let large = || vec!["The boiler was serviced on Tuesday, and again on Wednesday.".repeat(4); 128];
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
        assert!(error.status() == 400 && error.to_string().contains(says), "{error}");
    }
    for (query, k, says) in [("", 1, "q is empty"), ("a", 0, "k is 0"), ("a", 101, "k is 101")] {
        let error = parts.recall(ask(query, k)).await.unwrap_err();
        assert!(error.status() == 400 && error.to_string().contains(says), "{error}");
    }
    let long = tell("a", Some(&"c".repeat(257)));
    assert!(parts.keep(long).await.unwrap_err().to_string().contains("conversation has 257 bytes"));
    let late = Recall { context: RequestContext::new(Duration::ZERO), ..ask("a", 1) };
    assert_eq!(parts.recall(late).await.unwrap_err().status(), 504);
}
