//! Hybrid search: vector and full-text results combined by reciprocal rank fusion, with recency
//! weighting and maximal marginal relevance.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use nyx_domain::{Memory, MemoryFilter};
use nyx_specialists::recall::{cosine, diverse, reciprocal_ranks};
use nyx_specialists::tokens::tokens;
use uuid::Uuid;

use super::messages::{MemoryHit, Recall, Surroundings};
use super::options::RecallOptions;
use super::qdrant::QdrantIndex;
use super::service::MemoryService;
use super::text::{check_text, composed};
use crate::NyxError;
use crate::phoebe::messages::Neighbours;
use crate::phoebe::search::{LOCAL_TENANT, MemoryIndex, Scored, StoredMemory, WordMatches};

/// Maximum number of memories returned by a search.
const MAX_K: usize = 100;
/// Candidates per requested memory, and their minimum number.
const CANDIDATES_A_HIT: usize = 4;
const LEAST_CANDIDATES: usize = 40;
/// The share of a query's information that a memory's words must carry to be included regardless of
/// its vector.
const WORDS_ENOUGH: f64 = 0.5;

/// A candidate with its scores.
struct Found {
    stored: StoredMemory,
    cosine: f64,
    lexical: Option<f64>,
    fused: f64,
}

/// Vector and full-text search over the memories of the local tenant.
#[derive(Clone, Copy)]
pub struct HybridSearch<'a> {
    pub index: &'a MemoryIndex,
    /// If set, replaces phoebe's index for vector search.
    pub server: Option<&'a QdrantIndex>,
    pub options: &'a RecallOptions,
}

impl MemoryService {
    pub(super) fn search(&self) -> HybridSearch<'_> {
        HybridSearch { index: &self.index, server: self.server.as_deref(), options: &self.recall }
    }

    pub(super) async fn recall(&self, request: Recall) -> Result<Vec<MemoryHit>, NyxError> {
        check_text("q", &request.query)?;
        if !(1..=MAX_K).contains(&request.k) {
            return Err(NyxError::invalid(
                "k",
                format!("k is {}, expected 1 to {MAX_K}", request.k),
            ));
        }
        let Recall { context, query, k, mut filter, min_score } = request;
        filter.conversation = filter.conversation.map(composed);
        filter.speaker = filter.speaker.map(composed);
        let search = Box::pin(async {
            let vector =
                self.embedding.embed(vec![query.clone()]).await?.vectors.pop().unwrap_or_default();
            self.search().search(&query, &vector, k, &filter, min_score).await
        });
        context.bound("memories were searched", search).await
    }
}

impl HybridSearch<'_> {
    /// The `k` best memories for a query and its vector (of length 1), best first; see [`Recall`]
    /// for `min_score`.
    ///
    /// # Errors
    /// The database query fails.
    pub async fn search(
        &self,
        query: &str,
        vector: &[f32],
        k: usize,
        filter: &MemoryFilter,
        min_score: f32,
    ) -> Result<Vec<MemoryHit>, NyxError> {
        let options = self.options;
        let dense = Box::pin(self.dense(vector, options.dense, filter));
        let words = Box::pin(self.index.lexical(LOCAL_TENANT, query, options.lexical, filter));
        let (dense, words) = tokio::try_join!(dense, words)?;
        let found = self.candidates(vector, &dense, &words, k).await?;
        let chosen = ranked(found, &words.weights, k, f64::from(min_score), options, Utc::now());
        self.with_neighbours(chosen).await
    }

    /// The nearest vectors: from the server, or from phoebe's index if the server does not respond.
    pub(super) async fn dense(
        &self,
        vector: &[f32],
        k: usize,
        filter: &MemoryFilter,
    ) -> Result<Vec<Scored>, NyxError> {
        let Some(server) = self.server else {
            return self.index.dense(LOCAL_TENANT, vector, k, filter).await;
        };
        let found = match server.dense(LOCAL_TENANT, vector, k, filter).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the Qdrant search failed: using the search index of the database");
                return self.index.dense(LOCAL_TENANT, vector, k, filter).await;
            }
        };
        let ids: Vec<Uuid> = found.iter().map(|(id, _)| *id).collect();
        // deleted memories have no row any more
        let numbers = self.index.numbers_of(LOCAL_TENANT, &ids).await?;
        Ok(found
            .into_iter()
            .filter_map(|(id, score)| Some(Scored { number: *numbers.get(&id)?, score }))
            .collect())
    }

    /// The best candidates of both lists by fused score, with their rows.
    async fn candidates(
        &self,
        vector: &[f32],
        dense: &[Scored],
        words: &WordMatches,
        k: usize,
    ) -> Result<Vec<Found>, NyxError> {
        let mut numbers: Vec<i64> = Vec::new();
        let mut places = HashMap::new();
        let mut place = |scored: &Scored| {
            *places.entry(scored.number).or_insert_with(|| {
                numbers.push(scored.number);
                numbers.len() - 1
            })
        };
        let by_meaning: Vec<usize> = dense.iter().map(&mut place).collect();
        let by_words: Vec<usize> = words.hits.iter().map(&mut place).collect();
        let options = self.options;
        let lists = [
            (options.dense_weight, by_meaning.as_slice()),
            (options.lexical_weight, by_words.as_slice()),
        ];
        let fused = reciprocal_ranks(numbers.len(), &lists, options.rrf_offset);
        let mut order: Vec<usize> = (0..numbers.len()).collect();
        order.sort_by(|a, b| fused[*b].total_cmp(&fused[*a]).then(a.cmp(b)));
        order.truncate((k * CANDIDATES_A_HIT).max(LEAST_CANDIDATES));
        let wanted: Vec<i64> = order.iter().map(|at| numbers[*at]).collect();
        let mut stored: HashMap<i64, StoredMemory> = self
            .index
            .load(&wanted)
            .await?
            .into_iter()
            .map(|stored| (stored.number, stored))
            .collect();
        let lexical: HashMap<i64, f64> =
            words.hits.iter().map(|hit| (hit.number, hit.score)).collect();
        let found = order.into_iter().filter_map(|at| {
            // deleted meanwhile
            let stored = stored.remove(&numbers[at])?;
            let cosine = cosine(vector, &stored.vector);
            Some(Found {
                lexical: lexical.get(&stored.number).copied(),
                fused: fused[at],
                cosine,
                stored,
            })
        });
        Ok(found.collect())
    }

    /// Adds the turns around each result.
    async fn with_neighbours(&self, mut hits: Vec<MemoryHit>) -> Result<Vec<MemoryHit>, NyxError> {
        let beside = self.options.neighbours;
        let ids: Vec<Uuid> = hits
            .iter()
            .filter(|hit| hit.memory.conversation.is_some())
            .map(|hit| hit.memory.id)
            .collect();
        if beside == 0 || ids.is_empty() {
            return Ok(hits);
        }
        let request =
            Neighbours { tenant: LOCAL_TENANT.to_owned(), ids, before: beside, after: beside };
        let mut around: HashMap<Uuid, Surroundings> = HashMap::new();
        for near in self.index.phoebe().neighbours(request).await? {
            let surroundings = around.entry(near.of).or_default();
            // neighbours arrive in conversation order
            if near.distance < 0 {
                surroundings.before.push(near.memory)
            } else {
                surroundings.after.push(near.memory)
            }
        }
        for hit in &mut hits {
            hit.beside = around.remove(&hit.memory.id).unwrap_or_default();
        }
        Ok(hits)
    }
}

