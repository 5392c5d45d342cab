//! How long the search over many memories takes: `cargo run --release -p nyx-actors --example
//! memories -- sqlite|URL [memories] [dimension]`.
//!
//! Vectors lie around random centres, as those of texts on a few hundred subjects do; texts are
//! drawn from a Zipf vocabulary. A query is another vector of a centre, with three to eight words.
//! Embedding is not measured. The tenant's filter is always on; a third of the searches narrow by
//! time, a third by conversation.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a measurement, run by hand"
)]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nyx_actors::memory::{HybridSearch, RecallOptions};
use nyx_actors::phoebe::search::{EmbedderId, LOCAL_TENANT, MemoryIndex};
use nyx_actors::phoebe::{PhoebeOptions, PhoebeStore};
use nyx_domain::{Memory, MemoryFilter};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sea_orm::{ConnectionTrait, Database};
use uuid::Uuid;

const CENTRES: usize = 400;
const VOCABULARY: usize = 30_000;
const SEARCHES: usize = 300;

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|number| *number /= length);
    vector
}

struct Drawn {
    random: StdRng,
    centres: Vec<Vec<f32>>,
    zipf: Vec<f64>,
}

impl Drawn {
    fn new(dimension: usize) -> Self {
        let mut random = StdRng::seed_from_u64(1);
        let mut centre = || unit((0..dimension).map(|_| random.random_range(-1.0..1.0)).collect());
        let centres = (0..CENTRES).map(|_| centre()).collect();
        let mut total = 0.0;
        let sum = |rank: usize| {
            total += 1.0 / (rank as f64 + 1.0);
            total
        };
        let zipf = (0..VOCABULARY).map(sum).collect();
        Self { random, centres, zipf }
    }

    /// Noise as long as the centre itself: cosines of about 0.5 within a centre.
    fn vector(&mut self) -> Vec<f32> {
        let centre = self.centres[self.random.random_range(0..CENTRES)].clone();
        let spread = (3.0 / centre.len() as f32).sqrt();
        unit(
            centre
                .into_iter()
                .map(|number| number + self.random.random_range(-spread..spread))
                .collect(),
        )
    }

    fn words(&mut self, count: std::ops::Range<usize>) -> String {
        let most = *self.zipf.last().unwrap();
        let count = self.random.random_range(count);
        let word = |drawn: f64| format!("w{}", self.zipf.partition_point(|sum| *sum < drawn));
        let drawn: Vec<f64> = (0..count).map(|_| self.random.random_range(0.0..most)).collect();
        drawn.into_iter().map(word).collect::<Vec<_>>().join(" ")
    }
}

fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}

#[actix::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("sqlite, or a database's URL");
    let count: usize = arguments.next().map_or(100_000, |count| count.parse().unwrap());
    let dimension: usize = arguments.next().map_or(384, |dimension| dimension.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let options = PhoebeOptions {
        url: (url != "sqlite").then(|| url.clone().into()),
        statement_timeout_ms: 600_000,
        ..PhoebeOptions::default()
    };
    let store = PhoebeStore::connect(&options, folder.path()).await.unwrap();
    let index =
        MemoryIndex::open(store.clone(), &EmbedderId { sha256: "random".into(), dimension }, false)
            .await
            .unwrap();
    let mut drawn = Drawn::new(dimension);
    let begun = Instant::now();
    let mut all = Vec::with_capacity(count);
    for first in (0..count).step_by(1000) {
        let batch: Vec<(Memory, Vec<f32>)> = (first..(first + 1000).min(count))
            .map(|number| {
                let memory = Memory {
                    id: Uuid::now_v7(),
                    text: drawn.words(5..40),
                    speaker: Some(format!("speaker {}", number % 7)),
                    when: chrono::DateTime::from_timestamp(1_700_000_000 + number as i64 * 60, 0),
                    conversation: Some(format!("conversation {}", number / 300)),
                    stored_at: chrono::Utc::now(),
                    caption: None,
                };
                (memory, drawn.vector())
            })
            .collect();
        all.extend(batch.iter().map(|(memory, vector)| (memory.id, vector.clone())));
        index.insert(LOCAL_TENANT, batch).await.unwrap();
    }
    println!(
        "{}: {count} memories of {dimension} numbers stored in {:.1} s",
        index.backend(),
        begun.elapsed().as_secs_f64()
    );
    if url != "sqlite" {
        // autovacuum's doing, within a minute
        Database::connect(url.as_str())
            .await
            .unwrap()
            .execute_unprepared("VACUUM ANALYZE")
            .await
            .unwrap();
    }
    let ids: Vec<Uuid> = all.iter().map(|(id, _)| *id).collect();
    let numbers = index.numbers_of(LOCAL_TENANT, &ids).await.unwrap();
    let options = RecallOptions::default();
    let searcher = HybridSearch { index: &index, server: None, options: &options };
    let filters = |number: usize| match number % 3 {
        0 => MemoryFilter::default(),
        1 => MemoryFilter {
            after: chrono::DateTime::from_timestamp(1_700_000_000 + count as i64 * 20, 0),
            ..MemoryFilter::default()
        },
        _ => MemoryFilter::of(Some(format!("conversation {}", number % (count / 300).max(1)))),
    };
    let names = ["no filter", "two thirds by time", "one conversation"];
    let mut times: [[Vec<Duration>; 3]; 3] = Default::default();
    let (mut kept, mut of) = (0, 0);
    for number in 0..SEARCHES + 20 {
        let (vector, words, filter) = (drawn.vector(), drawn.words(3..9), filters(number));
        let timed = async {
            let begun = Instant::now();
            let near = index.dense(LOCAL_TENANT, &vector, 50, &filter).await.unwrap();
            let dense = begun.elapsed();
            let begun = Instant::now();
            index.lexical(LOCAL_TENANT, &words, 50, &filter).await.unwrap();
            let lexical = begun.elapsed();
            let begun = Instant::now();
            searcher.search(&words, &vector, 5, &filter, -1.0).await.unwrap();
            (near, [dense, lexical, begun.elapsed()])
        };
        let (near, took) = timed.await;
        // the first ones warm the caches
        if number < 20 {
            continue;
        }
        for (kind, took) in took.into_iter().enumerate() {
            times[kind][number % 3].push(took);
        }
        if number % 30 == 0 {
            let mut exact: Vec<(f32, Uuid)> = all
                .iter()
                .map(|(id, other)| (vector.iter().zip(other).map(|(a, b)| a * b).sum(), *id))
                .collect();
            exact.sort_by(|a, b| b.0.total_cmp(&a.0));
            let found: HashSet<i64> = near.iter().take(20).map(|near| near.number).collect();
            of += 20;
            kept += exact[..20].iter().filter(|(_, id)| found.contains(&numbers[id])).count();
        }
    }
    println!("of the 20 nearest the first pass kept {:.3}", kept as f64 / f64::from(of));
    for (kind, times) in ["by meaning", "by words", "hybrid"].into_iter().zip(&mut times) {
        for (name, times) in names.iter().zip(times) {
            let [p50, p95] = [0.5, 0.95].map(|share| quantile(times, share));
            println!("{kind:<10} {name:<20} p50 {p50:>6.1} ms  p95 {p95:>6.1} ms");
        }
    }
}
