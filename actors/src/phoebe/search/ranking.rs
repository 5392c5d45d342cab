//! Ranking of full-text results by BM25, and scored rows.

use std::collections::{BTreeMap, HashMap};

use nyx_domain::Memory;

/// Candidates by sign bits that are rescored exactly, per requested result.
pub(super) const OVERSAMPLING: usize = 10;
/// Maximum number of token occurrences ranked per query.
pub(super) const MOST_POSTINGS: u64 = 2_000;
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// A memory's row number with a score; higher is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    pub number: i64,
    /// Cosine similarity, or BM25.
    pub score: f64,
}

/// The result of a full-text search.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WordMatches {
    /// Best first.
    pub hits: Vec<Scored>,
    /// The query's tokens with their inverse document frequencies.
    pub weights: BTreeMap<String, f64>,
}

/// A memory with the data that ranking needs.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredMemory {
    pub number: i64,
    pub memory: Memory,
    /// Normalised to length 1; empty if the memory is not indexed.
    pub vector: Vec<f32>,
}

/// The number of memories of a tenant, and their mean length in tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) count: u64,
    pub(super) length: f64,
}

/// A memory that contains some of the query's tokens.
pub(super) struct Document {
    pub(super) number: i64,
    /// Its length in tokens.
    pub(super) length: f64,
    /// Occurrences of each token, keyed by the token's index among those searched.
    pub(super) counts: Vec<(usize, f64)>,
}

/// The collection statistics of a tenant that BM25 needs.
pub(super) struct Collection {
    pub(super) size: Size,
    /// The number of memories that contain each of the query's tokens, as far as known.
    pub(super) frequencies: HashMap<String, u64>,
}

impl Collection {
    /// Ranks the matching documents; `words` are all tokens of the query, `searched` those that
    /// were looked up.
    pub(super) fn rank(
        &self,
        words: &[String],
        searched: &[&str],
        documents: Vec<Document>,
        k: usize,
    ) -> WordMatches {
        let mut held: HashMap<&str, u64> = HashMap::new();
        documents
            .iter()
            .flat_map(|document| &document.counts)
            .for_each(|(at, _)| *held.entry(searched[*at]).or_default() += 1);
        let weight = |word: &str| {
            // a filter hides some of the memories that contain the token
            let known = self.frequencies.get(word).copied().unwrap_or(0);
            idf(self.size.count, known.max(held.get(word).copied().unwrap_or(0)))
        };
        let score = |document: Document| {
            let length = K1 * (1.0 - B + B * document.length / self.size.length.max(1.0));
            let terms = document
                .counts
                .iter()
                .map(|(at, count)| weight(searched[*at]) * count * (K1 + 1.0) / (count + length));
            Scored { number: document.number, score: terms.sum() }
        };
        let mut hits: Vec<Scored> = documents.into_iter().map(score).collect();
        best(&mut hits, k);
        WordMatches {
            hits,
            weights: words.iter().map(|word| (word.clone(), weight(word))).collect(),
        }
    }
}

/// Keeps the `k` best, best first; the newer one of equal scores first.
pub(super) fn best(found: &mut Vec<Scored>, k: usize) {
    found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(b.number.cmp(&a.number)));
    found.truncate(k);
}

/// Inverse document frequency of a token in `df` of `count` memories; always positive (as in
/// Lucene).
fn idf(count: u64, df: u64) -> f64 {
    let (count, df) = (count as f64, (df as f64).min(count as f64));
    (1.0 + (count - df + 0.5) / (df + 0.5)).ln()
}

/// The rarest tokens whose occurrences fit within [`MOST_POSTINGS`]; at least one if any token
/// occurs.
pub(super) fn rarest(frequencies: &[(String, u64)]) -> Vec<&str> {
    let mut sorted: Vec<&(String, u64)> = frequencies.iter().filter(|(_, df)| *df > 0).collect();
    sorted.sort_by(|a, b| a.1.cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
    let mut postings = 0;
    let affordable = |(at, (_, df)): &(usize, &(String, u64))| {
        postings += df;
        *at == 0 || postings <= MOST_POSTINGS
    };
    sorted
        .into_iter()
        .enumerate()
        .take_while(affordable)
        .map(|(_, (token, _))| token.as_str())
        .collect()
}

/// The cosine similarity of two vectors of length 1.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    nyx_specialists::recall::cosine(a, b)
}
