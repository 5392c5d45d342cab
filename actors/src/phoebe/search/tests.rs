//! Compares random inserts, deletions and searches with brute-force results over an in-memory list.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};

use chrono::{DateTime, TimeDelta, Utc};
use nyx_domain::{Memory, MemoryFilter, MemorySelector};
use nyx_specialists::tokens::tokens;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::index::*;
use super::*;
use crate::phoebe::search::ranking::{best, cosine};
use crate::phoebe::{PhoebeOptions, PhoebeStore};
use crate::testing::postgres::Postgres;

const DIMENSION: usize = 12;
const STEPS: usize = 60;
const WORDS: [&str; 12] = [
    "dog",
    "Hund",
    "犬が好き",
    "boiler",
    "Élan",
    "rain",
    "мир",
    "two",
    "2",
    "garage",
    "don't",
    "sister",
];
const NAMES: [&str; 3] = ["Ana", "Zoë", "李"];

fn vector(random: &mut StdRng) -> Vec<f32> {
    let vector: Vec<f32> = (0..DIMENSION).map(|_| random.random_range(-1.0..1.0)).collect();
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    vector.into_iter().map(|number| number / length).collect()
}

fn name(random: &mut StdRng) -> Option<String> {
    NAMES.get(random.random_range(0..4)).map(|name| (*name).to_owned())
}

fn moment(random: &mut StdRng) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::hours(random.random_range(0..100))
}

fn text(random: &mut StdRng) -> String {
    let count = random.random_range(1..8);
    (0..count).map(|_| WORDS[random.random_range(0..WORDS.len())]).collect::<Vec<_>>().join(" ")
}

fn filter(random: &mut StdRng) -> MemoryFilter {
    let mut some = |likely: f64| random.random_bool(likely);
    let (conversation, speaker, after, before) = (some(0.3), some(0.3), some(0.2), some(0.2));
    MemoryFilter {
        conversation: name(random).filter(|_| conversation),
        speaker: name(random).filter(|_| speaker),
        after: after.then(|| moment(random)),
        before: before.then(|| moment(random)),
    }
}

fn lets_through(filter: &MemoryFilter, memory: &Memory) -> bool {
    filter
        .conversation
        .as_ref()
        .is_none_or(|conversation| memory.conversation.as_ref() == Some(conversation))
        && filter.speaker.as_ref().is_none_or(|speaker| memory.speaker.as_ref() == Some(speaker))
        && filter.after.is_none_or(|after| memory.at() >= after)
        && filter.before.is_none_or(|before| memory.at() < before)
}

type Model = BTreeMap<Uuid, (Memory, Vec<f32>)>;

/// BM25 of every memory that shares a token with the query, computed by the formula.
fn bm25(model: &Model, query: &str, filter: &MemoryFilter) -> BTreeMap<Uuid, f64> {
    let words: HashSet<String> = tokens(query).into_iter().collect();
    let texts: BTreeMap<Uuid, Vec<String>> =
        model.iter().map(|(id, (memory, _))| (*id, tokens(&memory.passage()))).collect();
    let mean = texts.values().map(Vec::len).sum::<usize>() as f64 / texts.len().max(1) as f64;
    let mut scores = BTreeMap::new();
    for (id, text) in &texts {
        let mut score = 0.0;
        for word in &words {
            let holding = texts.values().filter(|text| text.contains(word)).count() as f64;
            let count = text.iter().filter(|other| *other == word).count() as f64;
            let idf = (1.0 + (texts.len() as f64 - holding + 0.5) / (holding + 0.5)).ln();
            score += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * text.len() as f64 / mean));
        }
        if score > 0.0 && lets_through(filter, &model[id].0) {
            scores.insert(*id, score);
        }
    }
    scores
}

