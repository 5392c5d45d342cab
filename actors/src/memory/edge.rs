//! The vector store in this process: one qdrant-edge shard in the data folder.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use qdrant_edge::{
    CountRequest, CreateIndex, Distance, EdgeConfig, EdgeShard, EdgeSparseVectorParams, EdgeVectorParams, FieldIndexOperations, Filter,
    JsonPath, Modifier, NamedQuery, OperationError, PayloadFieldSchema, PayloadSchemaType, PointId, PointInsertOperations, PointOperations,
    PointStruct, PointStructPersisted, QueryEnum, Record, ScrollRequest, SearchRequest, UpdateOperation, Vector, VectorInternal,
    VectorStructInternal, VectorStructPersisted, Vectors, WalOptions, WithPayloadInterface, WithVector,
};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use super::lexical::Lexicon;
use super::store::{
    AT, CONVERSATION, DENSE, Hit, IndexedMemory, LEXICAL, MemoryFilter, MemoryStore, SPEAKER, check_dimension, memory_of, moment, payload,
};
use crate::NyxError;

/// Bytes of a log segment; the default would preallocate 32 MiB.
const LOG_SEGMENT: usize = 4 << 20;
/// File in the shard's folder that says how its points were made.
const RECIPE: &str = "nyx-index";
/// A file that every shard has.
const SHARD_CONFIG: &str = "edge_config.json";
/// File in the shard's folder that says that points were deleted since its files were made.
const SCRUB: &str = "nyx-deleted";
/// Extension of the folder that a scrubbed shard is made in.
const FRESH: &str = "new";
const SCRUBBED_AT_ONCE: usize = 256;
/// Points of a shard that is scrubbed with each deletion.
const SCRUBBED_NOW: usize = 1000;

/// One shard; its calls block and take turns, on threads made for blocking.
#[derive(Clone)]
pub struct EdgeStore {
    shard: Arc<Mutex<Shard>>,
    lexicon: Arc<Lexicon>,
    dimension: usize,
    /// Held while the shard is open: who else opens it is told so, whatever the shard itself would say.
    _lock: Arc<File>,
    _temporary: Option<Arc<TempDir>>,
}

/// The shard and where it is; without one between a clearing that failed and the next.
struct Shard {
    folder: PathBuf,
    dimension: usize,
    open: Option<EdgeShard>,
}

fn failed(doing: &'static str) -> impl Fn(OperationError) -> NyxError {
    move |error| NyxError::VectorStore { doing, reason: error.to_string() }
}

impl Shard {
    /// How points are made: an index with another recipe is of no use.
    fn recipe(dimension: usize) -> String {
        format!("points 2, {DENSE} {dimension}, {}\n", Lexicon::recipe())
    }

    fn bad(&self) -> impl Fn(String) -> NyxError + use<> {
        let folder = self.folder.display().to_string();
        move |reason| NyxError::VectorStore { doing: "opening", reason: format!("{folder}: {reason}") }
    }

    /// Opens what is there; what another version or another embedder made is removed first: it is an index, and phoebe has it all.
    fn open(folder: &Path, dimension: usize) -> Result<Self, NyxError> {
        let mut shard = Self { folder: folder.to_owned(), dimension, open: None };
        // what a crash left of a scrubbing
        remove(&folder.with_extension(FRESH)).map_err(|error| shard.bad()(error.to_string()))?;
        if EdgeStore::is_outdated(folder, dimension) {
            tracing::warn!(folder = %folder.display(), "the index was made by another version or embedder: it is built again from phoebe");
            shard.clear()?;
            return Ok(shard);
        }
        if !folder.join(SHARD_CONFIG).exists() {
            shard.create()?;
            return Ok(shard);
        }
        let hint = "it is an index over phoebe: `nyx memories reindex` builds it again";
        let opened = EdgeShard::load(folder, Some(shard.config())).map_err(|error| shard.bad()(format!("{error}; {hint}")))?;
        shard.open = Some(opened);
        Ok(shard)
    }

