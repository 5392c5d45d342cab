//! The vector store on a Qdrant server or cluster, over gRPC.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use qdrant_client::qdrant::vectors_config::Config as VectorsOf;
use qdrant_client::qdrant::{
    Condition, CountPointsBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, DatetimeRange, DeletePointsBuilder,
    Distance, FieldType, Filter, Modifier, NamedVectors, PointId, PointStruct, PointsIdsList, Query, QueryPointsBuilder, ScoredPoint,
    SparseVectorParamsBuilder, SparseVectorsConfigBuilder, Timestamp, UpsertPointsBuilder, Vector, VectorInput, VectorParamsBuilder,
    VectorsConfigBuilder, VectorsSelector, vector_output, vectors_output,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use uuid::Uuid;

use super::lexical::Lexicon;
use super::options::MemoryOptions;
use super::store::{
    AT, CONVERSATION, DENSE, Hit, IndexedMemory, LEXICAL, MemoryFilter, MemoryStore, SPEAKER, check_dimension, memory_of, payload,
};
use crate::NyxError;
use crate::secret::Secret;

/// Tries of an operation; every one here may be repeated without harm.
const TRIES: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// However long the server would have Nyx wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// A collection on a server.
pub struct QdrantStore {
    client: Qdrant,
    collection: String,
    dimension: usize,
    lexicon: Lexicon,
}

fn failed(doing: &'static str, error: &QdrantError) -> NyxError {
    NyxError::VectorStore { doing, reason: error.to_string() }
}

/// How long to wait before another try, where one may help: the server was away, busy or slow.
fn worth_another_try(error: &QdrantError, backoff: Duration) -> Option<Duration> {
    match error {
        QdrantError::ResourceExhaustedError { retry_after_seconds, .. } => {
            Some(backoff.max(Duration::from_secs(*retry_after_seconds)).min(LONGEST_BACKOFF))
        }
        // a time-out of the client's own is a cancellation, a connection that cannot be made an internal error
        QdrantError::ResponseError { status } => match GrpcCode(status.code() as i32) {
            GrpcCode::CANCELLED | GrpcCode::DEADLINE_EXCEEDED | GrpcCode::RESOURCE_EXHAUSTED | GrpcCode::UNAVAILABLE => Some(backoff),
            GrpcCode::INTERNAL if status.message().starts_with("Failed to connect") => Some(backoff),
            _ => None,
        },
        _ => None,
    }
}

/// A status code of gRPC.
#[derive(PartialEq, Eq)]
struct GrpcCode(i32);

impl GrpcCode {
    const CANCELLED: Self = Self(1);
    const DEADLINE_EXCEEDED: Self = Self(4);
    const RESOURCE_EXHAUSTED: Self = Self(8);
    const INTERNAL: Self = Self(13);
    const UNAVAILABLE: Self = Self(14);
}

/// Runs `work` again after a transient failure, backing off.
async fn retried<T, F: Future<Output = Result<T, QdrantError>>>(doing: &'static str, work: impl Fn() -> F) -> Result<T, NyxError> {
    let mut backoff = FIRST_BACKOFF;
    for _ in 1..TRIES {
        match work().await {
            Ok(done) => return Ok(done),
            Err(error) => {
                let Some(pause) = worth_another_try(&error, backoff) else { return Err(failed(doing, &error)) };
                tracing::warn!(%error, doing, "the vector store did not answer; trying again");
                tokio::time::sleep(pause).await;
                backoff *= 2;
            }
        }
    }
    work().await.map_err(|error| failed(doing, &error))
}

impl QdrantStore {
    /// Connects, and makes the collection if there is none.
    ///
    /// # Errors
    /// No URL, no server, or a collection of another vector size.
    pub async fn open(options: &MemoryOptions, dimension: usize) -> Result<Self, NyxError> {
        let store = Self::connect(options, dimension)?;
        store.prepare().await?;
        Ok(store)
    }

    /// An empty collection, whatever was there.
    ///
    /// # Errors
    /// No URL, or no server.
    pub async fn anew(options: &MemoryOptions, dimension: usize) -> Result<Self, NyxError> {
        let store = Self::connect(options, dimension)?;
        store.clear().await?;
        Ok(store)
    }

    fn connect(options: &MemoryOptions, dimension: usize) -> Result<Self, NyxError> {
        let url = options.url.as_ref().ok_or_else(|| NyxError::VectorStore {
            doing: "connecting",
            reason: "memory.store is \"qdrant\" and memory.url is not set: set it to the server's gRPC address".into(),
        })?;
        let timeout = Duration::from_millis(options.timeout_ms);
        let mut builder = Qdrant::from_url(url).timeout(timeout).connect_timeout(timeout).skip_compatibility_check();
        builder.set_api_key_option(options.api_key.as_ref().map(Secret::expose));
        let client = builder.build().map_err(|error| failed("connecting", &error))?;
        Ok(Self { client, collection: options.collection.clone(), dimension, lexicon: Lexicon::new()? })
    }

    async fn prepare(&self) -> Result<(), NyxError> {
        if !retried("connecting", || self.client.collection_exists(&self.collection)).await? {
            return self.create().await;
        }
        let info = retried("connecting", || self.client.collection_info(&self.collection)).await?;
        let params = info.result.and_then(|info| info.config?.params);
        let dense = params.as_ref().and_then(|params| match params.vectors_config.as_ref()?.config.as_ref()? {
            VectorsOf::ParamsMap(named) => named.map.get(DENSE).map(|params| params.size),
            VectorsOf::Params(_) => None,
        });
        let lexical = params.as_ref().and_then(|params| params.sparse_vectors_config.as_ref()?.map.get(LEXICAL)?.modifier);
        if dense == Some(self.dimension as u64) && lexical == Some(Modifier::Idf as i32) {
            return Ok(());
        }
        let dense = dense.map_or("no such vector".to_owned(), |size| format!("one of {size}"));
        Err(NyxError::VectorStore {
            doing: "connecting",
            reason: format!(
                "collection {:?} has for {DENSE:?} {dense} and for {LEXICAL:?} the modifier {lexical:?}, expected a vector of {} and IDF ({}): \
                 `nyx memories reindex` makes it anew, or name another in memory.collection",
                self.collection,
                self.dimension,
                Modifier::Idf as i32,
            ),
        })
    }

    async fn create(&self) -> Result<(), NyxError> {
        let name = &self.collection;
        let mut vectors = VectorsConfigBuilder::default();
        vectors.add_named_vector_params(DENSE, VectorParamsBuilder::new(self.dimension as u64, Distance::Cosine));
        let mut words = SparseVectorsConfigBuilder::default();
        words.add_named_vector_params(LEXICAL, SparseVectorParamsBuilder::default().modifier(Modifier::Idf));
        let collection = CreateCollectionBuilder::new(name).vectors_config(vectors).sparse_vectors_config(words);
        let made = retried("creating", || self.client.create_collection(collection.clone())).await;
        // another Nyx, or the try before this one, may have made it meanwhile
        if let Err(error) = made
            && !retried("creating", || self.client.collection_exists(name)).await?
        {
            return Err(error);
        }
        for (field, kind) in [(CONVERSATION, FieldType::Keyword), (SPEAKER, FieldType::Keyword), (AT, FieldType::Datetime)] {
            let index = CreateFieldIndexCollectionBuilder::new(name, field, kind).wait(true);
            retried("creating", || self.client.create_field_index(index.clone())).await?;
        }
        Ok(())
    }

    /// Removes the collection.
    #[cfg(test)]
    pub(super) async fn remove(&self) -> Result<(), NyxError> {
        retried("removing", || self.client.delete_collection(&self.collection)).await.map(drop)
    }

    async fn search(&self, query: Query, using: &str, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError> {
        let vectors = VectorsSelector { names: vec![DENSE.into()] };
        let mut request =
            QueryPointsBuilder::new(&self.collection).query(query).using(using).limit(k as u64).with_payload(true).with_vectors(vectors);
        if let Some(filter) = condition(filter) {
            request = request.filter(filter);
        }
        let found = retried("searching", || self.client.query(request.clone())).await?;
        found.result.into_iter().map(hit).collect()
    }
}

fn condition(filter: &MemoryFilter) -> Option<Filter> {
    let MemoryFilter { conversation, speaker, after, before } = filter;
    let mut must = Vec::new();
    for (key, value) in [(CONVERSATION, conversation), (SPEAKER, speaker)] {
        must.extend(value.clone().map(|value| Condition::matches(key, value)));
    }
    if after.is_some() || before.is_some() {
        must.push(Condition::datetime_range(
            AT,
            DatetimeRange { gte: after.map(timestamp), lt: before.map(timestamp), ..Default::default() },
        ));
    }
    (!must.is_empty()).then(|| Filter::must(must))
}

fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: at.timestamp(), nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default() }
}

