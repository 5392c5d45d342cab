//! Tests of the Qdrant client and of the outbox against a scripted server.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::qdrant_client::qdrant::collections_server::{Collections, CollectionsServer};
use ::qdrant_client::qdrant::points_server::{Points, PointsServer};
use ::qdrant_client::qdrant::vectors_config::Config as VectorsOf;
use ::qdrant_client::qdrant::*;
use async_trait::async_trait;
use chrono::DateTime;
use nyx_domain::{ErrorClass, Memory, MemoryFilter};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use super::*;
use crate::memory::messages::{Forget, Forgotten};
use crate::phoebe::search::{LOCAL_TENANT, MemoryIndex};

const DIMENSION: usize = 3;

/// How the server responds to a call.
enum Reply {
    Answer(Box<dyn Any + Send>),
    Refuse(Status),
    /// Sends the default response after this delay.
    Late(Duration),
}

/// A received call: the request and its API key.
struct Call {
    kind: &'static str,
    api_key: Option<String>,
    request: Box<dyn Any + Send>,
    at: Instant,
}

/// Replies are queued by request type; a call without a queued reply gets the default response.
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

    /// The received requests of this type with their times of arrival, oldest first.
    fn calls<Q: Clone + 'static>(&self) -> Vec<(Q, Instant)> {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .filter_map(|call| Some((call.request.downcast_ref::<Q>()?.clone(), call.at)))
            .collect()
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().iter().map(|call| call.kind).collect()
    }

    async fn take<Q: Any + Send, A: Any + Default>(
        &self,
        request: Request<Q>,
    ) -> Result<Response<A>, Status> {
        let api_key = request.metadata().get("api-key").map(|key| key.to_str().unwrap().to_owned());
        let call = Call {
            kind: kind::<Q>(),
            api_key,
            request: Box::new(request.into_inner()),
            at: Instant::now(),
        };
        self.calls.lock().unwrap().push(call);
        let reply = {
            let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
            let place = replies.iter().position(|(of, _)| *of == kind::<Q>());
            place.and_then(|place| replies.remove(place)).map(|(_, reply)| reply)
        };
        match reply {
            Some(Reply::Answer(answer)) => Ok(Response::new(
                *answer.downcast::<A>().map_err(|_| Status::internal("a wrong script"))?,
            )),
            Some(Reply::Refuse(status)) => Err(status),
            Some(Reply::Late(time)) => {
                tokio::time::sleep(time).await;
                Ok(Response::new(A::default()))
            }
            None => Ok(Response::new(A::default())),
        }
    }

    /// Starts the server; returns its URL.
    fn serve(&self) -> String {
        let listening = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", listening.local_addr().unwrap());
        let server = Server::builder()
            .add_service(CollectionsServer::new(self.clone()))
            .add_service(PointsServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(listening));
        url
    }
}

/// Every method of a service follows the script.
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
    let (url, api_key) = (Some(url), Some("hush".to_owned().into()));
    MemoryOptions {
        store: StoreKind::Qdrant,
        url,
        api_key,
        collection: "remembered".into(),
        timeout_ms: 400,
        ..MemoryOptions::default()
    }
}

fn exists(exists: bool) -> CollectionExistsResponse {
    CollectionExistsResponse { result: Some(CollectionExists { exists }), ..Default::default() }
}

fn collection(params: CollectionParams) -> GetCollectionInfoResponse {
    let config = Some(CollectionConfig { params: Some(params), ..Default::default() });
    GetCollectionInfoResponse {
        result: Some(CollectionInfo { config, ..Default::default() }),
        ..Default::default()
    }
}

fn params(size: u64) -> CollectionParams {
    let dense = VectorParams { size, distance: Distance::Cosine.into(), ..Default::default() };
    let named = VectorParamsMap { map: [("dense".to_owned(), dense)].into() };
    CollectionParams {
        vectors_config: Some(VectorsConfig { config: Some(VectorsOf::ParamsMap(named)) }),
        ..Default::default()
    }
}

fn client(options: &MemoryOptions) -> QdrantIndex {
    QdrantIndex::connect(options, DIMENSION).unwrap()
}

/// A client of an existing collection, and its scripted server.
async fn store() -> (QdrantIndex, Script) {
    let script = Script::default();
    script
        .answer::<CollectionExistsRequest>(exists(true))
        .answer::<GetCollectionInfoRequest>(collection(params(3)));
    let store = client(&options(script.serve()));
    store.prepare().await.unwrap();
    (store, script)
}

