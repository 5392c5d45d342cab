//! Finding memories: lists by meaning and by words, their neighbouring turns, fused, re-ranked by what was learned, without doubles.

use std::collections::HashMap;
use std::sync::Arc;

use nyx_specialists::recall::{RecallRanker, Turn, cosine, diverse, reciprocal_ranks};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::messages::{Candidate, MemoryHit, Recall, Surroundings};
use super::store::{Hit, MemoryFilter};
use super::{MAX_K, MemoryParts, check_text};
use crate::NyxError;
use crate::learned::Learned;
use crate::phoebe::messages::{Memory, Neighbours};

/// Turns asked of phoebe before and after each memory of a list: what the re-ranking looks at.
const BESIDE: u32 = 2;
/// Ids in one question to phoebe.
const IDS: usize = 1000;

/// `[memory.recall]`: how lists are made and brought together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecallOptions {
    /// Memories in the list by meaning.
    pub dense: usize,
    /// Memories in the list by words.
    pub lexical: usize,
    /// Offset of reciprocal rank fusion, and the lists' weights.
    pub rrf_offset: f64,
    pub dense_weight: f64,
    pub lexical_weight: f64,
    /// Order what was found, and the turns beside it, by the probability that was learned; else by the fused ranks.
    pub rerank: bool,
    /// Of maximal marginal relevance: 1 looks at the score alone, less at how much new a memory says.
    pub mmr_lambda: f64,
    /// Turns before and after a memory that are shown with it, 0 to 2.
    pub neighbours: u32,
}

impl Default for RecallOptions {
    fn default() -> Self {
        Self {
            dense: 200,
            lexical: 200,
            rrf_offset: 60.0,
            dense_weight: 0.2,
            lexical_weight: 1.0,
            rerank: true,
            mmr_lambda: 1.0,
            neighbours: 1,
        }
    }
}

/// How the keeper ranks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ranking {
    pub options: RecallOptions,
    /// `None` where nothing was learned: then the fused ranks decide.
    pub ranker: Option<Arc<Learned<RecallRanker>>>,
}

/// Everything that a search brought together.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) memories: Vec<Memory>,
    pub(super) turns: Vec<Turn>,
    /// Of what stands in a list.
    vectors: Vec<Option<Vec<f32>>>,
    /// Of what stands in the list by words.
    lexical: Vec<Option<f32>>,
    /// By reciprocal rank; 0 of a neighbour that is in no list.
    fused: Vec<f64>,
    /// Places of what the filter lets through; the rest is only beside it.
    eligible: Vec<usize>,
}

impl MemoryParts {
    pub(super) async fn recall(&self, request: Recall) -> Result<Vec<MemoryHit>, NyxError> {
        check_text("q", &request.query)?;
        if !(1..=MAX_K).contains(&request.k) {
            return Err(NyxError::invalid("k", format!("k is {}, expected 1 to {MAX_K}", request.k)));
        }
        let Recall { context, query, k, filter, min_score } = request;
        let ranking = self.ranking.clone();
        let search = async {
            let found = self.found(&query, self.vector(&query).await?, &filter).await?;
            // reading hundreds of turns takes milliseconds, and the actors share a thread
            let ranked = tokio::task::spawn_blocking(move || found.rank(&query, k, min_score, &ranking));
            ranked.await.map_err(|error| NyxError::Internal(error.to_string()))
        };
        context.bound("memories were searched", search).await
    }

    /// What [`recall`](Self::recall) chooses from.
    pub(super) async fn candidates(&self, query: &str, filter: &MemoryFilter) -> Result<Vec<Candidate>, NyxError> {
        check_text("q", query)?;
        let found = self.found(query, self.vector(query).await?, filter).await?;
        Ok(found.memories.into_iter().zip(found.turns).map(|(memory, turn)| Candidate { memory, turn }).collect())
    }

    async fn vector(&self, query: &str) -> Result<Vec<f32>, NyxError> {
        Ok(self.embedding.embed(vec![query.to_owned()]).await?.vectors.pop().unwrap_or_default())
    }

    pub(super) async fn found(&self, query: &str, vector: Vec<f32>, filter: &MemoryFilter) -> Result<Found, NyxError> {
        let options = &self.ranking.options;
        let (dense, lexical) =
            tokio::try_join!(self.store.dense(vector.clone(), options.dense, filter), self.store.lexical(query, options.lexical, filter))?;
        // a memory that is not among the nearest is no nearer than the last of them
        let floor = dense.last().map_or(0.0, |hit| cosine(&vector, &hit.vector));
        let mut found = Gathering { floor, ..Gathering::default() };
        let dense: Vec<usize> = dense.into_iter().map(|hit| found.add(hit, &vector)).collect();
        let words = lexical.iter().map(|hit| hit.score).collect::<Vec<f32>>();
        let lexical: Vec<usize> = lexical.into_iter().map(|hit| found.add(hit, &vector)).collect();
        let ids: Vec<Uuid> = found.memories.iter().map(|memory| memory.id).collect();
        for ids in ids.chunks(IDS) {
            let request = Neighbours { ids: ids.to_vec(), before: BESIDE, after: BESIDE };
            for near in self.phoebe.send(request).await? {
                found.link(near.of, near.distance, near.memory);
            }
        }
        let count = found.memories.len();
        let mut scores = vec![None; count];
        lexical.iter().zip(words).for_each(|(at, score)| scores[*at] = Some(score));
        let fused = reciprocal_ranks(count, &[(options.dense_weight, &dense), (options.lexical_weight, &lexical)], options.rrf_offset);
        let eligible = (0..count).filter(|at| found.vectors[*at].is_some() || filter.lets_through(&found.memories[*at])).collect();
        let turns = found.turns();
        Ok(Found { turns, memories: found.memories, vectors: found.vectors, lexical: scores, fused, eligible })
    }
}

