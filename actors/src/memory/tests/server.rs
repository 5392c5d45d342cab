//! The Qdrant client against a server that answers as it is told.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use ::qdrant_client::qdrant::collections_server::{Collections, CollectionsServer};
use ::qdrant_client::qdrant::points_server::{Points, PointsServer};
use ::qdrant_client::qdrant::vectors_config::Config as VectorsOf;
use ::qdrant_client::qdrant::*;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::phoebe::messages::Memory;

const DIMENSION: usize = 3;

/// What the server does with a call.
enum Reply {
    Answer(Box<dyn Any + Send>),
    Refuse(Status),
    /// Answers, with what the type of answer is by default, after this time.
    Late(Duration),
}

/// A call that arrived: the request and the API key that came with it.
struct Call {
    kind: &'static str,
    api_key: Option<String>,
    request: Box<dyn Any + Send>,
    at: Instant,
}

/// Replies wait by the name of the request that they are for; without one, a call gets the default answer.
#[derive(Clone, Default)]
struct Script {
    replies: Arc<Mutex<VecDeque<(&'static str, Reply)>>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

fn kind<T>() -> &'static str {
    std::any::type_name::<T>().rsplit("::").next().unwrap()
}

impl Script {
    fn will<Q>(&self, reply: Reply) -> &Self {
        self.replies.lock().unwrap().push_back((kind::<Q>(), reply));
        self
    }

    fn answer<Q>(&self, answer: impl Any + Send) -> &Self {
        self.will::<Q>(Reply::Answer(Box::new(answer)))
    }

    fn refuse<Q>(&self, code: Code) -> &Self {
        self.will::<Q>(Reply::Refuse(Status::new(code, "as the script says")))
    }

    /// The requests of this type that arrived, oldest first, and when.
    fn calls<Q: Clone + 'static>(&self) -> Vec<(Q, Instant)> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter_map(|call| Some((call.request.downcast_ref::<Q>()?.clone(), call.at))).collect()
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().iter().map(|call| call.kind).collect()
    }

    async fn take<Q: Any + Send, A: Any + Default>(&self, request: Request<Q>) -> Result<Response<A>, Status> {
        let api_key = request.metadata().get("api-key").map(|key| key.to_str().unwrap().to_owned());
        let call = Call { kind: kind::<Q>(), api_key, request: Box::new(request.into_inner()), at: Instant::now() };
        self.calls.lock().unwrap().push(call);
        let reply = {
            let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
            let place = replies.iter().position(|(of, _)| *of == kind::<Q>());
            place.and_then(|place| replies.remove(place)).map(|(_, reply)| reply)
        };
        match reply {
            Some(Reply::Answer(answer)) => Ok(Response::new(*answer.downcast::<A>().map_err(|_| Status::internal("a wrong script"))?)),
            Some(Reply::Refuse(status)) => Err(status),
            Some(Reply::Late(time)) => {
                tokio::time::sleep(time).await;
                Ok(Response::new(A::default()))
            }
            None => Ok(Response::new(A::default())),
        }
    }

    /// Starts the server; its URL.
    fn serve(&self) -> String {
        let listening = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", listening.local_addr().unwrap());
        let server = Server::builder().add_service(CollectionsServer::new(self.clone())).add_service(PointsServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(listening));
        url
    }
}

/// Every method of a service does what the script says.
macro_rules! scripted {
    ($service:ident: $($method:ident($request:ty) -> $answer:ty),* $(,)?) => {
        #[async_trait]
        impl $service for Script {
            $(async fn $method(&self, request: Request<$request>) -> Result<Response<$answer>, Status> {
                self.take(request).await
            })*
        }
    };
}