fn memory(id: Uuid, text: &str) -> Memory {
    let at = DateTime::UNIX_EPOCH;
    Memory {
        id,
        text: text.into(),
        speaker: None,
        when: Some(at),
        conversation: Some("home".into()),
        stored_at: at,
        caption: None,
    }
}

fn point(id: Uuid) -> (String, Memory, Vec<f32>) {
    ("local".into(), memory(id, "a boat"), vec![0.0, 1.0, 0.0])
}

fn one() -> Vec<(String, Memory, Vec<f32>)> {
    vec![point(Uuid::from_u128(1))]
}

#[actix::test]
async fn a_collection_is_made_with_its_vectors_and_payload_indexes_and_the_key_goes_along() {
    let script = Script::default();
    script.answer::<CollectionExistsRequest>(exists(false));
    client(&options(script.serve())).prepare().await.unwrap();
    let (made, _) = script.calls::<CreateCollection>().remove(0);
    assert_eq!(made.collection_name, "remembered");
    let Some(VectorsOf::ParamsMap(dense)) = made.vectors_config.unwrap().config else {
        panic!("no named vectors")
    };
    let dense = &dense.map["dense"];
    assert_eq!((dense.size, dense.distance), (3, Distance::Cosine as i32));
    assert_eq!(made.sparse_vectors_config, None);
    let fields: Vec<_> = script
        .calls::<CreateFieldIndexCollection>()
        .into_iter()
        .map(|(index, _)| (index.field_name, index.field_type, index.wait))
        .collect();
    let field = |name: &str, kind: FieldType| (name.to_owned(), Some(kind as i32), Some(true));
    let keyword = FieldType::Keyword;
    let expected = [
        ("tenant", keyword),
        ("conversation", keyword),
        ("speaker", keyword),
        ("at", FieldType::Datetime),
    ];
    assert_eq!(fields, expected.map(|(name, kind)| field(name, kind)));
    assert!(
        script.calls.lock().unwrap().iter().all(|call| call.api_key.as_deref() == Some("hush")),
        "{:?}",
        script.kinds()
    );
}

#[actix::test]
async fn a_collection_that_another_nyx_makes_at_the_same_moment_is_used() {
    let script = Script::default();
    script
        .answer::<CollectionExistsRequest>(exists(false))
        .refuse::<CreateCollection>(Code::AlreadyExists);
    script.answer::<CollectionExistsRequest>(exists(true));
    client(&options(script.serve())).prepare().await.unwrap();
    assert_eq!(script.calls::<CreateFieldIndexCollection>().len(), 4);
}

#[actix::test]
async fn a_collection_of_another_kind_is_refused_and_made_anew_on_request() {
    let unnamed = VectorsConfig {
        config: Some(VectorsOf::Params(VectorParams { size: 3, ..Default::default() })),
    };
    let unnamed = CollectionParams { vectors_config: Some(unnamed), ..Default::default() };
    for (params, says) in [(params(5), "one of 5"), (unnamed, "no such vector")] {
        let script = Script::default();
        script
            .answer::<CollectionExistsRequest>(exists(true))
            .answer::<GetCollectionInfoRequest>(collection(params));
        let store = client(&options(script.serve()));
        let error = store.prepare().await.expect_err("another kind").to_string();
        assert!(
            ["remembered", "expected one of 3", "nyx memories reindex", says]
                .iter()
                .all(|part| error.contains(part)),
            "{error}"
        );
        store.clear().await.unwrap();
        let made = ["DeleteCollection", "CreateCollection"]
            .into_iter()
            .chain([kind::<CreateFieldIndexCollection>(); 4]);
        assert!(script.kinds().ends_with(&made.collect::<Vec<_>>()), "{:?}", script.kinds());
    }
}