async fn agrees(options: PhoebeOptions, backend: &str) {
    let folder = tempfile::tempdir().unwrap();
    let store = PhoebeStore::connect(&options, folder.path()).await.unwrap();
    let index = MemoryIndex::open(
        store.clone(),
        &EmbedderId { sha256: "tiny".into(), dimension: DIMENSION },
        false,
    )
    .await
    .unwrap();
    assert_eq!(index.backend(), backend);
    // another tenant's memories are never found and affect scores only through the frequencies
    let stranger = Memory {
        id: Uuid::now_v7(),
        text: "a stranger".into(),
        speaker: None,
        when: None,
        conversation: None,
        stored_at: DateTime::UNIX_EPOCH,
        caption: None,
    };
    let mut first = vec![0.0; DIMENSION];
    first[0] = 1.0;
    index.insert("stranger", vec![(stranger, first)]).await.unwrap();
    let seed = std::env::var("NYX_TEST_SEED")
        .ok()
        .map(|seed| seed.parse().expect("NYX_TEST_SEED is a whole number"));
    let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("NYX_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = Model::new();
    for step in 0..STEPS {
        let some = model.keys().nth(random.random_range(0..model.len().max(1))).copied();
        match (random.random_range(0..10), some) {
            (0, Some(id)) => {
                assert_eq!(
                    index.delete(LOCAL_TENANT, &MemorySelector::Id(id)).await.unwrap(),
                    1,
                    "{seed} {step}"
                );
                model.remove(&id);
            }
            (1, _) => {
                let (conversation, before) = (name(&mut random), Some(moment(&mut random)));
                let gone = |memory: &Memory| {
                    conversation
                        .as_ref()
                        .is_none_or(|name| memory.conversation.as_ref() == Some(name))
                        && before.is_some_and(|before| memory.at() < before)
                };
                let expected = model.values().filter(|(memory, _)| gone(memory)).count() as u64;
                let selector =
                    MemorySelector::Matching { conversation: conversation.clone(), before };
                assert_eq!(
                    index.delete(LOCAL_TENANT, &selector).await.unwrap(),
                    expected,
                    "{seed} {step}"
                );
                model.retain(|_, (memory, _)| !gone(memory));
            }
            _ => {
                let batch: Vec<(Memory, Vec<f32>)> = (0..random.random_range(1..6))
                    .map(|_| {
                        let when = random.random_bool(0.7).then(|| moment(&mut random));
                        let memory = Memory {
                            id: Uuid::now_v7(),
                            text: text(&mut random),
                            speaker: name(&mut random),
                            conversation: name(&mut random),
                            when,
                            stored_at: moment(&mut random),
                            caption: None,
                        };
                        (memory, vector(&mut random))
                    })
                    .collect();
                index.insert(LOCAL_TENANT, batch.clone()).await.unwrap();
                model.extend(batch.into_iter().map(|new| (new.0.id, new)));
            }
        }
        let (query, asked, filter, k) = (
            vector(&mut random),
            text(&mut random),
            filter(&mut random),
            random.random_range(1..30),
        );
        assert_eq!(
            store.memory_count(LOCAL_TENANT).await.unwrap() as usize,
            model.len(),
            "{seed} {step}"
        );

        let cosine = |vector: &[f32]| query.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
        let mut expected: Vec<f32> = model
            .values()
            .filter(|(memory, _)| lets_through(&filter, memory))
            .map(|(_, vector)| cosine(vector))
            .collect();
        expected.sort_by(|a, b| b.total_cmp(a));
        expected.truncate(k);
        let ids: Vec<Uuid> = model.keys().copied().collect();
        let numbers: BTreeMap<i64, Uuid> = index
            .numbers_of(LOCAL_TENANT, &ids)
            .await
            .unwrap()
            .into_iter()
            .map(|(id, number)| (number, id))
            .collect();
        let found = index.dense(LOCAL_TENANT, &query, k, &filter).await.unwrap();
        assert_eq!(found.len(), expected.len(), "{seed} {step} {filter:?}");
        for (near, expected) in found.iter().zip(expected) {
            let (memory, vector) = &model[&numbers[&near.number]];
            assert!(
                (near.score as f32 - expected).abs() < 1e-5
                    && (cosine(vector) - near.score as f32).abs() < 1e-5,
                "{seed} {step}"
            );
            assert!(lets_through(&filter, memory), "{seed} {step}");
        }

        let expected = bm25(&model, &asked, &filter);
        let found = index.lexical(LOCAL_TENANT, &asked, 1000, &filter).await.unwrap().hits;
        assert_eq!(found.len(), expected.len(), "{seed} {step} {asked:?} {filter:?}");
        for worded in &found {
            let expected = expected[&numbers[&worded.number]];
            assert!(
                (worded.score - expected).abs() < 1e-6,
                "{seed} {step} {asked:?}: {worded:?} {expected:?}"
            );
        }
        assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score), "{seed} {step}");
        let some: Vec<i64> = numbers.keys().copied().take(5).collect();
        for stored in index.load(&some).await.unwrap() {
            let (memory, vector) = &model[&numbers[&stored.number]];
            assert!(
                stored.memory == *memory
                    && stored.vector.iter().zip(vector).all(|(a, b)| (a - b).abs() < 1e-6),
                "{seed} {step}"
            );
        }
    }
    let kept: Vec<Memory> = model.values().map(|(memory, _)| memory.clone()).collect();
    let mut listed = Vec::new();
    while let Some(page) =
        Some(store.memories(list(listed.last())).await.unwrap()).filter(|page| !page.is_empty())
    {
        listed.extend(page);
    }
    assert_eq!(listed, kept, "{seed}");
    assert_eq!(store.memory_count("stranger").await.unwrap(), 1);
    store.close().await;
}

fn list(last: Option<&Memory>) -> crate::phoebe::messages::ListMemories {
    crate::phoebe::messages::ListMemories {
        tenant: LOCAL_TENANT.into(),
        after: last.map(|memory| memory.id),
        limit: 50,
    }
}