/// The `k` best of the admitted candidates: those whose cosine reaches `min_score`, or whose words
/// carry enough of the query's information.
fn ranked(
    mut found: Vec<Found>,
    weights: &BTreeMap<String, f64>,
    k: usize,
    min_score: f64,
    options: &RecallOptions,
    now: DateTime<Utc>,
) -> Vec<MemoryHit> {
    found.retain(|found| {
        found.cosine >= min_score
            || (found.lexical.is_some() && share(&found.stored.memory, weights) >= WORDS_ENOUGH)
    });
    let best = found.iter().map(|found| found.fused).fold(f64::MIN_POSITIVE, f64::max);
    let worth = |found: &Found| {
        let days = (now - found.stored.memory.at()).as_seconds_f64().max(0.0) / 86_400.0;
        found.fused / best
            + options.recency_weight * 0.5_f64.powf(days / options.recency_half_life_days)
    };
    let worths: Vec<f64> = found.iter().map(worth).collect();
    // scaled to at most 1, because maximal marginal relevance compares them with cosines
    let most = worths.iter().copied().fold(1.0, f64::max);
    let worths: Vec<f64> = worths.into_iter().map(|worth| worth / most).collect();
    let vectors: Vec<Option<&[f32]>> =
        found.iter().map(|found| Some(found.stored.vector.as_slice())).collect();
    let chosen = diverse(&worths, &vectors, k, options.mmr_lambda);
    let hit = |at: usize| {
        let Found { stored, cosine, lexical, fused } = &found[at];
        MemoryHit {
            memory: stored.memory.clone(),
            score: *cosine as f32,
            cosine: *cosine as f32,
            lexical: lexical.map(|lexical| lexical as f32),
            fused: *fused,
            beside: Surroundings::default(),
        }
    };
    chosen.into_iter().map(hit).collect()
}

/// The share of the query's token weights that a memory's tokens cover, in [0, 1].
fn share(memory: &Memory, weights: &BTreeMap<String, f64>) -> f64 {
    let held: BTreeSet<String> = tokens(&memory.passage()).into_iter().collect();
    let all: f64 = weights.values().sum();
    let found: f64 =
        weights.iter().filter(|(token, _)| held.contains(*token)).map(|(_, weight)| weight).sum();
    if all > 0.0 { found / all } else { 0.0 }
}

impl MemoryHit {
    /// The adjacent turns that form an exchange with this one: a question before it, and the answer
    /// after it if it is a question.
    pub fn exchange(&self) -> Vec<String> {
        let asks = |memory: &Memory| {
            memory.text.trim_end().ends_with(['?', '\u{ff1f}', '\u{61f}', '\u{37e}'])
        };
        let question = self.beside.before.last().filter(|before| asks(before));
        let answer = self.beside.after.first().filter(|_| asks(&self.memory));
        question.into_iter().chain(answer).map(Memory::passage).collect()
    }
}
