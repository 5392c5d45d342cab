//! A device thread with the real model: jobs that break it, a full queue, and its end.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use nyx_domain::ErrorClass;
use nyx_engine::{
    DeviceSpec, EngineError, EngineOptions, Finished, GenerateJob, ModelFiles, Piece,
    SamplingParams, ScoreJob, Text, TokenSink,
};
use tokio::sync::oneshot;

use super::job::Job;
use super::*;
use crate::adapters::{AdapterLease, LoadedAdapters};
use crate::observe::ActorMetrics;
use crate::testing::model;

type End = Result<Finished, EngineError>;

struct Sink {
    /// Panics on the first piece: a fault inside a step.
    breaks: bool,
    end: oneshot::Sender<End>,
}

impl TokenSink for Sink {
    fn piece(&mut self, _: Piece) -> ControlFlow<()> {
        assert!(!self.breaks, "broken on purpose");
        ControlFlow::Continue(())
    }
    fn finish(self: Box<Self>, end: End) {
        drop(self.end.send(end));
    }
}

async fn device(queue: usize) -> (Device, Arc<ActorMetrics>) {
    replica(queue, DeviceSpec::Cpu, Vec::new()).await
}

async fn replica(
    queue: usize,
    device: DeviceSpec,
    shards: Vec<Shard>,
) -> (Device, Arc<ActorMetrics>) {
    with_adapters(queue, device, shards, LoadedAdapters::default()).await
}