scripted!(Collections:
    get(GetCollectionInfoRequest) -> GetCollectionInfoResponse,
    list(ListCollectionsRequest) -> ListCollectionsResponse,
    create(CreateCollection) -> CollectionOperationResponse,
    update(UpdateCollection) -> CollectionOperationResponse,
    delete(DeleteCollection) -> CollectionOperationResponse,
    update_aliases(ChangeAliases) -> CollectionOperationResponse,
    list_collection_aliases(ListCollectionAliasesRequest) -> ListAliasesResponse,
    list_aliases(ListAliasesRequest) -> ListAliasesResponse,
    collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse,
    collection_exists(CollectionExistsRequest) -> CollectionExistsResponse,
    update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) -> UpdateCollectionClusterSetupResponse,
    create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse,
    delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse,
    list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse,
);

scripted!(Points:
    upsert(UpsertPoints) -> PointsOperationResponse,
    delete(DeletePoints) -> PointsOperationResponse,
    get(GetPoints) -> GetResponse,
    update_vectors(UpdatePointVectors) -> PointsOperationResponse,
    delete_vectors(DeletePointVectors) -> PointsOperationResponse,
    set_payload(SetPayloadPoints) -> PointsOperationResponse,
    overwrite_payload(SetPayloadPoints) -> PointsOperationResponse,
    delete_payload(DeletePayloadPoints) -> PointsOperationResponse,
    clear_payload(ClearPayloadPoints) -> PointsOperationResponse,
    create_field_index(CreateFieldIndexCollection) -> PointsOperationResponse,
    delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse,
    create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse,
    delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse,
    search(SearchPoints) -> SearchResponse,
    search_batch(SearchBatchPoints) -> SearchBatchResponse,
    search_groups(SearchPointGroups) -> SearchGroupsResponse,
    scroll(ScrollPoints) -> ScrollResponse,
    recommend(RecommendPoints) -> RecommendResponse,
    recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse,
    recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse,
    discover(DiscoverPoints) -> DiscoverResponse,
    discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse,
    count(CountPoints) -> CountResponse,
    update_batch(UpdateBatchPoints) -> UpdateBatchResponse,
    query(QueryPoints) -> QueryResponse,
    query_batch(QueryBatchPoints) -> QueryBatchResponse,
    query_groups(QueryPointGroups) -> QueryGroupsResponse,
    facet(FacetCounts) -> FacetResponse,
    search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse,
    search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse,
);

fn options(url: String) -> MemoryOptions {
    let (url, api_key) = (Some(url), Some("hush".into()));
    MemoryOptions { store: StoreKind::Qdrant, url, api_key, collection: "remembered".into(), timeout_ms: 400, ..MemoryOptions::default() }
}

fn exists(exists: bool) -> CollectionExistsResponse {
    CollectionExistsResponse { result: Some(CollectionExists { exists }), ..Default::default() }
}

fn collection(params: CollectionParams) -> GetCollectionInfoResponse {
    let config = Some(CollectionConfig { params: Some(params), ..Default::default() });
    GetCollectionInfoResponse { result: Some(CollectionInfo { config, ..Default::default() }), ..Default::default() }
}

fn params(size: u64, lexical: bool) -> CollectionParams {
    let dense = VectorParams { size, distance: Distance::Cosine.into(), ..Default::default() };
    let named = VectorParamsMap { map: [("dense".to_owned(), dense)].into() };
    let words = SparseVectorParams { modifier: Some(Modifier::Idf.into()), ..Default::default() };
    CollectionParams {
        vectors_config: Some(VectorsConfig { config: Some(VectorsOf::ParamsMap(named)) }),
        sparse_vectors_config: lexical.then(|| SparseVectorConfig { map: [("bm25".to_owned(), words)].into() }),
        ..Default::default()
    }
}

/// A store on a collection that is there, and its server.
async fn store() -> (QdrantStore, Script) {
    let script = Script::default();
    script.answer::<CollectionExistsRequest>(exists(true)).answer::<GetCollectionInfoRequest>(collection(params(3, true)));
    let store = QdrantStore::open(&options(script.serve()), DIMENSION).await.unwrap();
    (store, script)
}