    fn config(&self) -> EdgeConfig {
        let log = WalOptions { segment_capacity: LOG_SEGMENT, ..WalOptions::default() };
        let dense = EdgeVectorParams::builder(self.dimension, Distance::Cosine).build();
        let lexical = EdgeSparseVectorParams::builder().modifier(Modifier::Idf).build();
        EdgeConfig::builder().vector(DENSE, dense).sparse_vector(LEXICAL, lexical).on_disk_payload(true).wal_options(log).build()
    }

    /// Makes an empty one. The recipe is written last: one that was cut short is made again.
    fn create(&mut self) -> Result<(), NyxError> {
        let bad = self.bad();
        std::fs::create_dir_all(&self.folder).map_err(|error| bad(error.to_string()))?;
        let shard = EdgeShard::new(&self.folder, self.config()).map_err(|error| bad(error.to_string()))?;
        let fields = [(CONVERSATION, PayloadSchemaType::Keyword), (SPEAKER, PayloadSchemaType::Keyword), (AT, PayloadSchemaType::Datetime)];
        for (field, kind) in fields {
            let field_name: JsonPath = field.parse().map_err(|()| NyxError::Internal(format!("{field:?} is no payload field")))?;
            let index = CreateIndex { field_name, field_schema: Some(PayloadFieldSchema::FieldType(kind)) };
            shard.update(UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(index))).map_err(failed("creating"))?;
        }
        shard.flush();
        std::fs::write(self.folder.join(RECIPE), Self::recipe(self.dimension)).map_err(|error| bad(error.to_string()))?;
        self.open = Some(shard);
        Ok(())
    }

    /// Removes its files, and makes an empty one.
    fn clear(&mut self) -> Result<(), NyxError> {
        // closed before its files go
        drop(self.open.take());
        remove(&self.folder).map_err(|error| self.bad()(error.to_string()))?;
        self.create()
    }

    fn get(&self) -> Result<&EdgeShard, NyxError> {
        self.open.as_ref().ok_or_else(|| self.bad()("an earlier failure closed it: start Nyx again".into()))
    }

    /// Durable when it returns.
    fn delete(&self, ids: Vec<Uuid>) -> Result<(), NyxError> {
        let ids = ids.into_iter().map(PointId::Uuid).collect();
        // first, so that a crash after the deletion does not forget to scrub
        std::fs::write(self.folder.join(SCRUB), "").map_err(|error| self.bad()(error.to_string()))?;
        let shard = self.get()?;
        shard.update(UpdateOperation::PointOperation(PointOperations::DeletePoints { ids })).map_err(failed("deleting"))?;
        shard.flush();
        Ok(())
    }

    fn count(&self) -> Result<usize, NyxError> {
        self.get()?.count(CountRequest { filter: None, exact: true }).map_err(failed("counting"))
    }

    /// Deleted points stay in the shard's files, and all that was ever written in its log: the living ones move into new files.
    fn scrub(&mut self) -> Result<(), NyxError> {
        if !self.folder.join(SCRUB).exists() {
            return Ok(());
        }
        let bad = self.bad();
        let mut fresh = Self { folder: self.folder.with_extension(FRESH), dimension: self.dimension, open: None };
        remove(&fresh.folder).map_err(|error| bad(error.to_string()))?;
        fresh.create()?;
        let mut offset = None;
        loop {
            let page = ScrollRequest {
                offset,
                limit: Some(SCRUBBED_AT_ONCE),
                with_payload: Some(WithPayloadInterface::Bool(true)),
                with_vector: WithVector::Bool(true),
                ..ScrollRequest::default()
            };
            let (records, next) = self.get()?.scroll(page).map_err(failed("scrubbing"))?;
            let points = records.into_iter().map(|Record { id, payload, vector, .. }| {
                let vector = vector.map_or(VectorStructPersisted::Named(HashMap::new()), VectorStructPersisted::from);
                PointStructPersisted { id, vector, payload }
            });
            let upsert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(points.collect()));
            fresh.get()?.update(UpdateOperation::PointOperation(upsert)).map_err(failed("scrubbing"))?;
            offset = next;
            if offset.is_none() {
                break;
            }
        }
        // dropping a shard writes it out
        drop(fresh.open.take());
        drop(self.open.take());
        // a crash between the two leaves no index, and phoebe has everything
        remove(&self.folder).and_then(|()| std::fs::rename(&fresh.folder, &self.folder)).map_err(|error| bad(error.to_string()))?;
        self.open = Some(EdgeShard::load(&self.folder, Some(self.config())).map_err(|error| bad(error.to_string()))?);
        Ok(())
    }
}

