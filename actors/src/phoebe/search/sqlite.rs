//! sqlite-vec and FTS5.

use std::collections::HashMap;

use nyx_domain::MemoryFilter;
use sea_orm::sqlx::{self, Executor as _, Row as _};
use sea_orm::{ConnectionTrait, DatabaseConnection, Value};

use super::ranking::{
    Collection, Document, MOST_POSTINGS, OVERSAMPLING, Scored, Size, WordMatches, cosine, rarest,
};
use super::sql::{bytes, execute, floats, listed, narrowed, narrowed_codes, number_of, query};
use crate::NyxError;

/// Largest `k` that sqlite-vec accepts.
const MOST_NEAREST: usize = 4_096;

/// Sign bits are used only if the dimension is a multiple of this.
const BITS: usize = 8;

pub(super) fn schema(dimension: usize) -> Vec<String> {
    let mut statements: Vec<String> = ["vectors", "embeddings", "codes"]
        .map(|table| format!("DROP TABLE IF EXISTS nyx_memory_{table}"))
        .into();
    statements.push(format!(
        "CREATE VIRTUAL TABLE nyx_memory_vectors USING vec0(\
         number INTEGER PRIMARY KEY, tenant TEXT PARTITION KEY, embedding FLOAT[{dimension}] distance_metric=cosine)"
    ));
    // vec0 stores rows in chunks of a thousand, so reading a single row from it is slow
    statements.push(
        "CREATE TABLE nyx_memory_embeddings (number INTEGER PRIMARY KEY, embedding BLOB NOT NULL)"
            .to_owned(),
    );
    // a tenant's sign bits are stored contiguously; vec0 would make k passes over each chunk to
    // select the k nearest
    statements.push(
        "CREATE TABLE nyx_memory_codes (tenant TEXT NOT NULL, number INTEGER NOT NULL UNIQUE, moment TEXT NOT NULL, code BLOB NOT NULL, PRIMARY KEY (tenant, number)) WITHOUT ROWID"
            .to_owned(),
    );
    statements.push("DELETE FROM nyx_memory_words".to_owned());
    statements
}

pub(super) async fn insert(
    on: &impl ConnectionTrait,
    tenant: &str,
    number: i64,
    words: &[String],
    vector: &[f32],
) -> Result<(), NyxError> {
    let text: Vec<Value> = vec![number.into(), marker(tenant).into(), words.join(" ").into()];
    execute(on, "INSERT INTO nyx_memory_words (rowid, tenant, tokens) VALUES ($1, $2, $3)", text)
        .await?;
    let length = i64::try_from(words.len()).unwrap_or(i64::MAX);
    execute(
        on,
        "UPDATE nyx_subjective_memory SET length = $1 WHERE number = $2",
        vec![length.into(), number.into()],
    )
    .await?;
    let values: Vec<Value> = vec![number.into(), tenant.into(), bytes(vector).into()];
    execute(
        on,
        "INSERT INTO nyx_memory_vectors (number, tenant, embedding) VALUES ($1, $2, $3)",
        values,
    )
    .await?;
    let values: Vec<Value> = vec![number.into(), bytes(vector).into()];
    execute(on, "INSERT INTO nyx_memory_embeddings (number, embedding) VALUES ($1, $2)", values)
        .await?;
    if vector.len().is_multiple_of(BITS) {
        let values: Vec<Value> = vec![number.into(), tenant.into(), sign_bits(vector).into()];
        let sql = "INSERT INTO nyx_memory_codes (number, tenant, code, moment) \
                   VALUES ($1, $2, $3, (SELECT COALESCE(happened_at, stored_at) FROM nyx_subjective_memory WHERE number = $1))";
        execute(on, sql, values).await?;
    }
    Ok(())
}

pub(super) async fn delete(on: &impl ConnectionTrait, numbers: &[i64]) -> Result<(), NyxError> {
    for (table, key) in [
        ("nyx_memory_words", "rowid"),
        ("nyx_memory_embeddings", "number"),
        ("nyx_memory_codes", "number"),
    ] {
        execute(on, &format!("DELETE FROM {table} WHERE {key} IN ({})", listed(numbers)), vec![])
            .await?;
    }
    for number in numbers {
        execute(on, "DELETE FROM nyx_memory_vectors WHERE number = $1", vec![(*number).into()])
            .await?;
    }
    Ok(())
}

/// Checkpoints and truncates the write-ahead log without waiting for readers; returns whether the
/// log is empty.
pub(super) async fn truncate_log(writer: &DatabaseConnection) -> bool {
    let work = async {
        let mut connection = writer.get_sqlite_connection_pool().acquire().await?;
        let patience: i64 =
            sqlx::query_scalar("PRAGMA busy_timeout").fetch_one(&mut *connection).await?;
        connection.execute("PRAGMA busy_timeout = 50").await?;
        let truncated =
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await;
        connection
            .execute(sqlx::AssertSqlSafe(format!("PRAGMA busy_timeout = {patience}")))
            .await?;
        Ok::<_, sqlx::Error>(truncated?.get::<i64, _>(0) == 0)
    };
    work.await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the write-ahead log was not truncated");
        false
    })
}

