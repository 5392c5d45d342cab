//! Vector search with pgvector, or by an exact scan without it; full-text search with `tsvector`.
//!
//! PostgreSQL's own ranking does not use document frequencies, so BM25 is computed here from the
//! rows that a GIN index finds. Tokens too common to look up are identified by the statistics of
//! `ANALYZE`; the frequency of a token that is looked up is counted from the matching rows.

use std::collections::{BTreeMap, HashMap};

use nyx_domain::MemoryFilter;
use sea_orm::{ConnectionTrait, DatabaseConnection, Value};

use super::ranking::{
    Collection, Document, MOST_POSTINGS, OVERSAMPLING, Scored, Size, WordMatches, cosine, rarest,
};
use super::sql::{bytes, execute, floats, listed, narrowed, narrowed_codes, number_of, query};
use crate::NyxError;

/// Maximum number of positions of a token in a `tsvector`, and the largest position it can
/// represent.
const MOST_POSITIONS: usize = 255;
const LAST_POSITION: usize = 16_383;
/// Maximum length of a token in a `tsvector`, in bytes.
const LONGEST_TOKEN: usize = 2_046;

/// Whether pgvector is installed; creates the extension if it is available and permitted.
pub(super) async fn has_extension(on: &DatabaseConnection) -> Result<bool, NyxError> {
    let available =
        query(on, "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'", vec![]).await?;
    if available.is_empty() {
        return Ok(false);
    }
    // another process may create it concurrently, or the role may lack the privilege: only the
    // final state counts
    if let Err(error) = on.execute_unprepared("CREATE EXTENSION IF NOT EXISTS vector").await {
        tracing::debug!(%error, "the extension vector was not created");
    }
    Ok(!query(on, "SELECT 1 FROM pg_extension WHERE extname = 'vector'", vec![]).await?.is_empty())
}

/// Sign bits are stored in a separate table, so that a scan over them reads nothing else.
pub(super) fn schema(dimension: usize, pgvector: bool) -> Vec<String> {
    let references =
        "BIGINT PRIMARY KEY REFERENCES nyx_subjective_memory (number) ON DELETE CASCADE";
    let embedding = if pgvector { format!("vector({dimension})") } else { "BYTEA".to_owned() };
    let mut statements = vec![
        "DROP TABLE IF EXISTS nyx_memory_vectors, nyx_memory_codes".to_owned(),
        format!(
            "CREATE TABLE nyx_memory_vectors (number {references}, tenant TEXT NOT NULL, embedding {embedding} NOT NULL)"
        ),
        "CREATE INDEX nyx_memory_vectors_by_tenant ON nyx_memory_vectors (tenant, number)"
            .to_owned(),
        "DELETE FROM nyx_memory_words".to_owned(),
    ];
    if pgvector {
        statements
            .push(format!("CREATE TABLE nyx_memory_codes (number {references}, tenant TEXT NOT NULL, moment TIMESTAMPTZ NOT NULL, code BIT({dimension}) NOT NULL)"));
    }
    statements
}

pub(super) async fn insert(
    on: &impl ConnectionTrait,
    tenant: &str,
    number: i64,
    words: &[String],
    vector: &[f32],
    pgvector: bool,
) -> Result<(), NyxError> {
    let text: Vec<Value> = vec![
        number.into(),
        tenant.into(),
        i32::try_from(words.len()).unwrap_or(i32::MAX).into(),
        positions(words).into(),
    ];
    execute(on, "INSERT INTO nyx_memory_words (number, tenant, length, tokens) VALUES ($1, $2, $3, $4::text::tsvector)", text).await?;
    if pgvector {
        let values = || vec![number.into(), tenant.into(), literal(vector).into()];
        execute(on, "INSERT INTO nyx_memory_vectors (number, tenant, embedding) VALUES ($1, $2, $3::text::vector)", values()).await?;
        let sql = "INSERT INTO nyx_memory_codes (number, tenant, code, moment) VALUES ($1, $2, binary_quantize($3::text::vector), \
                   (SELECT COALESCE(happened_at, stored_at) FROM nyx_subjective_memory WHERE number = $1))";
        execute(on, sql, values()).await?;
    } else {
        let values: Vec<Value> = vec![number.into(), tenant.into(), bytes(vector).into()];
        execute(
            on,
            "INSERT INTO nyx_memory_vectors (number, tenant, embedding) VALUES ($1, $2, $3)",
            values,
        )
        .await?;
    }
    Ok(())
}