fn one() -> Vec<IndexedMemory> {
    vec![IndexedMemory { memory: plain("The boiler was serviced."), vector: vec![1.0, 0.0, 0.0] }]
}

#[actix::test]
async fn a_collection_is_made_with_its_vectors_and_payload_indexes_and_the_key_goes_along() {
    let script = Script::default();
    script.answer::<CollectionExistsRequest>(exists(false));
    QdrantStore::open(&options(script.serve()), DIMENSION).await.unwrap();
    let (made, _) = script.calls::<CreateCollection>().remove(0);
    assert_eq!(made.collection_name, "remembered");
    let Some(VectorsOf::ParamsMap(dense)) = made.vectors_config.unwrap().config else { panic!("no named vectors") };
    let dense = &dense.map["dense"];
    assert_eq!((dense.size, dense.distance), (3, Distance::Cosine as i32));
    assert_eq!(made.sparse_vectors_config.unwrap().map["bm25"].modifier, Some(Modifier::Idf as i32));
    let fields: Vec<_> = script
        .calls::<CreateFieldIndexCollection>()
        .into_iter()
        .map(|(index, _)| (index.field_name, index.field_type, index.wait))
        .collect();
    let field = |name: &str, kind: FieldType| (name.to_owned(), Some(kind as i32), Some(true));
    let expected = [("conversation", FieldType::Keyword), ("speaker", FieldType::Keyword), ("at", FieldType::Datetime)];
    assert_eq!(fields, expected.map(|(name, kind)| field(name, kind)));
    assert!(script.calls.lock().unwrap().iter().all(|call| call.api_key.as_deref() == Some("hush")), "{:?}", script.kinds());
}

#[actix::test]
async fn a_collection_that_another_nyx_makes_at_the_same_moment_is_used() {
    let script = Script::default();
    script.answer::<CollectionExistsRequest>(exists(false)).refuse::<CreateCollection>(Code::AlreadyExists);
    script.answer::<CollectionExistsRequest>(exists(true));
    QdrantStore::open(&options(script.serve()), DIMENSION).await.unwrap();
    assert_eq!(script.calls::<CreateFieldIndexCollection>().len(), 3);
}

#[actix::test]
async fn a_collection_of_another_kind_is_refused_and_made_anew_on_request() {
    let unnamed = VectorsConfig { config: Some(VectorsOf::Params(VectorParams { size: 3, ..Default::default() })) };
    let unnamed = CollectionParams { vectors_config: Some(unnamed), ..Default::default() };
    for (params, says) in [(params(5, true), "one of 5"), (params(3, false), "the modifier None"), (unnamed, "no such vector")] {
        let script = Script::default();
        script.answer::<CollectionExistsRequest>(exists(true)).answer::<GetCollectionInfoRequest>(collection(params));
        let options = options(script.serve());
        let error = QdrantStore::open(&options, DIMENSION).await.map(drop).expect_err("another kind").to_string();
        assert!(["remembered", "a vector of 3", "nyx memories reindex", says].iter().all(|part| error.contains(part)), "{error}");
        QdrantStore::anew(&options, DIMENSION).await.unwrap();
        assert!(
            script.kinds().ends_with(&[
                "DeleteCollection",
                "CreateCollection",
                kind::<CreateFieldIndexCollection>(),
                kind::<CreateFieldIndexCollection>(),
                kind::<CreateFieldIndexCollection>()
            ]),
            "{:?}",
            script.kinds()
        );
    }
}