#[actix::test]
async fn what_was_away_is_asked_again_after_growing_pauses() {
    let (store, script) = store().await;
    for _ in 0..3 {
        script.refuse::<UpsertPoints>(Code::Unavailable);
    }
    // the client itself retries once immediately; Nyx waits 100 ms, then 200 ms
    store.upsert(one()).await.unwrap();
    let calls = script.calls::<UpsertPoints>();
    assert_eq!(calls.len(), 4);
    assert!(calls[3].1 - calls[0].1 >= Duration::from_millis(100), "no pause");
    assert!(
        calls.iter().all(|(call, _)| call.points == calls[0].0.points && call.wait == Some(true))
    );

    for code in [Code::DeadlineExceeded, Code::ResourceExhausted, Code::Cancelled] {
        script.refuse::<CountPoints>(code);
        let before = script.calls::<CountPoints>().len();
        assert_eq!(store.count().await.unwrap(), 0);
        assert_eq!(script.calls::<CountPoints>().len(), before + 2, "{code:?}");
    }
    // waits as long as the server requests
    let mut busy = Status::resource_exhausted("busy");
    busy.metadata_mut().insert("retry-after", "1".parse().unwrap());
    script.will::<DeletePoints>(Reply::Refuse(busy));
    let begun = Instant::now();
    store.delete(&[Uuid::now_v7()]).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1) && script.calls::<DeletePoints>().len() == 2);
    // the number of attempts is limited
    for _ in 0..20 {
        script.refuse::<UpsertPoints>(Code::Unavailable);
    }
    let error = store.upsert(one()).await.unwrap_err().to_string();
    assert!(error.contains("writing") && error.contains("as the script says"), "{error}");
}

#[actix::test]
async fn what_is_wrong_is_not_asked_again() {
    let (store, script) = store().await;
    for code in
        [Code::InvalidArgument, Code::NotFound, Code::PermissionDenied, Code::Unauthenticated]
    {
        let before = script.kinds().len();
        script.refuse::<QueryPoints>(code);
        let error =
            store.dense("local", &[1.0, 0.0, 0.0], 5, &MemoryFilter::default()).await.unwrap_err();
        assert!(
            error.to_string().contains("searching")
                && error.to_string().contains("as the script says"),
            "{error}"
        );
        assert_eq!(
            (error.class(), script.kinds().len()),
            (ErrorClass::Unavailable, before + 1),
            "{code:?}"
        );
    }
}