/// Removes a folder, if it is there.
fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// In qdrant's own JSON, which is shorter than its types.
fn condition(filter: &MemoryFilter) -> Result<Option<Filter>, NyxError> {
    let MemoryFilter { conversation, speaker, after, before } = filter;
    let mut must = Vec::new();
    for (key, value) in [(CONVERSATION, conversation), (SPEAKER, speaker)] {
        must.extend(value.as_ref().map(|value| json!({"key": key, "match": {"value": value}})));
    }
    if after.is_some() || before.is_some() {
        must.push(json!({"key": AT, "range": {"gte": after.map(moment), "lt": before.map(moment)}}));
    }
    let filter = (!must.is_empty()).then(|| serde_json::from_value(json!({ "must": must })));
    filter.transpose().map_err(|error| NyxError::Internal(error.to_string()))
}

impl EdgeStore {
    /// Opens or makes the shard in `folder`. Blocks: call it off the async threads. A shard that another version, or another embedder, made
    /// is replaced by an empty one: what it lacks is put back from phoebe.
    ///
    /// # Errors
    /// [`NyxError::VectorStoreBusy`] when another process has it open; else why it cannot be opened.
    pub fn open(folder: &Path, dimension: usize) -> Result<Self, NyxError> {
        Self::locked(folder, dimension, Shard::open)
    }

    /// An empty shard in `folder`, whatever was there, also one that cannot be opened. Blocks, as [`open`](Self::open).
    ///
    /// # Errors
    /// [`NyxError::VectorStoreBusy`] when another process has it open; else why it cannot be made.
    pub fn anew(folder: &Path, dimension: usize) -> Result<Self, NyxError> {
        Self::locked(folder, dimension, |folder, dimension| {
            let mut shard = Shard { folder: folder.to_owned(), dimension, open: None };
            shard.clear()?;
            Ok(shard)
        })
    }

    /// Whether the shard in `folder` is of another version or embedder, so that [`open`](Self::open) puts an empty one in its place.
    pub fn is_outdated(folder: &Path, dimension: usize) -> bool {
        let current = || std::fs::read_to_string(folder.join(RECIPE)).is_ok_and(|recipe| recipe == Shard::recipe(dimension));
        folder.join(SHARD_CONFIG).exists() && !current()
    }