/// The nearest memories by exact distance, or, if `coarse`, by sign bits first and then by exact
/// similarity.
pub(super) async fn dense(
    on: &DatabaseConnection,
    tenant: &str,
    vector: &[f32],
    k: usize,
    filter: &MemoryFilter,
    coarse: bool,
) -> Result<Vec<Scored>, NyxError> {
    let coarse = coarse && vector.len().is_multiple_of(BITS);
    let asked = if coarse { sign_bits(vector) } else { bytes(vector) };
    let mut values: Vec<Value> = vec![asked.into(), tenant.into()];
    let narrow = if coarse {
        narrowed_codes(tenant, filter, &mut values)
    } else {
        narrowed("number", tenant, filter, &mut values)
    };
    let sql = if coarse {
        let nearest = k.saturating_mul(OVERSAMPLING);
        format!(
            "SELECT number, embedding FROM nyx_memory_embeddings WHERE number IN (SELECT number FROM nyx_memory_codes WHERE tenant = $2{narrow} \
             ORDER BY nyx_hamming(code, $1) LIMIT {nearest})"
        )
    } else {
        let k = k.min(MOST_NEAREST);
        format!(
            "SELECT number, distance FROM nyx_memory_vectors WHERE embedding MATCH $1 AND k = {k} AND tenant = $2{narrow}"
        )
    };
    let rows = query(on, &sql, values).await?;
    let scored = rows.iter().map(|row| {
        let number = number_of(row)?;
        let score = if coarse {
            cosine(vector, &floats(&row.try_get::<Vec<u8>>("", "embedding")?))
        } else {
            1.0 - row.try_get::<f64>("", "distance")?
        };
        Ok(Scored { number, score })
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
    let places: Vec<String> = (1..=words.len()).map(|place| format!("${place}")).collect();
    // document frequencies over all tenants
    let sql = format!(
        "SELECT term, doc FROM nyx_memory_terms WHERE col = 'tokens' AND term IN ({})",
        places.join(", ")
    );
    let rows = query(on, &sql, words.iter().map(|word| word.clone().into()).collect()).await?;
    let known = rows.iter().map(|row| {
        Ok((
            row.try_get::<String>("", "term")?,
            row.try_get::<i64>("", "doc")?.cast_unsigned().min(size.count),
        ))
    });
    let known = known.collect::<Result<HashMap<String, u64>, NyxError>>()?;
    let frequencies: Vec<(String, u64)> = words
        .into_iter()
        .map(|word| {
            let df = known.get(&word).copied().unwrap_or(0);
            (word, df)
        })
        .collect();
    let collection = Collection { size, frequencies: known };
    let searched = rarest(&frequencies);
    let words: Vec<String> = frequencies.iter().map(|(word, _)| word.clone()).collect();
    if searched.is_empty() {
        return Ok(collection.rank(&words, &[], Vec::new(), k));
    }
    // tokens contain no quotation marks
    let any: Vec<String> = searched.iter().map(|word| format!("\"{word}\"")).collect();
    let mut values: Vec<Value> =
        vec![format!("tenant : \"{}\" AND tokens : ({})", marker(tenant), any.join(" OR ")).into()];
    let narrow = narrowed("+rowid", tenant, filter, &mut values);
    // if there are too many matches, the newest are ranked
    let sql = format!(
        "SELECT rowid AS number, tokens FROM nyx_memory_words WHERE nyx_memory_words MATCH $1{narrow} ORDER BY rowid DESC LIMIT {MOST_POSTINGS}"
    );
    let rows = query(on, &sql, values).await?;
    let documents = rows.iter().map(|row| {
        let mut counts = vec![0.0; searched.len()];
        let mut length = 0.0;
        for token in row.try_get::<String>("", "tokens")?.split(' ') {
            length += 1.0;
            searched
                .iter()
                .position(|searched| *searched == token)
                .into_iter()
                .for_each(|at| counts[at] += 1.0);
        }
        let counts = counts.into_iter().enumerate().filter(|(_, count)| *count > 0.0).collect();
        Ok(Document { number: number_of(row)?, length, counts })
    });
    let documents = documents.collect::<Result<Vec<_>, NyxError>>()?;
    Ok(collection.rank(&words, &searched, documents, k))
}

pub(super) async fn vectors(
    on: &DatabaseConnection,
    list: &str,
) -> Result<HashMap<i64, Vec<f32>>, NyxError> {
    let rows = query(
        on,
        &format!("SELECT number, embedding FROM nyx_memory_embeddings WHERE number IN ({list})"),
        vec![],
    )
    .await?;
    rows.iter()
        .map(|row| Ok((number_of(row)?, floats(&row.try_get::<Vec<u8>>("", "embedding")?))))
        .collect()
}

/// One bit per component: 1 if it is positive.
fn sign_bits(vector: &[f32]) -> Vec<u8> {
    let bits = |eight: &[f32]| {
        eight.iter().zip(0..).fold(0, |byte, (number, bit)| byte | (u8::from(*number > 0.0) << bit))
    };
    vector.chunks(BITS).map(bits).collect()
}

/// Encodes any tenant name as a single full-text token.
fn marker(tenant: &str) -> String {
    tenant.bytes().fold(String::from("t"), |marker, byte| marker + &format!("{byte:02x}"))
}