#[actix::test]
async fn what_was_away_is_asked_again_after_growing_pauses() {
    let (store, script) = store().await;
    for _ in 0..3 {
        script.refuse::<UpsertPoints>(Code::Unavailable);
    }
    // the client itself tries a second time at once; Nyx waits 100 ms, then 200 ms
    store.upsert(one()).await.unwrap();
    let calls = script.calls::<UpsertPoints>();
    assert_eq!(calls.len(), 4);
    assert!(calls[3].1 - calls[0].1 >= Duration::from_millis(100), "no pause");
    assert!(calls.iter().all(|(call, _)| call.points == calls[0].0.points && call.wait == Some(true)));

    for code in [Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled] {
        script.refuse::<CountPoints>(code);
        let before = script.calls::<CountPoints>().len();
        assert_eq!(store.count().await.unwrap(), 0);
        assert_eq!(script.calls::<CountPoints>().len(), before + 2, "{code:?}");
    }
    // as long as the server says
    let mut busy = Status::resource_exhausted("busy");
    busy.metadata_mut().insert("retry-after", "1".parse().unwrap());
    script.will::<DeletePoints>(Reply::Refuse(busy));
    let begun = Instant::now();
    store.delete(vec![Uuid::now_v7()]).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1) && script.calls::<DeletePoints>().len() == 2);
    // not for ever
    for _ in 0..20 {
        script.refuse::<UpsertPoints>(Code::Unavailable);
    }
    let error = store.upsert(one()).await.unwrap_err().to_string();
    assert!(error.contains("writing") && error.contains("as the script says"), "{error}");
}

#[actix::test]
async fn what_is_wrong_is_not_asked_again() {
    let (store, script) = store().await;
    for code in [Code::InvalidArgument, Code::NotFound, Code::PermissionDenied, Code::Unauthenticated] {
        let before = script.kinds().len();
        script.refuse::<QueryPoints>(code);
        let error = store.dense(vec![1.0, 0.0, 0.0], 5, &MemoryFilter::default()).await.unwrap_err();
        assert!(error.to_string().contains("searching") && error.to_string().contains("as the script says"), "{error}");
        assert_eq!((error.status(), script.kinds().len()), (503, before + 1), "{code:?}");
    }
}

