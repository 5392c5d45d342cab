//! What every vector store does, on the embedded one and on a server where there is one.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use chrono::TimeDelta;
use qdrant_edge::{
    DEFAULT_VECTOR_NAME, Distance, EdgeConfig, EdgeShard, EdgeVectorParams, PointId, PointInsertOperations, PointOperations, PointStruct,
    UpdateOperation,
};

use super::*;

const DIMENSION: usize = 4;
/// Says to the child of a test where to write until it is killed.
const FOLDER: &str = "NYX_TEST_WRITES_UNTIL_KILLED_IN";

fn at(day: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(day)
}

fn told(text: &str, speaker: &str, conversation: &str, day: Option<i64>) -> Memory {
    let (speaker, conversation) = (Some(speaker.to_owned()), Some(conversation.to_owned()));
    // stored on the 20th day, whenever it happened
    Memory { speaker, conversation, when: day.map(at), stored_at: at(20), ..plain(text) }
}

/// A unit vector that leans towards the first axis by `cosine`.
fn leaning(cosine: f32) -> Vec<f32> {
    vec![cosine, (1.0 - cosine * cosine).sqrt(), 0.0, 0.0]
}

fn indexed(memory: &Memory, cosine: f32) -> IndexedMemory {
    IndexedMemory { memory: memory.clone(), vector: leaning(cosine) }
}

fn texts(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.memory.text.as_str()).collect()
}