/// The first pass by sign bits: its results have exact scores and pass the filter, and it keeps
/// most of the true nearest neighbours.
async fn first_pass(options: PhoebeOptions) {
    const WIDE: usize = 64;
    let folder = tempfile::tempdir().unwrap();
    let store = PhoebeStore::connect(&options, folder.path()).await.unwrap();
    let index = MemoryIndex::open(
        store.clone(),
        &EmbedderId { sha256: "wide".into(), dimension: WIDE },
        false,
    )
    .await
    .unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut unit = || {
        let vector: Vec<f32> = (0..WIDE).map(|_| random.random_range(-1.0..1.0)).collect();
        let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
        vector.into_iter().map(|number| number / length).collect::<Vec<f32>>()
    };
    let memory = |at: usize| Memory {
        id: Uuid::now_v7(),
        text: format!("memory {at}"),
        speaker: None,
        when: DateTime::from_timestamp(at as i64 * 60, 0).filter(|_| !at.is_multiple_of(3)),
        conversation: Some(if at.is_multiple_of(2) { "even" } else { "odd" }.to_owned()),
        stored_at: DateTime::UNIX_EPOCH,
        caption: None,
    };
    let all: Vec<(Memory, Vec<f32>)> = (0..600).map(|at| (memory(at), unit())).collect();
    index.insert(LOCAL_TENANT, all.clone()).await.unwrap();
    index.insert("stranger", (0..50).map(|at| (memory(at), unit())).collect()).await.unwrap();
    let ids: Vec<Uuid> = all.iter().map(|(memory, _)| memory.id).collect();
    let numbers = index.numbers_of(LOCAL_TENANT, &ids).await.unwrap();
    let (mut kept, k) = (0, 10);
    let moment = |at: i64| DateTime::from_timestamp(at * 60, 0);
    let filters = [
        MemoryFilter::default(),
        MemoryFilter::of(Some("odd".into())),
        MemoryFilter { after: moment(100), before: moment(500), ..MemoryFilter::default() },
        MemoryFilter { before: moment(300), ..MemoryFilter::of(Some("even".into())) },
    ];
    for (round, filter) in filters.iter().cycle().take(20).enumerate() {
        let query = unit();
        let mut found = match index.kind {
            Kind::Sqlite => {
                sqlite::dense(&store.reader, LOCAL_TENANT, &query, k, filter, true).await.unwrap()
            }
            _ => {
                postgres::dense(&store.reader, LOCAL_TENANT, &query, k, filter, true).await.unwrap()
            }
        };
        best(&mut found, k);
        assert_eq!(found.len(), k);
        let mut exact: Vec<Scored> = all
            .iter()
            .filter(|(memory, _)| lets_through(filter, memory))
            .map(|(memory, vector)| Scored {
                number: numbers[&memory.id],
                score: cosine(&query, vector),
            })
            .collect();
        exact.sort_by(|a, b| b.score.total_cmp(&a.score));
        for near in &found {
            let expected = exact
                .iter()
                .find(|exact| exact.number == near.number)
                .unwrap_or_else(|| panic!("{round}: {near:?} is filtered"));
            assert!((expected.score - near.score).abs() < 1e-5, "{round}: {near:?} {expected:?}");
        }
        kept += exact[..k]
            .iter()
            .filter(|exact| found.iter().any(|near| near.number == exact.number))
            .count();
    }
    assert!(kept >= 180, "{kept} of the 200 nearest were let through");
    // deleted memories are not in the first pass either
    index.delete(LOCAL_TENANT, &MemorySelector::All).await.unwrap();
    let left = match index.kind {
        Kind::Sqlite => {
            sqlite::dense(&store.reader, LOCAL_TENANT, &unit(), k, &MemoryFilter::default(), true)
                .await
                .unwrap()
        }
        _ => {
            postgres::dense(&store.reader, LOCAL_TENANT, &unit(), k, &MemoryFilter::default(), true)
                .await
                .unwrap()
        }
    };
    assert_eq!(left, []);
    store.close().await;
}

#[actix::test]
async fn the_first_pass_lets_the_nearest_through_on_sqlite() {
    first_pass(PhoebeOptions::default()).await;
}

#[actix::test]
async fn the_first_pass_lets_the_nearest_through_with_pgvector() {
    first_pass(on(&Postgres::with_pgvector())).await;
}

fn on(server: &Postgres) -> PhoebeOptions {
    PhoebeOptions { url: Some(server.url().into()), ..PhoebeOptions::default() }
}

#[actix::test]
async fn searches_agree_with_a_model_on_sqlite() {
    agrees(PhoebeOptions::default(), "sqlite-vec").await;
}

#[actix::test]
async fn searches_agree_with_a_model_on_postgresql() {
    agrees(on(&Postgres::start()), "exact scan").await;
}

#[actix::test]
async fn searches_agree_with_a_model_on_postgresql_with_pgvector() {
    agrees(on(&Postgres::with_pgvector()), "pgvector").await;
}