/// Memories by their places, while they come in.
#[derive(Default)]
struct Gathering {
    memories: Vec<Memory>,
    vectors: Vec<Option<Vec<f32>>>,
    cosines: Vec<Option<f64>>,
    previous: Vec<Option<usize>>,
    next: Vec<Option<usize>>,
    places: HashMap<Uuid, usize>,
    /// Cosine of what has no vector here.
    floor: f64,
}

impl Gathering {
    fn add(&mut self, hit: Hit, query: &[f32]) -> usize {
        let place = self.place(hit.memory);
        self.cosines[place] = Some(cosine(query, &hit.vector));
        self.vectors[place] = Some(hit.vector);
        place
    }

    fn place(&mut self, memory: Memory) -> usize {
        if let Some(place) = self.places.get(&memory.id) {
            return *place;
        }
        let place = self.memories.len();
        self.places.insert(memory.id, place);
        self.memories.push(memory);
        self.vectors.push(None);
        self.cosines.push(None);
        self.previous.push(None);
        self.next.push(None);
        place
    }

    /// Notes who stands beside whom. Distances come in order (-2, -1, 1, 2): one further away stands beside the nearer one.
    fn link(&mut self, of: Uuid, distance: i64, memory: Memory) {
        let Some(&anchor) = self.places.get(&of) else { return };
        let place = self.place(memory);
        match distance {
            -1 => self.join(place, anchor),
            1 => self.join(anchor, place),
            _ => {}
        }
    }

    fn join(&mut self, first: usize, second: usize) {
        self.next[first] = Some(second);
        self.previous[second] = Some(first);
    }

    fn turns(&self) -> Vec<Turn> {
        let turn = |(at, memory): (usize, &Memory)| Turn {
            text: memory.text.clone(),
            speaker: memory.speaker.clone(),
            caption: memory.caption.clone(),
            when: memory.when,
            conversation: memory.conversation.clone(),
            cosine: self.cosines[at].unwrap_or(self.floor),
            previous: self.previous[at],
            next: self.next[at],
        };
        self.memories.iter().enumerate().map(turn).collect()
    }
}

impl Found {
    pub(super) fn rank(&self, query: &str, k: usize, min_score: f32, ranking: &Ranking) -> Vec<MemoryHit> {
        let options = &ranking.options;
        let ranker = ranking.ranker.as_ref().filter(|_| options.rerank);
        let probabilities = ranker.map(|ranker| ranker.value.probabilities(query, &self.turns));
        let score = |at: usize| probabilities.as_ref().map_or(self.turns[at].cosine, |probabilities| probabilities[at]);
        let mut eligible = self.eligible.clone();
        // without a re-ranking a turn is not found because it stands beside another
        eligible.retain(|at| score(*at) >= f64::from(min_score) && (probabilities.is_some() || self.vectors[*at].is_some()));
        let best = self.fused.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let worth = |at: usize| probabilities.as_ref().map_or(self.fused[at] / best, |probabilities| probabilities[at]);
        let worths: Vec<f64> = eligible.iter().map(|at| worth(*at)).collect();
        let vectors: Vec<Option<&[f32]>> = eligible.iter().map(|at| self.vectors[*at].as_deref()).collect();
        let chosen = diverse(&worths, &vectors, k, options.mmr_lambda);
        let hit = |at: usize| MemoryHit {
            memory: self.memories[at].clone(),
            score: score(at) as f32,
            cosine: self.turns[at].cosine as f32,
            lexical: self.lexical[at],
            fused: self.fused[at],
            probability: probabilities.as_ref().map(|probabilities| probabilities[at]),
            beside: self.beside(at, options.neighbours),
        };
        chosen.into_iter().map(|at| hit(eligible[at])).collect()
    }

    /// The turns around one, as far as they are known.
    fn beside(&self, at: usize, count: u32) -> Surroundings {
        let walk = |step: &dyn Fn(usize) -> Option<usize>| -> Vec<Memory> {
            std::iter::successors(step(at), |at| step(*at)).take(count as usize).map(|at| self.memories[at].clone()).collect()
        };
        let mut before = walk(&|at| self.turns[at].previous);
        before.reverse();
        Surroundings { before, after: walk(&|at| self.turns[at].next) }
    }
}

impl MemoryHit {
    /// The turns around it that belong to one exchange with it: the question before what answers it, the answer after a question.
    pub fn exchange(&self) -> Vec<String> {
        let asks = |memory: &Memory| memory.text.trim_end().ends_with('?');
        let question = self.beside.before.last().filter(|before| asks(before));
        let answer = self.beside.after.first().filter(|_| asks(&self.memory));
        question.into_iter().chain(answer).map(Memory::passage).collect()
    }
}