fn hit(point: ScoredPoint) -> Result<Hit, NyxError> {
    let bad = |reason: &str| NyxError::VectorStore { doing: "reading", reason: reason.to_owned() };
    let memory = memory_of(Payload::from(point.payload).into())?;
    let vectors = point.vectors.and_then(|vectors| vectors.vectors_options);
    let Some(vectors_output::VectorsOptions::Vectors(mut named)) = vectors else { return Err(bad("a point has no named vectors")) };
    let vector = named.vectors.remove(DENSE).ok_or_else(|| bad("a point has no vector \"dense\""))?;
    match vector.into_vector() {
        vector_output::Vector::Dense(dense) => Ok(Hit { memory, score: point.score, vector: dense.data }),
        _ => Err(bad("a point's vector \"dense\" is no dense one")),
    }
}

trait ApiKey {
    fn set_api_key_option(&mut self, key: Option<&str>);
}

impl ApiKey for qdrant_client::config::QdrantConfig {
    fn set_api_key_option(&mut self, key: Option<&str>) {
        if let Some(key) = key {
            self.set_api_key(key);
        }
    }
}

#[async_trait]
impl MemoryStore for QdrantStore {
    fn name(&self) -> &'static str {
        "qdrant"
    }

    async fn upsert(&self, memories: Vec<IndexedMemory>) -> Result<(), NyxError> {
        let mut points = Vec::with_capacity(memories.len());
        for IndexedMemory { memory, vector } in memories {
            check_dimension(&vector, self.dimension)?;
            let words = self.lexicon.memory(&memory);
            let vectors = NamedVectors::default()
                .add_vector(DENSE, Vector::new_dense(vector))
                .add_vector(LEXICAL, Vector::new_sparse(words.indices, words.values));
            let payload = Payload::try_from(payload(&memory)?).map_err(|error| failed("writing", &error))?;
            points.push(PointStruct::new(memory.id.to_string(), vectors, payload));
        }
        let upsert = || self.client.upsert_points(UpsertPointsBuilder::new(&self.collection, points.clone()).wait(true));
        retried("writing", upsert).await.map(drop)
    }

    async fn dense(&self, vector: Vec<f32>, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError> {
        check_dimension(&vector, self.dimension)?;
        self.search(vector.into(), DENSE, k, filter).await
    }

    async fn lexical(&self, text: &str, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError> {
        let words = self.lexicon.query(text);
        if words.indices.is_empty() {
            return Ok(Vec::new());
        }
        let query = VectorInput::new_sparse(words.indices, words.values);
        let mut found = self.search(Query::new_nearest(query), LEXICAL, k, filter).await?;
        found.retain(|hit| hit.score > 0.0);
        Ok(found)
    }

    async fn delete(&self, ids: Vec<Uuid>) -> Result<(), NyxError> {
        let ids: Vec<PointId> = ids.iter().map(|id| id.to_string().into()).collect();
        let delete =
            || self.client.delete_points(DeletePointsBuilder::new(&self.collection).points(PointsIdsList { ids: ids.clone() }).wait(true));
        retried("deleting", delete).await.map(drop)
    }

    async fn clear(&self) -> Result<(), NyxError> {
        retried("clearing", || self.client.delete_collection(&self.collection)).await?;
        self.create().await
    }

    async fn count(&self) -> Result<usize, NyxError> {
        let counted = retried("counting", || self.client.count(CountPointsBuilder::new(&self.collection).exact(true))).await?;
        Ok(counted.result.map_or(0, |result| result.count as usize))
    }
}
