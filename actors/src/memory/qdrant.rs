//! A Qdrant server or cluster over gRPC: an index of memory vectors, updated from phoebe's outbox.
//! Searches return only ids; the memories are read from the database, so memories deleted there are
//! never returned even if the server still holds them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use nyx_domain::{Memory, MemoryFilter};
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::vectors_config::Config as VectorsOf;
use qdrant_client::qdrant::{
    Condition, CountPointsBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder,
    DatetimeRange, DeletePointsBuilder, Distance, FieldType, Filter, NamedVectors, PointId,
    PointStruct, PointsIdsList, QueryPointsBuilder, ScoredPoint, Timestamp, UpsertPointsBuilder,
    Vector, VectorParamsBuilder, VectorsConfigBuilder,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use serde_json::json;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::options::MemoryOptions;
use crate::NyxError;
use crate::phoebe::search::{Change, LEASE, MemoryIndex};
use crate::secret::Secret;

/// Name of the vector in each point.
const DENSE: &str = "dense";
const TENANT: &str = "tenant";
const CONVERSATION: &str = "conversation";
const SPEAKER: &str = "speaker";
/// Payload field with the memory's time, used by filters.
const AT: &str = "at";
/// Attempts per operation; every operation here is idempotent.
const TRIES: u32 = 4;
/// Time limit of a search.
const SEARCH_LIMIT: Duration = Duration::from_secs(2);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Upper limit of a retry delay that the server requests.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// A collection on a Qdrant server.
pub struct QdrantIndex {
    client: Qdrant,
    collection: String,
    dimension: usize,
    /// Id of this process as holder of the outbox lease.
    instance: String,
    draining: Mutex<()>,
}

fn failed(doing: &'static str, error: &QdrantError) -> NyxError {
    NyxError::VectorStore { doing, reason: error.to_string() }
}

/// The delay before a retry, or `None` if the error is permanent. Retried: the server was
/// unreachable, busy or slow.
fn worth_another_try(error: &QdrantError, backoff: Duration) -> Option<Duration> {
    match error {
        QdrantError::ResourceExhaustedError { retry_after_seconds, .. } => {
            Some(backoff.max(Duration::from_secs(*retry_after_seconds)).min(LONGEST_BACKOFF))
        }
        // the client reports its own time-out as cancelled, and a failed connection as an internal
        // error
        QdrantError::ResponseError { status } => match GrpcCode(status.code() as i32) {
            GrpcCode::CANCELLED
            | GrpcCode::DEADLINE_EXCEEDED
            | GrpcCode::RESOURCE_EXHAUSTED
            | GrpcCode::UNAVAILABLE => Some(backoff),
            GrpcCode::INTERNAL if status.message().starts_with("Failed to connect") => {
                Some(backoff)
            }
            _ => None,
        },
        _ => None,
    }
}

/// A gRPC status code.
#[derive(PartialEq, Eq)]
struct GrpcCode(i32);

impl GrpcCode {
    const CANCELLED: Self = Self(1);
    const DEADLINE_EXCEEDED: Self = Self(4);
    const RESOURCE_EXHAUSTED: Self = Self(8);
    const INTERNAL: Self = Self(13);
    const UNAVAILABLE: Self = Self(14);
}

/// Retries `work` with exponential backoff after transient errors.
async fn retried<T, F: Future<Output = Result<T, QdrantError>>>(
    doing: &'static str,
    work: impl Fn() -> F,
) -> Result<T, NyxError> {
    let mut backoff = FIRST_BACKOFF;
    for _ in 1..TRIES {
        match work().await {
            Ok(done) => return Ok(done),
            Err(error) => {
                let Some(pause) = worth_another_try(&error, backoff) else {
                    return Err(failed(doing, &error));
                };
                tracing::warn!(%error, doing, "the Qdrant server did not respond; retrying");
                tokio::time::sleep(pause).await;
                backoff *= 2;
            }
        }
    }
    work().await.map_err(|error| failed(doing, &error))
}

impl QdrantIndex {
    /// Connects, and creates the collection if it does not exist.
    ///
    /// # Errors
    /// No URL, no server, or a collection with a different vector size.
    pub async fn open(options: &MemoryOptions, dimension: usize) -> Result<Self, NyxError> {
        let store = Self::connect(options, dimension)?;
        store.prepare().await?;
        Ok(store)
    }

    /// Connects, and replaces the collection by an empty one.
    ///
    /// # Errors
    /// No URL, or no server.
    pub async fn anew(options: &MemoryOptions, dimension: usize) -> Result<Self, NyxError> {
        let store = Self::connect(options, dimension)?;
        store.clear().await?;
        Ok(store)
    }

    pub(super) fn connect(options: &MemoryOptions, dimension: usize) -> Result<Self, NyxError> {
        let url = options.url.as_ref().ok_or_else(|| NyxError::VectorStore {
            doing: "connecting",
            reason: "memory.store is \"qdrant\" and memory.url is not set: set it to the server's gRPC address".into(),
        })?;
        let timeout = Duration::from_millis(options.timeout_ms);
        let mut builder = Qdrant::from_url(url)
            .timeout(timeout)
            .connect_timeout(timeout)
            .skip_compatibility_check();
        builder.set_api_key_option(options.api_key.as_ref().map(Secret::expose));
        let client = builder.build().map_err(|error| failed("connecting", &error))?;
        Ok(Self {
            client,
            collection: options.collection.clone(),
            dimension,
            instance: Uuid::now_v7().to_string(),
            draining: Mutex::default(),
        })
    }

    pub(super) async fn prepare(&self) -> Result<(), NyxError> {
        if !retried("connecting", || self.client.collection_exists(&self.collection)).await? {
            return self.create().await;
        }
        let info = retried("connecting", || self.client.collection_info(&self.collection)).await?;
        let params = info.result.and_then(|info| info.config?.params);
        let dense = params.as_ref().and_then(|params| {
            match params.vectors_config.as_ref()?.config.as_ref()? {
                VectorsOf::ParamsMap(named) => named.map.get(DENSE).map(|params| params.size),
                VectorsOf::Params(_) => None,
            }
        });
        if dense == Some(self.dimension as u64) {
            return Ok(());
        }
        let dense =
            dense.map_or("no such vector".to_owned(), |size| format!("one of {size} dimensions"));
        Err(NyxError::VectorStore {
            doing: "connecting",
            reason: format!(
                "collection {:?} has for {DENSE:?} {dense}, expected one of {}: run `nyx memories reindex`, or set another name in \
                 memory.collection",
                self.collection, self.dimension,
            ),
        })
    }

    async fn create(&self) -> Result<(), NyxError> {
        let name = &self.collection;
        let mut vectors = VectorsConfigBuilder::default();
        vectors.add_named_vector_params(
            DENSE,
            VectorParamsBuilder::new(self.dimension as u64, Distance::Cosine),
        );
        let collection = CreateCollectionBuilder::new(name).vectors_config(vectors);
        let made = retried("creating", || self.client.create_collection(collection.clone())).await;
        // another Nyx process, or the previous attempt, may have created it meanwhile
        if let Err(error) = made
            && !retried("creating", || self.client.collection_exists(name)).await?
        {
            return Err(error);
        }
        let fields = [
            (TENANT, FieldType::Keyword),
            (CONVERSATION, FieldType::Keyword),
            (SPEAKER, FieldType::Keyword),
            (AT, FieldType::Datetime),
        ];
        for (field, kind) in fields {
            let index = CreateFieldIndexCollectionBuilder::new(name, field, kind).wait(true);
            retried("creating", || self.client.create_field_index(index.clone())).await?;
        }
        Ok(())
    }

    /// The ids of the `k` nearest memories with their cosine similarities, best first.
    ///
    /// # Errors
    /// The server does not respond.
    pub async fn dense(
        &self,
        tenant: &str,
        vector: &[f32],
        k: usize,
        filter: &MemoryFilter,
    ) -> Result<Vec<(Uuid, f64)>, NyxError> {
        self.check(vector)?;
        let request = QueryPointsBuilder::new(&self.collection)
            .query(vector.to_vec())
            .using(DENSE)
            .limit(k as u64)
            .filter(condition(tenant, filter));
        // one attempt with a short time limit: the caller falls back to phoebe's index
        let late = || NyxError::VectorStore {
            doing: "searching",
            reason: format!("no response in {} ms", SEARCH_LIMIT.as_millis()),
        };
        let found = tokio::time::timeout(SEARCH_LIMIT, self.client.query(request))
            .await
            .map_err(|_| late())?;
        let found = found.map_err(|error| failed("searching", &error))?;
        found.result.iter().map(hit).collect()
    }

    /// Inserts or replaces points by id; durable when it returns.
    ///
    /// # Errors
    /// The server does not respond.
    pub async fn upsert(&self, memories: Vec<(String, Memory, Vec<f32>)>) -> Result<(), NyxError> {
        let mut points = Vec::with_capacity(memories.len());
        for (tenant, memory, vector) in memories {
            self.check(&vector)?;
            let vectors = NamedVectors::default().add_vector(DENSE, Vector::new_dense(vector));
            let at = memory.at().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
            let fields = json!({ TENANT: tenant, CONVERSATION: memory.conversation, SPEAKER: memory.speaker, AT: at });
            let payload = Payload::try_from(fields).map_err(|error| failed("writing", &error))?;
            points.push(PointStruct::new(memory.id.to_string(), vectors, payload));
        }
        if points.is_empty() {
            return Ok(());
        }
        let upsert = || {
            self.client.upsert_points(
                UpsertPointsBuilder::new(&self.collection, points.clone()).wait(true),
            )
        };
        retried("writing", upsert).await.map(drop)
    }

    /// Deletes points; durable when it returns. Missing ids are ignored.
    ///
    /// # Errors
    /// The server does not respond.
    pub async fn delete(&self, ids: &[Uuid]) -> Result<(), NyxError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<PointId> = ids.iter().map(|id| id.to_string().into()).collect();
        let delete = || {
            self.client.delete_points(
                DeletePointsBuilder::new(&self.collection)
                    .points(PointsIdsList { ids: ids.clone() })
                    .wait(true),
            )
        };
        retried("deleting", delete).await.map(drop)
    }

    /// The number of points in the collection.
    ///
    /// # Errors
    /// The server does not respond.
    pub async fn count(&self) -> Result<usize, NyxError> {
        let counted = retried("counting", || {
            self.client.count(CountPointsBuilder::new(&self.collection).exact(true))
        })
        .await?;
        Ok(counted.result.map_or(0, |result| result.count as usize))
    }

    /// Compares the number of points on the server with the number of memories; if they differ and
    /// the outbox is empty, queues all memories again.
    ///
    /// # Errors
    /// The server or the database does not respond.
    pub async fn compare(&self, index: &MemoryIndex) -> Result<(), NyxError> {
        let (held, kept) = (self.count().await? as u64, index.total().await?);
        if held != kept && index.outbox_len().await? == 0 {
            tracing::warn!(
                held,
                kept,
                "the Qdrant server does not hold all memories: applying all of them again"
            );
            index.refill_outbox().await?;
        }
        if held > kept {
            tracing::warn!(
                held,
                kept,
                "the Qdrant server holds points of deleted memories: run `nyx memories reindex` to remove them"
            );
        }
        Ok(())
    }

    /// Applies the outbox in order; returns the number of changes left to another process that
    /// holds the lease.
    ///
    /// # Errors
    /// The server or the database does not respond: unconfirmed changes are applied again later.
    pub async fn drain(&self, index: &MemoryIndex) -> Result<u64, NyxError> {
        let _one_at_a_time = self.draining.lock().await;
        let drained = self.drain_all(index).await;
        // released on failure too, so that another process can continue
        let released = index.release_outbox(&self.instance).await;
        drained.and_then(|left| released.map(|()| left))
    }

    async fn drain_all(&self, index: &MemoryIndex) -> Result<u64, NyxError> {
        loop {
            let left = index.outbox_len().await?;
            if left == 0 || !index.lease_outbox(&self.instance).await? {
                return Ok(left);
            }
            let drained = index.read_outbox().await?;
            let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
            for change in &drained.changes {
                match change {
                    Change::Upsert { tenant, memory } => {
                        upserts.push((tenant.clone(), memory.memory.clone(), memory.vector.clone()))
                    }
                    Change::Delete(id) => deletes.push(*id),
                }
            }
            let apply = async {
                self.upsert(upserts).await?;
                self.delete(&deletes).await
            };
            // less than the lease, after which another process may take over
            tokio::time::timeout(LEASE / 2, apply).await.map_err(|_| NyxError::VectorStore {
                doing: "writing",
                reason: format!(
                    "the server did not apply {} changes in {} s",
                    drained.changes.len(),
                    LEASE.as_secs() / 2
                ),
            })??;
            if !drained.is_empty() {
                index.confirm_outbox(drained).await?;
            }
        }
    }

    pub(super) async fn clear(&self) -> Result<(), NyxError> {
        retried("clearing", || self.client.delete_collection(&self.collection)).await?;
        self.create().await
    }

    /// Refuses a vector of the wrong dimension.
    fn check(&self, vector: &[f32]) -> Result<(), NyxError> {
        if vector.len() == self.dimension {
            return Ok(());
        }
        let reason =
            format!("a vector has {} dimensions, expected {}", vector.len(), self.dimension);
        Err(NyxError::VectorStore { doing: "checking a vector", reason })
    }
}

fn condition(tenant: &str, filter: &MemoryFilter) -> Filter {
    let MemoryFilter { conversation, speaker, after, before } = filter;
    let mut must = vec![Condition::matches(TENANT, tenant.to_owned())];
    for (key, value) in [(CONVERSATION, conversation), (SPEAKER, speaker)] {
        must.extend(value.clone().map(|value| Condition::matches(key, value)));
    }
    if after.is_some() || before.is_some() {
        must.push(Condition::datetime_range(
            AT,
            DatetimeRange {
                gte: after.map(timestamp),
                lt: before.map(timestamp),
                ..Default::default()
            },
        ));
    }
    Filter::must(must)
}

fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: at.timestamp(),
        nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

fn hit(point: &ScoredPoint) -> Result<(Uuid, f64), NyxError> {
    let id = point.id.as_ref().and_then(|id| match id.point_id_options.as_ref()? {
        PointIdOptions::Uuid(id) => id.parse().ok(),
        PointIdOptions::Num(_) => None,
    });
    let id = id.ok_or_else(|| NyxError::VectorStore {
        doing: "reading",
        reason: format!("a point has the id {:?}, expected a UUID", point.id),
    })?;
    Ok((id, f64::from(point.score)))
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