/// The one behaviour.
async fn behaves(store: &dyn MemoryStore) {
    let all = MemoryFilter::default();
    assert_eq!(store.count().await.unwrap(), 0);
    assert_eq!(store.dense(leaning(1.0), 5, &all).await.unwrap(), []);
    assert_eq!(store.lexical("anything", 5, &all).await.unwrap(), []);

    let adopted = Memory {
        caption: Some("a photo of a greyhound on a sofa".into()),
        ..told("We finally adopted one, she is the sweetest dog!", "Ana", "home", Some(3))
    };
    let walk = told("The dog and I walked to the river.", "Ben", "home", Some(5));
    let rain = told("The dog hates rain.", "Ana", "work", Some(7));
    let boiler = told("The boiler was serviced.", "Ben", "work", None);
    let memories = [indexed(&adopted, 0.9), indexed(&walk, 0.7), indexed(&rain, 0.5), indexed(&boiler, 0.1)];
    store.upsert(memories.to_vec()).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 4);

    // by nearness, with the score and the vector, whole memories and no more than there are
    let found = store.dense(leaning(1.0), 10, &all).await.unwrap();
    assert_eq!(found.iter().map(|hit| hit.memory.clone()).collect::<Vec<_>>(), [&adopted, &walk, &rain, &boiler].map(Clone::clone));
    for (hit, cosine) in found.iter().zip([0.9, 0.7, 0.5, 0.1]) {
        assert!((hit.score - cosine).abs() < 1e-5, "{hit:?}");
        assert!(hit.vector.len() == DIMENSION && hit.vector.iter().zip(leaning(cosine)).all(|(a, b)| (a - b).abs() < 1e-5), "{hit:?}");
    }
    assert_eq!(texts(&store.dense(leaning(1.0), 1, &all).await.unwrap()), [adopted.text.as_str()]);

    // by words: stemmed, rare ones first, what a picture shows and who spoke among them; the vector comes along
    let adopting = store.lexical("Who was adopting a dog?", 5, &all).await.unwrap();
    assert_eq!(adopting[0].memory, adopted);
    assert_eq!((adopting.len(), adopting[0].vector.len()), (3, DIMENSION), "{adopting:?}");
    assert!(adopting.windows(2).all(|pair| pair[0].score >= pair[1].score) && adopting[2].score > 0.0, "{adopting:?}");
    assert_eq!(texts(&store.lexical("greyhounds", 5, &all).await.unwrap()), [adopted.text.as_str()]);
    assert_eq!(store.lexical("ben", 5, &all).await.unwrap().len(), 2);
    assert_eq!(store.lexical("dog", 2, &all).await.unwrap().len(), 2);
    for nothing in ["", "?!", "who was the", "zeppelin"] {
        assert_eq!(store.lexical(nothing, 5, &all).await.unwrap(), [], "{nothing:?}");
    }

    // filters, alone and together; a memory without a moment of its own counts as of when it was stored
    let filter = |conversation: Option<&str>, speaker: Option<&str>, after: Option<i64>, before: Option<i64>| MemoryFilter {
        conversation: conversation.map(str::to_owned),
        speaker: speaker.map(str::to_owned),
        after: after.map(at),
        before: before.map(at),
    };
    let filtered: [(MemoryFilter, &[&Memory]); 9] = [
        (filter(Some("home"), None, None, None), &[&adopted, &walk]),
        (filter(None, Some("Ana"), None, None), &[&adopted, &rain]),
        (filter(None, Some("ana"), None, None), &[]),
        (filter(None, None, Some(5), None), &[&walk, &rain, &boiler]),
        (filter(None, None, None, Some(5)), &[&adopted]),
        (filter(None, None, Some(5), Some(7)), &[&walk]),
        (filter(None, None, Some(20), Some(21)), &[&boiler]),
        (filter(Some("work"), Some("Ana"), Some(1), Some(8)), &[&rain]),
        (filter(Some("elsewhere"), None, None, None), &[]),
    ];
    for (filter, expected) in filtered {
        let expected: Vec<&str> = expected.iter().map(|memory| memory.text.as_str()).collect();
        assert_eq!(texts(&store.dense(leaning(1.0), 10, &filter).await.unwrap()), expected, "{filter:?}");
        let mut dogs = store.lexical("dog", 10, &filter).await.unwrap();
        dogs.sort_by_key(|hit| hit.memory.id);
        let expected: Vec<&str> = expected.into_iter().filter(|text| text.contains("dog")).collect();
        assert_eq!(texts(&dogs), expected, "{filter:?}");
    }

    // told again under its id: the old words and the old vector are gone
    let moved = Memory { text: "The furnace was replaced.".into(), ..boiler.clone() };
    store.upsert(vec![indexed(&moved, 0.95)]).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 4);
    assert_eq!(store.lexical("boiler", 5, &all).await.unwrap(), []);
    assert_eq!(store.dense(leaning(1.0), 1, &all).await.unwrap()[0].memory, moved);
    assert_eq!(texts(&store.lexical("furnaces", 5, &all).await.unwrap()), [moved.text.as_str()]);

    // deleted: found by neither, and unknown ids are passed over
    store.delete(vec![adopted.id, Uuid::now_v7()]).await.unwrap();
    assert_eq!(store.count().await.unwrap(), 3);
    assert!(!texts(&store.dense(leaning(1.0), 10, &all).await.unwrap()).contains(&adopted.text.as_str()));
    assert_eq!(store.lexical("greyhound adopted", 5, &all).await.unwrap(), []);
    assert_eq!(store.lexical("dog", 5, &all).await.unwrap().len(), 2);

    // a vector of another size is refused, and nothing of its batch is kept
    let short = IndexedMemory { memory: plain("short"), vector: vec![1.0; 3] };
    let errors = [
        store.upsert(vec![indexed(&plain("beside it"), 0.2), short]).await.unwrap_err(),
        store.dense(vec![1.0; 5], 5, &all).await.unwrap_err(),
    ];
    for (error, size) in errors.into_iter().zip(["3", "5"]) {
        assert!(error.to_string().contains(&format!("{size} numbers, expected 4")), "{error}");
    }
    assert_eq!(store.count().await.unwrap(), 3);

    store.scrub().await.unwrap();
    assert_eq!(store.lexical("rain", 5, &all).await.unwrap()[0].memory, rain);
    store.clear().await.unwrap();
    assert_eq!(store.count().await.unwrap(), 0);
    store.upsert(vec![indexed(&rain, 0.5)]).await.unwrap();
    assert_eq!(store.lexical("rain", 5, &all).await.unwrap()[0].memory, rain);
}

#[actix::test]
async fn the_embedded_store_behaves() {
    let folder = tempfile::tempdir().unwrap();
    behaves(&EdgeStore::open(&folder.path().join("memory"), DIMENSION).unwrap()).await;
    behaves(&EdgeStore::temporary(DIMENSION).unwrap()).await;
}

#[actix::test]
async fn a_server_behaves_where_there_is_one() {
    let Ok(url) = std::env::var("QDRANT_URL") else {
        return println!("skipped: QDRANT_URL is not set, so there is no Qdrant server to try");
    };
    let collection = format!("nyx_test_{}", Uuid::now_v7().simple());
    let api_key = std::env::var("QDRANT_API_KEY").ok().map(Into::into);
    let options = MemoryOptions { store: StoreKind::Qdrant, url: Some(url), api_key, collection, ..MemoryOptions::default() };
    let store = QdrantStore::open(&options, DIMENSION).await.unwrap();
    behaves(&store).await;
    let error = QdrantStore::open(&options, 5).await.map(drop).expect_err("vectors of another size").to_string();
    assert!(error.contains("one of 4") && error.contains("a vector of 5"), "{error}");
    store.remove().await.unwrap();
}