    fn locked(folder: &Path, dimension: usize, open: impl FnOnce(&Path, usize) -> Result<Shard, NyxError>) -> Result<Self, NyxError> {
        let bad = |reason: String| NyxError::VectorStore { doing: "opening", reason: format!("{}: {reason}", folder.display()) };
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent).map_err(|error| bad(error.to_string()))?;
        }
        let lock = File::create(folder.with_extension("lock")).map_err(|error| bad(error.to_string()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(NyxError::VectorStoreBusy { folder: folder.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(bad(error.to_string())),
        }
        let (shard, lexicon) = (open(folder, dimension)?, Lexicon::new()?);
        Ok(Self { shard: Arc::new(Mutex::new(shard)), lexicon: Arc::new(lexicon), dimension, _lock: Arc::new(lock), _temporary: None })
    }

    /// An empty index for this process alone, gone when dropped. Blocks, as [`open`](Self::open).
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn temporary(dimension: usize) -> Result<Self, NyxError> {
        let folder = tempfile::tempdir().map_err(|error| NyxError::VectorStore { doing: "opening", reason: error.to_string() })?;
        let store = Self::open(&folder.path().join("memory"), dimension)?;
        Ok(Self { _temporary: Some(Arc::new(folder)), ..store })
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut Shard) -> Result<T, NyxError> + Send + 'static,
    ) -> Result<T, NyxError> {
        let shard = Arc::clone(&self.shard);
        let done = tokio::task::spawn_blocking(move || work(&mut shard.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.map_err(|error| NyxError::VectorStore { doing, reason: error.to_string() })?
    }

    async fn search(&self, query: VectorInternal, using: &str, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError> {
        let request = SearchRequest {
            query: QueryEnum::Nearest(NamedQuery { query, using: Some(using.into()) }),
            filter: condition(filter)?,
            params: None,
            limit: k,
            offset: 0,
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: Some(WithVector::Selector(vec![DENSE.into()])),
            score_threshold: None,
        };
        self.blocking("searching", move |shard| {
            let found = shard.get()?.search(request).map_err(failed("searching"))?;
            found
                .into_iter()
                .map(|point| {
                    let payload = serde_json::to_value(point.payload).map_err(|error| NyxError::Internal(error.to_string()))?;
                    Ok(Hit { memory: memory_of(payload)?, score: point.score, vector: dense_of(point.vector)? })
                })
                .collect()
        })
        .await
    }
}

fn dense_of(vectors: Option<VectorStructInternal>) -> Result<Vec<f32>, NyxError> {
    match vectors {
        Some(VectorStructInternal::Named(mut named)) => match named.remove(DENSE) {
            Some(VectorInternal::Dense(vector)) => Ok(vector),
            _ => Err(NyxError::VectorStore { doing: "reading", reason: format!("a point has no vector {DENSE:?}") }),
        },
        _ => Err(NyxError::VectorStore { doing: "reading", reason: "a point has no named vectors".into() }),
    }
}

#[async_trait]
impl MemoryStore for EdgeStore {
    fn name(&self) -> &'static str {
        "edge"
    }

    async fn upsert(&self, memories: Vec<IndexedMemory>) -> Result<(), NyxError> {
        let (lexicon, dimension) = (Arc::clone(&self.lexicon), self.dimension);
        self.blocking("writing", move |shard| {
            let mut points = Vec::with_capacity(memories.len());
            for IndexedMemory { memory, vector } in memories {
                check_dimension(&vector, dimension)?;
                let vectors = [(DENSE, Vector::new_dense(vector)), (LEXICAL, lexicon.memory(&memory).into())];
                let point = PointStruct::new(PointId::Uuid(memory.id), Vectors::new_named(vectors), payload(&memory)?);
                points.push(point.into());
            }
            let upsert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(points));
            let shard = shard.get()?;
            shard.update(UpdateOperation::PointOperation(upsert)).map_err(failed("writing"))?;
            // the log alone outlives a kill, the flush a power loss
            shard.flush();
            Ok(())
        })
        .await
    }

    async fn dense(&self, vector: Vec<f32>, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError> {
        check_dimension(&vector, self.dimension)?;
        self.search(VectorInternal::Dense(vector), DENSE, k, filter).await
    }

    async fn lexical(&self, text: &str, k: usize, filter: &MemoryFilter) -> Result<Vec<Hit>, NyxError> {
        let words = self.lexicon.query(text);
        if words.indices.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.search(VectorInternal::Sparse(words), LEXICAL, k, filter).await?;
        found.retain(|hit| hit.score > 0.0);
        Ok(found)
    }

    async fn delete(&self, ids: Vec<Uuid>) -> Result<(), NyxError> {
        self.blocking("deleting", move |shard| {
            shard.delete(ids)?;
            // a large one is scrubbed by and by, once for many deletions
            if shard.count()? <= SCRUBBED_NOW { shard.scrub() } else { Ok(()) }
        })
        .await
    }

    async fn clear(&self) -> Result<(), NyxError> {
        self.blocking("clearing", Shard::clear).await
    }

    async fn scrub(&self) -> Result<(), NyxError> {
        self.blocking("scrubbing", Shard::scrub).await
    }

    async fn count(&self) -> Result<usize, NyxError> {
        self.blocking("counting", |shard| shard.count()).await
    }
}