/// Deletes memories from the search tables.
pub(super) async fn delete(
    on: &impl ConnectionTrait,
    numbers: &[i64],
    pgvector: bool,
) -> Result<(), NyxError> {
    let codes = if pgvector { &["nyx_memory_codes"][..] } else { &[] };
    for table in ["nyx_memory_words", "nyx_memory_vectors"].iter().chain(codes) {
        execute(on, &format!("DELETE FROM {table} WHERE number IN ({})", listed(numbers)), vec![])
            .await?;
    }
    Ok(())
}

pub(super) async fn dense(
    on: &DatabaseConnection,
    tenant: &str,
    vector: &[f32],
    k: usize,
    filter: &MemoryFilter,
    coarse: bool,
) -> Result<Vec<Scored>, NyxError> {
    let mut values: Vec<Value> = vec![literal(vector).into(), tenant.into()];
    let narrow = if coarse {
        narrowed_codes(tenant, filter, &mut values)
    } else {
        narrowed("number", tenant, filter, &mut values)
    };
    // as a subquery, the text is parsed once; a generic plan would parse it for every row
    let exactly = |from: &str| {
        format!(
            "SELECT number, 1 - (embedding <=> (SELECT $1::text::vector)) AS score FROM nyx_memory_vectors WHERE {from} ORDER BY 2 DESC LIMIT {k}"
        )
    };
    let sql = if coarse {
        let nearest = k.saturating_mul(OVERSAMPLING);
        exactly(&format!(
            "number = ANY (ARRAY(SELECT number FROM nyx_memory_codes WHERE tenant = $2{narrow} \
             ORDER BY code <~> (SELECT binary_quantize($1::text::vector)) LIMIT {nearest}))"
        ))
    } else {
        exactly(&format!("tenant = $2{narrow}"))
    };
    let rows = query(on, &sql, values).await?;
    rows.iter()
        .map(|row| Ok(Scored { number: number_of(row)?, score: row.try_get("", "score")? }))
        .collect()
}

/// Computes the similarity to every vector of a tenant in this process.
pub(super) async fn scan(
    on: &DatabaseConnection,
    tenant: &str,
    vector: &[f32],
    filter: &MemoryFilter,
) -> Result<Vec<Scored>, NyxError> {
    let mut values: Vec<Value> = vec![tenant.into()];
    let narrow = narrowed("number", tenant, filter, &mut values);
    let rows = query(
        on,
        &format!("SELECT number, embedding FROM nyx_memory_vectors WHERE tenant = $1{narrow}"),
        values,
    )
    .await?;
    let scored = rows.iter().map(|row| {
        let score = cosine(vector, &floats(&row.try_get::<Vec<u8>>("", "embedding")?));
        Ok(Scored { number: number_of(row)?, score })
    });
    scored.collect()
}

pub(super) async fn lexical(
    on: &DatabaseConnection,
    tenant: &str,
    words: Vec<String>,
    k: usize,
    filter: &MemoryFilter,
    size: Size,
) -> Result<WordMatches, NyxError> {
    let mut common = common(on, size.count).await?;
    // a token missing from the statistics of common tokens is rare
    let frequencies: Vec<(String, u64)> =
        words.iter().map(|word| (word.clone(), common.get(word).copied().unwrap_or(1))).collect();
    let searched = rarest(&frequencies);
    let any: Vec<String> = searched.iter().map(|word| format!("'{word}'")).collect();
    let mut values: Vec<Value> = vec![tenant.into(), any.join(" | ").into()];
    let narrow = narrowed("number", tenant, filter, &mut values);
    let sql = format!(
        "SELECT number, length, tokens::text AS tokens FROM nyx_memory_words \
         WHERE tenant = $1 AND tokens @@ $2::text::tsquery{narrow} LIMIT {MOST_POSTINGS}"
    );
    let rows = query(on, &sql, values).await?;
    if !narrow.is_empty() {
        // the filtered rows do not show the frequency over all memories
        common.extend(frequencies_of(on, tenant, &searched).await?);
    }
    let documents = rows.iter().map(|row| {
        let counts = occurrences(&row.try_get::<String>("", "tokens")?, &searched);
        Ok(Document {
            number: number_of(row)?,
            length: f64::from(row.try_get::<i32>("", "length")?),
            counts,
        })
    });
    let documents = documents.collect::<Result<Vec<_>, NyxError>>()?;
    Ok(Collection { size, frequencies: common }.rank(&words, &searched, documents, k))
}