#[actix::test]
async fn a_slow_answer_is_waited_for_and_one_that_is_too_slow_is_given_up() {
    let (store, script) = store().await;
    script.will::<CountPoints>(Reply::Late(Duration::from_millis(200)));
    assert_eq!((store.count().await.unwrap(), script.calls::<CountPoints>().len()), (0, 1));
    // longer than the configured 400 ms: the next attempt succeeds
    script.will::<CountPoints>(Reply::Late(Duration::from_secs(30)));
    let begun = Instant::now();
    store.count().await.unwrap();
    assert!((400..5000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    for _ in 0..20 {
        script.will::<DeletePoints>(Reply::Late(Duration::from_secs(30)));
    }
    let begun = Instant::now();
    let error = store.delete(&[Uuid::now_v7()]).await.unwrap_err().to_string();
    assert!(error.contains("deleting") && error.to_lowercase().contains("timeout"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[actix::test]
async fn a_server_that_is_not_there_is_named() {
    // a port that is closed on this address
    let url = Script::default().serve().replace("127.0.0.1", "127.0.0.2");
    let error = client(&options(url.clone())).prepare().await.expect_err("nobody is there");
    assert!(error.to_string().contains(&url), "{error}");
    let none = MemoryOptions { url: None, ..options(url) };
    let error =
        QdrantIndex::connect(&none, DIMENSION).map(drop).expect_err("no address").to_string();
    assert!(error.contains("memory.url is not set"), "{error}");
}

fn found(id: Uuid, score: f32) -> ScoredPoint {
    ScoredPoint { id: Some(id.to_string().into()), score, ..Default::default() }
}

#[actix::test]
async fn searches_ask_for_what_they_need_and_read_what_they_get() {
    let (store, script) = store().await;
    let id = Uuid::now_v7();
    store.upsert(vec![point(id)]).await.unwrap();
    let (upsert, _) = script.calls::<UpsertPoints>().remove(0);
    // the memory's text is not sent to the server
    let mut fields: Vec<&String> = upsert.points[0].payload.keys().collect();
    fields.sort();
    assert_eq!(fields, ["at", "conversation", "speaker", "tenant"]);

    let filter = MemoryFilter {
        conversation: Some("home".into()),
        speaker: Some("Ana".into()),
        after: Some(DateTime::UNIX_EPOCH),
        before: Some(DateTime::UNIX_EPOCH + chrono::TimeDelta::milliseconds(1500)),
    };
    script.answer::<QueryPoints>(QueryResponse {
        result: vec![found(id, 0.5)],
        ..Default::default()
    });
    let near = store.dense("local", &[0.0, 1.0, 0.0], 7, &filter).await.unwrap();
    assert_eq!(near, [(id, 0.5)]);
    let (query, _) = script.calls::<QueryPoints>().pop().unwrap();
    assert_eq!((query.using.as_deref(), query.limit), (Some("dense"), Some(7)));
    let must = |query: QueryPoints| -> Vec<FieldCondition> {
        let must = query.filter.unwrap().must.into_iter().map(|condition| {
            match condition.condition_one_of {
                Some(condition::ConditionOneOf::Field(field)) => field,
                other => panic!("no field: {other:?}"),
            }
        });
        must.collect()
    };
    let asked = must(query);
    assert_eq!(
        asked.iter().map(|field| field.key.as_str()).collect::<Vec<_>>(),
        ["tenant", "conversation", "speaker", "at"]
    );
    let range = asked[3].datetime_range.unwrap();
    let moment = |moment: Option<Timestamp>| moment.map(|moment| (moment.seconds, moment.nanos));
    assert_eq!(
        (moment(range.gte), moment(range.lt), range.gt, range.lte),
        (Some((0, 0)), Some((1, 500_000_000)), None, None)
    );

    // the tenant is a condition even without a filter
    store.dense("local", &[0.0, 1.0, 0.0], 7, &MemoryFilter::default()).await.unwrap();
    assert_eq!(must(script.calls::<QueryPoints>().pop().unwrap().0).len(), 1);
    // an invalid response is an error, not a panic
    script.answer::<QueryPoints>(QueryResponse {
        result: vec![ScoredPoint::default()],
        ..Default::default()
    });
    let error = store
        .dense("local", &[0.0, 1.0, 0.0], 7, &MemoryFilter::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("reading"), "{error}");
}

fn unit(first: f32) -> Vec<f32> {
    vec![first, (1.0 - first * first).sqrt(), 0.0]
}

/// The memory actor's parts with phoebe's database in `folder`, whose outbox goes to the scripted
/// server.
async fn fed(folder: &Path, script: &Script) -> (MemoryService, Arc<QdrantIndex>) {
    let phoebe = PhoebeStore::connect(&PhoebeOptions::default(), folder).await.unwrap();
    let embedder = EmbedderId { sha256: "tiny".into(), dimension: DIMENSION };
    let index = MemoryIndex::open(phoebe, &embedder, true).await.unwrap();
    let server = Arc::new(client(&options(script.serve())));
    // the embedder is not used
    let (embedding, recall) = (embedding(), RecallOptions::default());
    (
        MemoryService {
            embedding,
            index,
            server: Some(Arc::clone(&server)),
            retention_days: None,
            recall,
        },
        server,
    )
}

fn ids(points: &[PointId]) -> Vec<String> {
    let id = |point: &PointId| match &point.point_id_options {
        Some(point_id::PointIdOptions::Uuid(id)) => id.clone(),
        other => panic!("no UUID: {other:?}"),
    };
    points.iter().map(id).collect()
}

fn deleted(script: &Script) -> Vec<String> {
    let selected = script.calls::<DeletePoints>().into_iter().flat_map(|(call, _)| {
        match call.points.unwrap().points_selector_one_of.unwrap() {
            points_selector::PointsSelectorOneOf::Points(list) => ids(&list.ids),
            other => panic!("no ids: {other:?}"),
        }
    });
    selected.collect()
}

fn upserted(script: &Script) -> Vec<String> {
    let points = script.calls::<UpsertPoints>().into_iter().flat_map(|(call, _)| call.points);
    ids(&points.map(|point| point.id.unwrap()).collect::<Vec<_>>())
}

#[actix::test]
async fn the_outbox_brings_a_server_to_what_phoebe_holds_also_after_it_was_away() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let (parts, server) = fed(folder.path(), &script).await;
    let [kept, gone] = ["kept", "gone"].map(|text| memory(Uuid::now_v7(), text));
    let batch = [&kept, &gone].map(|memory| (memory.clone(), unit(0.5)));
    parts.index.insert(LOCAL_TENANT, batch.to_vec()).await.unwrap();
    assert_eq!(parts.index.outbox_len().await.unwrap(), 2);
    // the server is unreachable: all changes wait, and a deletion is not complete
    for _ in 0..60 {
        script.refuse::<UpsertPoints>(Code::Unavailable).refuse::<DeletePoints>(Code::Unavailable);
    }
    assert!(server.drain(&parts.index).await.is_err());
    let forgotten = parts
        .forget(Forget { context: context(), selector: MemorySelector::Id(gone.id) })
        .await
        .unwrap();
    assert_eq!(forgotten, Forgotten { forgotten: 1, erased: false });
    assert_eq!(parts.index.outbox_len().await.unwrap(), 3);
    // another process reaches the server
    let back = Script::default();
    let (later, server) = fed(folder.path(), &back).await;
    assert!(later.index.lease_outbox("a third").await.unwrap());
    assert_eq!(server.drain(&later.index).await.unwrap(), 3, "a third process is at it");
    later.index.release_outbox("a third").await.unwrap();
    assert_eq!(server.drain(&later.index).await.unwrap(), 0);
    assert_eq!(
        (upserted(&back), deleted(&back)),
        (vec![kept.id.to_string()], vec![gone.id.to_string()])
    );
    assert_eq!(later.index.outbox_len().await.unwrap(), 0);
    // with an empty outbox, a deletion is applied at once
    let forgotten =
        later.forget(Forget { context: context(), selector: MemorySelector::All }).await.unwrap();
    assert_eq!((forgotten, deleted(&back).len()), (Forgotten { forgotten: 1, erased: true }, 2));
}

#[actix::test]
async fn what_fails_on_the_server_stays_in_the_outbox_and_is_applied_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let (parts, server) = fed(folder.path(), &script).await;
    let kept = memory(Uuid::now_v7(), "applied twice");
    parts.index.insert(LOCAL_TENANT, vec![(kept.clone(), unit(0.5))]).await.unwrap();
    script.refuse::<UpsertPoints>(Code::InvalidArgument);
    assert!(server.drain(&parts.index).await.is_err());
    assert_eq!(server.drain(&parts.index).await.unwrap(), 0);
    assert_eq!(upserted(&script), [kept.id.to_string(), kept.id.to_string()]);
    // nothing is left to apply
    assert_eq!(server.drain(&parts.index).await.unwrap(), 0);
    assert_eq!(upserted(&script).len(), 2);
}

#[actix::test]
async fn what_is_gone_is_not_found_and_without_the_server_phoebe_is_searched() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let (parts, server) = fed(folder.path(), &script).await;
    let [first, second, third] =
        ["first", "second", "third"].map(|text| memory(Uuid::now_v7(), text));
    let pairs = [(&first, 0.9), (&second, 0.5), (&third, 0.7)]
        .map(|(memory, cosine)| (memory.clone(), unit(cosine)));
    parts.index.insert(LOCAL_TENANT, pairs.to_vec()).await.unwrap();
    server.drain(&parts.index).await.unwrap();
    let open = MemoryFilter::default();
    let ids = async || {
        let scored = parts.search().dense(&unit(1.0), 10, &open).await.unwrap();
        let numbers =
            parts.index.numbers_of(LOCAL_TENANT, &[first.id, second.id, third.id]).await.unwrap();
        let id = |number: i64| *numbers.iter().find(|(_, found)| **found == number).unwrap().0;
        scored.into_iter().map(|scored| id(scored.number)).collect::<Vec<_>>()
    };
    // the server returns an id that phoebe does not know
    let answer = || {
        let result = vec![
            found(Uuid::now_v7(), 0.95),
            found(first.id, 0.9),
            found(third.id, 0.7),
            found(second.id, 0.5),
        ];
        QueryResponse { result, ..Default::default() }
    };
    script.answer::<QueryPoints>(answer());
    assert_eq!(ids().await, [first.id, third.id, second.id]);
    // deleted in phoebe, but not yet on the server
    parts.index.delete(LOCAL_TENANT, &MemorySelector::Id(first.id)).await.unwrap();
    script.answer::<QueryPoints>(answer());
    assert_eq!(ids().await, [third.id, second.id]);
    // without the server, phoebe's index returns the same memories
    script.refuse::<QueryPoints>(Code::InvalidArgument);
    assert_eq!(ids().await, [third.id, second.id]);
}

#[actix::test]
async fn a_server_that_lacks_memories_is_filled_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = Script::default();
    let (parts, server) = fed(folder.path(), &script).await;
    let kept = memory(Uuid::now_v7(), "kept");
    parts.index.insert(LOCAL_TENANT, vec![(kept.clone(), unit(0.5))]).await.unwrap();
    server.drain(&parts.index).await.unwrap();
    let count = |count| CountResponse { result: Some(CountResult { count }), ..Default::default() };
    script.answer::<CountPoints>(count(1));
    server.compare(&parts.index).await.unwrap();
    assert_eq!(parts.index.outbox_len().await.unwrap(), 0);
    script.answer::<CountPoints>(count(0));
    server.compare(&parts.index).await.unwrap();
    server.drain(&parts.index).await.unwrap();
    assert_eq!(upserted(&script), [kept.id.to_string(), kept.id.to_string()]);
}