/// Whether any file under `folder` holds these bytes.
fn holds(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, text);
        }
        std::fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[actix::test]
async fn what_was_deleted_stands_in_no_file_of_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let store = EdgeStore::open(&folder.path().join("memory"), DIMENSION).unwrap();
    let (secret, other) = (plain("The safe opens with xylophone."), plain("The garage opens with marimba."));
    store.upsert(vec![indexed(&secret, 0.9), indexed(&other, 0.5)]).await.unwrap();
    assert!(holds(folder.path(), "xylophone") && holds(folder.path(), "marimba"));
    store.delete(vec![secret.id]).await.unwrap();
    assert!(!holds(folder.path(), "xylophone") && holds(folder.path(), "marimba"));
    drop(store);
    // a scrubbing that was cut short is tidied up, one that is still due is done
    let left = folder.path().join("memory.new");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("part"), "marimba").unwrap();
    let store = EdgeStore::open(&folder.path().join("memory"), DIMENSION).unwrap();
    assert!(!left.exists());
    assert_eq!(store.lexical("marimba", 5, &MemoryFilter::default()).await.unwrap()[0].memory, other);
    std::fs::write(folder.path().join("memory/nyx-deleted"), "").unwrap();
    store.scrub().await.unwrap();
    assert!(!folder.path().join("memory/nyx-deleted").exists());
    assert_eq!(store.count().await.unwrap(), 1);
}

#[actix::test]
async fn an_index_of_an_older_version_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory");
    std::fs::create_dir_all(&path).unwrap();
    {
        // as it was before there were words in it: one vector without a name
        let params = EdgeVectorParams::builder(DIMENSION, Distance::Cosine).build();
        let shard = EdgeShard::new(&path, EdgeConfig::builder().vector(DEFAULT_VECTOR_NAME, params).build()).unwrap();
        let point = PointStruct::new(PointId::Uuid(Uuid::now_v7()), leaning(1.0), serde_json::json!({"text": "old"})).into();
        let upsert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(vec![point]));
        shard.update(UpdateOperation::PointOperation(upsert)).unwrap();
        shard.flush();
    }
    let store = EdgeStore::open(&path, DIMENSION).unwrap();
    assert_eq!(store.count().await.unwrap(), 0);
    store.upsert(vec![indexed(&plain("new words"), 0.9)]).await.unwrap();
    drop(store);
    // the same version opens it as it is
    let store = EdgeStore::open(&path, DIMENSION).unwrap();
    assert_eq!(store.lexical("words", 5, &MemoryFilter::default()).await.unwrap().len(), 1);
    drop(store);
    // another embedder's
    let store = EdgeStore::open(&path, DIMENSION + 1).unwrap();
    assert_eq!(store.count().await.unwrap(), 0);
    drop(store);
    // a making that was cut short, and what is no index of Nyx's at all
    std::fs::remove_file(path.join("nyx-index")).unwrap();
    drop(EdgeStore::open(&path, DIMENSION).unwrap());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = EdgeStore::open(&file, DIMENSION).map(drop).expect_err("a file").to_string();
    assert!(error.contains("file"), "{error}");
}

/// Does nothing but in the child that the next test starts and kills.
#[actix::test]
async fn writes_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = EdgeStore::open(Path::new(&folder), DIMENSION).unwrap();
    for number in 0.. {
        let memory = plain(&format!("memory number {number}"));
        store.upsert(vec![indexed(&memory, 0.5)]).await.unwrap();
        println!("\nkept {}", memory.id);
    }
}

#[actix::test]
async fn what_was_written_outlives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory");
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["memory::tests::stores::writes_until_killed", "--exact", "--nocapture"])
        .env(FOLDER, &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(writer.stdout.take().unwrap()).lines().map(Result::unwrap);
    let kept: Vec<Uuid> = lines.filter_map(|line| line.strip_prefix("kept ")?.parse().ok()).take(25).collect();
    // SIGKILL, in the midst of the next write
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(kept.len(), 25);
    let store = EdgeStore::open(&path, DIMENSION).unwrap();
    let found = store.dense(leaning(1.0), 1000, &MemoryFilter::default()).await.unwrap();
    let found: Vec<Uuid> = found.into_iter().map(|hit| hit.memory.id).collect();
    assert!(kept.iter().all(|id| found.contains(id)), "{kept:?} are not all in {found:?}");
    assert_eq!(store.lexical("memory", 1000, &MemoryFilter::default()).await.unwrap().len(), found.len());
    // and it goes on
    store.upsert(vec![indexed(&plain("after the kill"), 0.9)]).await.unwrap();
    assert_eq!(store.count().await.unwrap(), found.len() + 1);
}
