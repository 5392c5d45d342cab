//! Words for the lexical search: BM25 weights over stemmed words, computed here for either store, which adds the inverse document frequency.
//!
//! Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.

use qdrant_edge::SparseVector;
use qdrant_edge::bm25_embed::{EdgeBm25, EdgeBm25Config};
use qdrant_edge::external::ordered_float::NotNan;

use crate::NyxError;
use crate::phoebe::messages::Memory;

/// Saturation of a word's count in a memory.
const K1: f64 = 0.9;
/// How much a memory's length counts against it.
const B: f64 = 0.4;
/// Words of a typical memory, without stop words: a turn of a conversation, not a document.
const TYPICAL_WORDS: f64 = 12.0;
/// Of the stop words and of the Snowball stemmer.
const LANGUAGE: &str = "english";

/// Turns texts into sparse vectors of word weights.
pub(super) struct Lexicon {
    bm25: EdgeBm25,
}

impl Lexicon {
    pub(super) fn new() -> Result<Self, NyxError> {
        let number = |value: f64| NotNan::new(value).map_err(|error| NyxError::Internal(error.to_string()));
        let config = EdgeBm25Config {
            k: number(K1)?,
            b: number(B)?,
            avg_len: number(TYPICAL_WORDS)?,
            language: Some(LANGUAGE.into()),
            ascii_folding: Some(true),
            ..EdgeBm25Config::default()
        };
        let bm25 = EdgeBm25::new(config).map_err(|error| NyxError::Internal(error.to_string()))?;
        Ok(Self { bm25 })
    }

    pub(super) fn memory(&self, memory: &Memory) -> SparseVector {
        self.bm25.embed_document(&memory.passage())
    }

    /// Empty when the text holds stop words alone.
    pub(super) fn query(&self, text: &str) -> SparseVector {
        self.bm25.embed_query(text)
    }

    /// What an index's sparse vectors were made with; another text means that they have to be made again.
    pub(super) fn recipe() -> String {
        format!("bm25 {LANGUAGE} folded k1 {K1} b {B} words {TYPICAL_WORDS}")
    }
}