/// The number of memories that contain each token.
async fn frequencies_of(
    on: &DatabaseConnection,
    tenant: &str,
    searched: &[&str],
) -> Result<HashMap<String, u64>, NyxError> {
    let counted = |place: usize| {
        format!(
            "(SELECT count(*) FROM nyx_memory_words WHERE tenant = $1 AND tokens @@ ${place}::text::tsquery) AS df{place}"
        )
    };
    let counts: Vec<String> = (2..2 + searched.len()).map(counted).collect();
    let values = std::iter::once(tenant.to_owned())
        .chain(searched.iter().map(|word| format!("'{word}'")))
        .map(Value::from);
    let rows = query(on, &format!("SELECT {}", counts.join(", ")), values.collect()).await?;
    let Some(row) = rows.first() else { return Ok(HashMap::new()) };
    let known = searched.iter().zip(2..).map(|(word, place)| {
        Ok(((*word).to_owned(), row.try_get::<i64>("", &format!("df{place}"))?.cast_unsigned()))
    });
    known.collect()
}

/// The estimated number of memories that contain each of the most common tokens, from the planner's
/// statistics.
async fn common(on: &DatabaseConnection, all: u64) -> Result<HashMap<String, u64>, NyxError> {
    // the last two frequencies are the minimum and the maximum
    let sql = "SELECT element, frequency::float8 AS frequency FROM pg_stats, \
               unnest(most_common_elems::text::text[], most_common_elem_freqs[1:array_length(most_common_elem_freqs, 1) - 2]) AS common (element, frequency) \
               WHERE schemaname = current_schema() AND tablename = 'nyx_memory_words' AND attname = 'tokens' AND element IS NOT NULL";
    let rows = query(on, sql, vec![]).await?;
    rows.iter()
        .map(|row| {
            Ok((
                row.try_get("", "element")?,
                (row.try_get::<f64>("", "frequency")? * all as f64).ceil() as u64,
            ))
        })
        .collect()
}

pub(super) async fn vectors(
    on: &DatabaseConnection,
    list: &str,
    pgvector: bool,
) -> Result<HashMap<i64, Vec<f32>>, NyxError> {
    if !pgvector {
        let rows = query(
            on,
            &format!("SELECT number, embedding FROM nyx_memory_vectors WHERE number IN ({list})"),
            vec![],
        )
        .await?;
        return rows
            .iter()
            .map(|row| Ok((number_of(row)?, floats(&row.try_get::<Vec<u8>>("", "embedding")?))))
            .collect();
    }
    let rows =
        query(on, &format!("SELECT number, embedding::real[] AS embedding FROM nyx_memory_vectors WHERE number IN ({list})"), vec![])
            .await?;
    rows.iter()
        .map(|row| Ok((number_of(row)?, row.try_get::<Vec<f32>>("", "embedding")?)))
        .collect()
}

/// Tokens with their positions, in the text format of a `tsvector`. Tokens contain neither
/// quotation marks nor backslashes.
fn positions(words: &[String]) -> String {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, word) in words.iter().enumerate().filter(|(_, word)| word.len() <= LONGEST_TOKEN) {
        let places = places.entry(word).or_default();
        // positions are only counted; a position beyond the largest representable one would be
        // dropped
        if places.len() < MOST_POSITIONS {
            places.push((at + 1).min(LAST_POSITION - (MOST_POSITIONS - places.len())));
        }
    }
    let written = places.into_iter().map(|(word, places)| {
        let places: Vec<String> = places.iter().map(usize::to_string).collect();
        format!("'{word}':{}", places.join(","))
    });
    written.collect::<Vec<_>>().join(" ")
}

/// How often each of `searched` occurs in a `tsvector` in text format, keyed by its index in
/// `searched`.
fn occurrences(tokens: &str, searched: &[&str]) -> Vec<(usize, f64)> {
    let found = tokens.split(' ').filter_map(|entry| {
        let (word, places) = entry.strip_prefix('\'')?.split_once("':")?;
        let at = searched.iter().position(|searched| *searched == word)?;
        Some((at, places.split(',').count() as f64))
    });
    found.collect()
}

/// A vector in pgvector's text format.
fn literal(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", numbers.join(","))
}