#[actix::test]
async fn a_slow_answer_is_waited_for_and_one_that_is_too_slow_is_given_up() {
    let (store, script) = store().await;
    script.will::<CountPoints>(Reply::Late(Duration::from_millis(200)));
    assert_eq!((store.count().await.unwrap(), script.calls::<CountPoints>().len()), (0, 1));
    // over the 400 ms of the settings: the next try is answered
    script.will::<CountPoints>(Reply::Late(Duration::from_secs(30)));
    let begun = Instant::now();
    store.count().await.unwrap();
    assert!((400..5000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    for _ in 0..20 {
        script.will::<DeletePoints>(Reply::Late(Duration::from_secs(30)));
    }
    let begun = Instant::now();
    let error = store.delete(vec![Uuid::now_v7()]).await.unwrap_err().to_string();
    assert!(error.contains("deleting") && error.to_lowercase().contains("timeout"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[actix::test]
async fn a_server_that_is_not_there_is_named() {
    // a port that was free a moment ago
    let url = Script::default().serve().replace("127.0.0.1", "127.0.0.2");
    let error = QdrantStore::open(&options(url.clone()), DIMENSION).await.map(drop).expect_err("nobody is there");
    assert!(error.to_string().contains(&url), "{error}");
    let none = MemoryOptions { url: None, ..options(url) };
    let error = QdrantStore::open(&none, DIMENSION).await.map(drop).expect_err("no address").to_string();
    assert!(error.contains("memory.url is not set"), "{error}");
}

#[actix::test]
async fn searches_ask_for_what_they_need_and_read_what_they_get() {
    let (store, script) = store().await;
    let memory = Memory { caption: Some("a photo".into()), speaker: Some("Ana".into()), ..plain("We walked the dogs.") };
    store.upsert(vec![IndexedMemory { memory: memory.clone(), vector: vec![0.0, 1.0, 0.0] }]).await.unwrap();
    let (upsert, _) = script.calls::<UpsertPoints>().remove(0);
    let point = upsert.points.into_iter().next().unwrap();
    let words = |script: &Script| -> Vec<u32> {
        let (query, _) = script.calls::<QueryPoints>().pop().unwrap();
        match query.query.unwrap().variant.unwrap() {
            query::Variant::Nearest(VectorInput { variant: Some(vector_input::Variant::Sparse(sparse)) }) => sparse.indices,
            other => panic!("no words: {other:?}"),
        }
    };

    // what was stored, as a server gives it back
    let vector =
        VectorOutput { vector: Some(vector_output::Vector::Dense(DenseVector { data: vec![0.0, 1.0, 0.0] })), ..Default::default() };
    let named = NamedVectorsOutput { vectors: [("dense".to_owned(), vector)].into() };
    let vectors = VectorsOutput { vectors_options: Some(vectors_output::VectorsOptions::Vectors(named)) };
    let found = ScoredPoint { payload: point.payload.clone(), score: 2.5, vectors: Some(vectors), ..Default::default() };
    let answer = || QueryResponse { result: vec![found.clone(), ScoredPoint { score: 0.0, ..found.clone() }], ..Default::default() };
    let filter = MemoryFilter {
        conversation: Some("home".into()),
        speaker: Some("Ana".into()),
        after: Some(DateTime::UNIX_EPOCH),
        before: Some(DateTime::UNIX_EPOCH + chrono::TimeDelta::milliseconds(1500)),
    };
    script.answer::<QueryPoints>(answer());
    let hits = store.lexical("Who is walking a dog?", 7, &filter).await.unwrap();
    // a memory without a common word is not among them
    assert_eq!(hits, [Hit { memory: memory.clone(), score: 2.5, vector: vec![0.0, 1.0, 0.0] }]);
    let (query, _) = script.calls::<QueryPoints>().pop().unwrap();
    assert_eq!((query.using.as_deref(), query.limit), (Some("bm25"), Some(7)));
    // the same words as those of the memory, by their stems
    let Some(vectors::VectorsOptions::Vectors(stored)) = point.vectors.unwrap().vectors_options else { panic!("no named vectors") };
    let Some(vector::Vector::Sparse(stored)) = stored.vectors["bm25"].vector.clone() else { panic!("no words") };
    assert!(words(&script).iter().all(|word| stored.indices.contains(word)) && words(&script).len() == 2, "{stored:?}");
    let must: Vec<FieldCondition> = query
        .filter
        .unwrap()
        .must
        .into_iter()
        .map(|condition| match condition.condition_one_of {
            Some(condition::ConditionOneOf::Field(field)) => field,
            other => panic!("no field: {other:?}"),
        })
        .collect();
    assert_eq!(must.iter().map(|field| field.key.as_str()).collect::<Vec<_>>(), ["conversation", "speaker", "at"]);
    let range = must[2].datetime_range.unwrap();
    let moment = |moment: Option<Timestamp>| moment.map(|moment| (moment.seconds, moment.nanos));
    assert_eq!((moment(range.gte), moment(range.lt), range.gt, range.lte), (Some((0, 0)), Some((1, 500_000_000)), None, None));

    script.answer::<QueryPoints>(answer());
    assert_eq!(store.dense(vec![0.0, 1.0, 0.0], 7, &MemoryFilter::default()).await.unwrap().len(), 2);
    let (query, _) = script.calls::<QueryPoints>().pop().unwrap();
    assert!(query.using.as_deref() == Some("dense") && query.filter.is_none());
    // stop words alone: nothing is asked
    let before = script.kinds().len();
    assert_eq!(store.lexical("who was the", 7, &filter).await.unwrap(), []);
    assert_eq!(script.kinds().len(), before);
    // an answer that makes no sense is an error, not a panic
    script.answer::<QueryPoints>(QueryResponse { result: vec![ScoredPoint::default()], ..Default::default() });
    let error = store.dense(vec![0.0, 1.0, 0.0], 7, &MemoryFilter::default()).await.unwrap_err().to_string();
    assert!(error.contains("reading"), "{error}");
}