async fn with_adapters(
    queue: usize,
    device: DeviceSpec,
    shards: Vec<Shard>,
    adapters: LoadedAdapters,
) -> (Device, Arc<ActorMetrics>) {
    let model = model("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let files = Arc::new(ModelFiles::open(&model).unwrap());
    let text = Arc::new(Text::load(&files).unwrap());
    let metrics = ActorMetrics::new("gpu-worker-0", "gpu_worker", Some("cpu".into()));
    let engine = EngineOptions { max_batch: 1, ..EngineOptions::default() };
    let options = DeviceThreadOptions {
        device,
        shards,
        files,
        text,
        engine,
        adapters,
        queue,
        retry_after_s: 7,
    };
    (Device::start(options, Arc::clone(&metrics)).await.unwrap(), metrics)
}

fn job(
    breaks: bool,
    max_tokens: usize,
    adapter: Option<AdapterLease>,
) -> (Job, oneshot::Receiver<End>) {
    let (end, ending) = oneshot::channel();
    let params = SamplingParams { max_tokens, ..SamplingParams::default() };
    let job = GenerateJob {
        prompt: vec![1, 2, 3],
        cacheable_prefix: 0,
        params,
        adapter: None,
        fairness_key: String::new(),
        cancelled: Box::new(|| false),
        deadline: None,
        sink: Box::new(Sink { breaks, end }),
    };
    (Job::Generate { job, adapter }, ending)
}

async fn ended(ending: oneshot::Receiver<End>) -> End {
    tokio::time::timeout(Duration::from_secs(60), ending)
        .await
        .expect("it hangs")
        .expect("it was dropped")
}

#[actix::test]
async fn a_step_that_panics_fails_its_sequences_and_the_device_goes_on() {
    let (device, metrics) = device(16).await;
    // more than reloads the weights once
    for _ in 0..4 {
        let (broken, ending) = job(true, 4, None);
        device.submit(broken).unwrap();
        let error = ended(ending).await.unwrap_err();
        assert!(error.to_string().contains("broken on purpose"), "{error}");
    }
    let (good, ending) = job(false, 4, None);
    device.submit(good).unwrap();
    assert_eq!(ended(ending).await.unwrap().usage.completion_tokens, 4);
    assert!(device.alive());
    assert!(metrics.report().last_failure.unwrap().reason.contains("broken on purpose"));
    assert_eq!(metrics.report().queue_depth, 0);
}

#[actix::test]
async fn a_device_that_only_fails_is_retired_and_reported() {
    let (device, metrics) = device(16).await;
    for _ in 0..12 {
        let (broken, ending) = job(true, 4, None);
        device.submit(broken).unwrap();
        ended(ending).await.unwrap_err();
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while device.alive() {
        assert!(std::time::Instant::now() < deadline, "it was not given up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(metrics.report().last_failure.unwrap().reason.contains("given up"));
    let error = device.submit(job(false, 1, None).0).unwrap_err();
    assert!(
        error.class() == ErrorClass::Unavailable && error.to_string().contains("gpu-worker-0"),
        "{error}"
    );
    assert!(metrics.lost.load(std::sync::atomic::Ordering::Relaxed));
    // as the worker's next instance does
    device.revive().await.unwrap();
    let (good, ending) = job(false, 2, None);
    device.submit(good).unwrap();
    assert_eq!(ended(ending).await.unwrap().usage.completion_tokens, 2);
}

#[actix::test]
async fn a_full_queue_refuses_at_once_and_a_stop_ends_what_runs() {
    let (device, metrics) = device(2).await;
    let (long, running) = job(false, 4000, None);
    device.submit(long).unwrap();
    // one runs, two wait, a fourth finds no room
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let (next, ending) = job(false, 4000, None);
        device.submit(next).unwrap();
        waiting.push(ending);
    }
    let refused = device.submit(job(false, 1, None).0).unwrap_err();
    assert!(
        matches!(refused, crate::NyxError::Overloaded { capacity: 3, retry_after_s: 7 }),
        "{refused:?}"
    );
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while metrics.report().queue_depth != 2 {
        assert!(std::time::Instant::now() < deadline, "{:?}", metrics.report());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(metrics.report().in_flight, 3);
    device.stop();
    assert!(!device.alive());
    assert!(matches!(ended(running).await, Err(EngineError::Cancelled)));
    // those that waited are told as well
    for ending in waiting {
        assert!(matches!(ended(ending).await, Err(EngineError::Cancelled)));
    }
    assert_eq!((metrics.report().in_flight, metrics.report().queue_depth), (0, 0));
}

#[actix::test]
async fn an_adapter_that_is_not_loaded_is_refused_by_name() {
    let (device, _) = device(4).await;
    // of a table that this device was never told of
    let zeus = LoadedAdapters::default().load("zeus", "nowhere".into()).await.unwrap();
    let (wrong, ending) = job(false, 1, Some(zeus.clone()));
    device.submit(wrong).unwrap();
    assert!(ended(ending).await.unwrap_err().to_string().contains("zeus"));
    let (sender, receiver) = oneshot::channel();
    let reply = Box::new(move |scores| drop(sender.send(scores)));
    let score = ScoreJob {
        prompt: vec![1],
        cacheable_prefix: 0,
        continuations: vec![vec![2]],
        adapter: None,
        cancelled: Box::new(|| false),
        reply,
    };
    device.submit(Job::Score { job: score, adapter: Some(zeus) }).unwrap();
    assert!(receiver.await.unwrap().unwrap_err().to_string().contains("zeus"));
}

#[actix::test]
async fn a_leased_adapter_is_there_again_after_a_reload_and_a_revival_and_goes_with_its_lease() {
    let adapters = LoadedAdapters::default();
    let (device, _) = with_adapters(16, DeviceSpec::Cpu, Vec::new(), adapters.clone()).await;
    let base = device_base();
    let folder = tempfile::tempdir().unwrap();
    crate::adapters::tests::peft(folder.path(), 1, 576, 576);
    let id = nyx_engine::lora::adapter_id(folder.path(), &base).unwrap();
    let wrong = adapters.load("0", folder.path().into()).await.unwrap_err().to_string();
    assert!(wrong.contains(&id) && adapters.ids().is_empty(), "{wrong}");
    let lease = adapters.load(&id, folder.path().into()).await.unwrap();
    // the same adapter under a lease of another table: what the device has of it is not kept by
    // this one
    let stranger = LoadedAdapters::default().load(&id, folder.path().into()).await.unwrap();
    let answer = async |lease: &AdapterLease| {
        let (good, ending) = job(false, 2, Some(lease.clone()));
        device.submit(good).unwrap();
        ended(ending).await.map(|finished| finished.usage.completion_tokens)
    };
    let broken = async |times: usize| {
        for _ in 0..times {
            let (broken, ending) = job(true, 4, None);
            device.submit(broken).unwrap();
            ended(ending).await.unwrap_err();
        }
    };
    assert_eq!(answer(&lease).await.unwrap(), 2);
    broken(4).await;
    assert_eq!(answer(&lease).await.unwrap(), 2);
    broken(12).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while device.alive() {
        assert!(std::time::Instant::now() < deadline, "it was not given up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    device.revive().await.unwrap();
    assert_eq!(answer(&lease).await.unwrap(), 2);
    assert_eq!(answer(&stranger).await.unwrap(), 2);
    drop(lease);
    assert!(answer(&stranger).await.unwrap_err().to_string().contains(&id));
    let again = adapters.load(&id, folder.path().into()).await.unwrap();
    assert_eq!(answer(&again).await.unwrap(), 2);
}

/// The digest of the tests' model.
fn device_base() -> String {
    ModelFiles::open(&model("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"))
        .unwrap()
        .info()
        .sha256
        .clone()
}

#[actix::test]
async fn a_group_of_two_cores_answers_also_after_a_panic_and_stops_as_a_whole() {
    let shard = Shard {
        device: DeviceSpec::CpuCore(1),
        metrics: ActorMetrics::new("gpu-worker-0.1", "gpu_worker", Some("cpu:1".into())),
    };
    let (device, metrics) = replica(4, DeviceSpec::CpuCore(0), vec![shard.clone()]).await;
    let answer = async || {
        let (good, ending) = job(false, 4, None);
        device.submit(good).unwrap();
        ended(ending).await
    };
    assert_eq!(answer().await.unwrap().usage.completion_tokens, 4);
    assert!(!shard.metrics.lost.load(std::sync::atomic::Ordering::Relaxed));
    // a panic outside the forward pass leaves the shards in step
    let (broken, ending) = job(true, 4, None);
    device.submit(broken).unwrap();
    ended(ending).await.unwrap_err();
    assert_eq!(answer().await.unwrap().usage.completion_tokens, 4);
    device.stop();
    assert!(!device.alive() && metrics.report().last_failure.is_some());
    // the other thread has gone as well
    assert!(shard.metrics.lost.load(std::sync::atomic::Ordering::Relaxed));
    device.revive().await.unwrap();
}
