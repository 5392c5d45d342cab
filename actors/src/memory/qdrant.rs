//! The vector store on a Qdrant server or cluster, over gRPC.

use std::time::Duration;

use async_trait::async_trait;
use qdrant_client::qdrant::{
    Condition, CountPointsBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, DeletePointsBuilder, Distance, FieldType,
    Filter, PointId, PointStruct, PointsIdsList, QueryPointsBuilder, UpsertPointsBuilder, VectorParamsBuilder, vectors_config,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use uuid::Uuid;

use super::options::MemoryOptions;
use super::store::{IndexedMemory, MemoryStore};
use crate::NyxError;
use crate::phoebe::messages::Memory;

/// Tries of an operation; every one here may be repeated without harm.
const TRIES: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// A collection on a server.
pub struct QdrantStore {
    client: Qdrant,
    collection: String,
}

fn failed(doing: &'static str, error: &QdrantError) -> NyxError {
    NyxError::VectorStore { doing, reason: error.to_string() }
}

/// Whether another try may help: the server was away, busy or slow.
fn transient(error: &QdrantError) -> bool {
    use tonic_code::*;
    matches!(error, QdrantError::ResponseError { status } if [UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED].contains(&(status.code() as i32)))
}

/// gRPC's status codes, by number.
mod tonic_code {
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const UNAVAILABLE: i32 = 14;
}

/// Runs `work` again after a transient failure, backing off.
async fn retried<T, F: Future<Output = Result<T, QdrantError>>>(doing: &'static str, work: impl Fn() -> F) -> Result<T, NyxError> {
    let mut backoff = FIRST_BACKOFF;
    for _ in 1..TRIES {
        match work().await {
            Err(error) if transient(&error) => {
                tracing::warn!(%error, doing, "the vector store did not answer; trying again");
                tokio::time::sleep(backoff).await;
                backoff *= 2;
            }
            done => return done.map_err(|error| failed(doing, &error)),
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
        let url = options.url.as_ref().ok_or_else(|| NyxError::VectorStore {
            doing: "connecting",
            reason: "memory.store is \"qdrant\" and memory.url is not set: set it to the server's gRPC address".into(),
        })?;
        let mut builder = Qdrant::from_url(url).timeout(Duration::from_millis(options.timeout_ms)).skip_compatibility_check();
        builder.set_api_key_option(options.api_key.as_deref());
        let client = builder.build().map_err(|error| failed("connecting", &error))?;
        let store = Self { client, collection: options.collection.clone() };
        store.prepare(dimension).await?;
        Ok(store)
    }

    async fn prepare(&self, dimension: usize) -> Result<(), NyxError> {
        let name = &self.collection;
        if !retried("connecting", || self.client.collection_exists(name)).await? {
            let vectors = VectorParamsBuilder::new(dimension as u64, Distance::Cosine);
            retried("creating", || self.client.create_collection(CreateCollectionBuilder::new(name).vectors_config(vectors.clone())))
                .await?;
            let index = CreateFieldIndexCollectionBuilder::new(name, "conversation", FieldType::Keyword).wait(true);
            retried("creating", || self.client.create_field_index(index.clone())).await?;
            return Ok(());
        }
        let info = retried("connecting", || self.client.collection_info(name)).await?;
        let config = info.result.and_then(|info| info.config?.params?.vectors_config?.config);
        match config {
            Some(vectors_config::Config::Params(params)) if params.size == dimension as u64 => Ok(()),
            other => Err(NyxError::VectorStore {
                doing: "connecting",
                reason: format!(
                    "collection {name:?} holds {other:?}, expected one vector of {dimension}: name another in memory.collection"
                ),
            }),
        }
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
            let payload = serde_json::to_value(&memory).map_err(|error| NyxError::Internal(error.to_string()))?;
            let payload = Payload::try_from(payload).map_err(|error| failed("writing", &error))?;
            points.push(PointStruct::new(memory.id.to_string(), vector, payload));
        }
        let upsert = || self.client.upsert_points(UpsertPointsBuilder::new(&self.collection, points.clone()).wait(true));
        retried("writing", upsert).await.map(drop)
    }

    async fn search(&self, vector: Vec<f32>, k: usize, conversation: Option<String>) -> Result<Vec<(Memory, f32)>, NyxError> {
        let mut query = QueryPointsBuilder::new(&self.collection).query(vector).limit(k as u64).with_payload(true);
        if let Some(conversation) = conversation {
            query = query.filter(Filter::must([Condition::matches("conversation", conversation)]));
        }
        let found = retried("searching", || self.client.query(query.clone())).await?;
        found
            .result
            .into_iter()
            .map(|point| {
                let payload: serde_json::Value = Payload::from(point.payload).into();
                let memory = serde_json::from_value(payload)
                    .map_err(|error| NyxError::VectorStore { doing: "reading", reason: error.to_string() })?;
                Ok((memory, point.score))
            })
            .collect()
    }

    async fn delete(&self, ids: Vec<Uuid>) -> Result<(), NyxError> {
        let ids: Vec<PointId> = ids.iter().map(|id| id.to_string().into()).collect();
        let delete =
            || self.client.delete_points(DeletePointsBuilder::new(&self.collection).points(PointsIdsList { ids: ids.clone() }).wait(true));
        retried("deleting", delete).await.map(drop)
    }

    async fn count(&self) -> Result<usize, NyxError> {
        let counted = retried("counting", || self.client.count(CountPointsBuilder::new(&self.collection).exact(true))).await?;
        Ok(counted.result.map_or(0, |result| result.count as usize))
    }
}
