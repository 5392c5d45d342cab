//! The vector store in this process: one qdrant-edge shard in the data folder.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use qdrant_edge::{
    CountRequest, DEFAULT_VECTOR_NAME, Distance, EdgeConfig, EdgeShard, EdgeVectorParams, Filter, NamedQuery, OperationError, PointId,
    PointInsertOperations, PointOperations, PointStruct, QueryEnum, SearchRequest, UpdateOperation, VectorInternal, WalOptions,
    WithPayloadInterface,
};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use super::store::{IndexedMemory, MemoryStore};
use crate::NyxError;
use crate::phoebe::messages::Memory;

/// Bytes of a log segment; the default would preallocate 32 MiB.
const LOG_SEGMENT: usize = 4 << 20;

/// One shard; its calls block and take turns, on threads made for blocking.
#[derive(Clone)]
pub struct EdgeStore {
    shard: Arc<Mutex<EdgeShard>>,
    /// Held while the shard is open: who else opens it is told so, whatever the shard itself would say.
    _lock: Arc<File>,
    _folder: Option<Arc<TempDir>>,
}

fn failed(doing: &'static str) -> impl Fn(OperationError) -> NyxError {
    move |error| NyxError::VectorStore { doing, reason: error.to_string() }
}

impl EdgeStore {
    /// Opens or makes the shard in `folder`. Blocks: call it off the async threads.
    ///
    /// # Errors
    /// [`NyxError::VectorStoreBusy`] when another process has it open; else why it cannot be opened, such as vectors of another size.
    pub fn open(folder: &Path, dimension: usize) -> Result<Self, NyxError> {
        let bad = |reason: String| NyxError::VectorStore { doing: "opening", reason: format!("{}: {reason}", folder.display()) };
        std::fs::create_dir_all(folder).map_err(|error| bad(error.to_string()))?;
        let lock = File::create(folder.with_extension("lock")).map_err(|error| bad(error.to_string()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(NyxError::VectorStoreBusy { folder: folder.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(bad(error.to_string())),
        }
        let log = WalOptions { segment_capacity: LOG_SEGMENT, ..WalOptions::default() };
        let params = EdgeVectorParams::builder(dimension, Distance::Cosine).build();
        let config = EdgeConfig::builder().vector(DEFAULT_VECTOR_NAME, params).on_disk_payload(true).wal_options(log).build();
        let exists = folder.join("edge_config.json").exists();
        let shard = if exists { EdgeShard::load(folder, Some(config)) } else { EdgeShard::new(folder, config) };
        let hint = "was it made for another embedder? it is an index over phoebe: with the folder removed, Nyx builds it again";
        let shard = shard.map_err(|error| bad(format!("{error}; {hint}")))?;
        Ok(Self { shard: Arc::new(Mutex::new(shard)), _lock: Arc::new(lock), _folder: None })
    }

    /// An empty index for this process alone, gone when dropped. Blocks, as [`open`](Self::open).
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn temporary(dimension: usize) -> Result<Self, NyxError> {
        let folder = tempfile::tempdir().map_err(|error| NyxError::VectorStore { doing: "opening", reason: error.to_string() })?;
        let store = Self::open(&folder.path().join("memory"), dimension)?;
        Ok(Self { _folder: Some(Arc::new(folder)), ..store })
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&EdgeShard) -> Result<T, NyxError> + Send + 'static,
    ) -> Result<T, NyxError> {
        let shard = Arc::clone(&self.shard);
        let done = tokio::task::spawn_blocking(move || work(&shard.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.map_err(|error| NyxError::VectorStore { doing, reason: error.to_string() })?
    }
}

#[async_trait]
impl MemoryStore for EdgeStore {
    fn name(&self) -> &'static str {
        "edge"
    }

    async fn upsert(&self, memories: Vec<IndexedMemory>) -> Result<(), NyxError> {
        self.blocking("writing", move |shard| {
            let mut points = Vec::with_capacity(memories.len());
            for IndexedMemory { memory, vector } in memories {
                let payload = serde_json::to_value(&memory).map_err(|error| NyxError::Internal(error.to_string()))?;
                points.push(PointStruct::new(PointId::Uuid(memory.id), vector, payload).into());
            }
            let upsert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(points));
            shard.update(UpdateOperation::PointOperation(upsert)).map_err(failed("writing"))?;
            // the log alone outlives a kill, the flush a power loss
            shard.flush();
            Ok(())
        })
        .await
    }

    async fn search(&self, vector: Vec<f32>, k: usize, conversation: Option<String>) -> Result<Vec<(Memory, f32)>, NyxError> {
        self.blocking("searching", move |shard| {
            let filter = conversation.map(|conversation| json!({"must": [{"key": "conversation", "match": {"value": conversation}}]}));
            let filter: Option<Filter> =
                filter.map(serde_json::from_value).transpose().map_err(|error| NyxError::Internal(error.to_string()))?;
            let query = QueryEnum::Nearest(NamedQuery { query: VectorInternal::Dense(vector), using: None });
            let request = SearchRequest {
                query,
                filter,
                params: None,
                limit: k,
                offset: 0,
                with_payload: Some(WithPayloadInterface::Bool(true)),
                with_vector: None,
                score_threshold: None,
            };
            let found = shard.search(request).map_err(failed("searching"))?;
            found
                .into_iter()
                .map(|point| {
                    let payload = serde_json::to_value(point.payload).and_then(serde_json::from_value);
                    let memory = payload.map_err(|error| NyxError::VectorStore { doing: "reading", reason: error.to_string() })?;
                    Ok((memory, point.score))
                })
                .collect()
        })
        .await
    }

    async fn delete(&self, ids: Vec<Uuid>) -> Result<(), NyxError> {
        self.blocking("deleting", move |shard| {
            let ids = ids.into_iter().map(PointId::Uuid).collect();
            shard.update(UpdateOperation::PointOperation(PointOperations::DeletePoints { ids })).map_err(failed("deleting"))?;
            shard.flush();
            Ok(())
        })
        .await
    }

    async fn count(&self) -> Result<usize, NyxError> {
        self.blocking("counting", |shard| shard.count(CountRequest { filter: None, exact: true }).map_err(failed("counting"))).await
    }
}
