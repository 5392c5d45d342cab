//! Metrics in OpenMetrics text, for `/metrics`.

use std::sync::atomic::{AtomicI64, AtomicU64};

use nyx_domain::Decision;
use nyx_engine::StepReport;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry as Families, Unit};

use crate::observe::Registry;

/// A label's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelValue(String);

impl EncodeLabelValue for LabelValue {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.as_str(), encoder)
    }
}

impl From<&str> for LabelValue {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Spoke {
    specialist: LabelValue,
    adapter: LabelValue,
    kind: LabelValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    specialist: LabelValue,
    status: LabelValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    error: LabelValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: LabelValue,
    route: LabelValue,
    status: LabelValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    actor: LabelValue,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Gauges = Family<Named, Gauge<i64, AtomicI64>>;

/// All metric families of this process.
pub struct Metrics {
    families: Families,
    actors: Registry,
    latency: Histograms<Spoke>,
    tokens: Family<Spoke, Counter<u64, AtomicU64>>,
    decisions: Family<Decided, Counter<u64, AtomicU64>>,
    failures: Family<Failed, Counter<u64, AtomicU64>>,
    first_token: Histograms<Named>,
    between_tokens: Histograms<Named>,
    http: Histograms<Route>,
    running: Gauges,
    waiting: Gauges,
    kv_tokens: Gauges,
    kv_bytes: Gauges,
    restarts: Gauges,
    up: Gauges,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// From a millisecond to about two minutes.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl Metrics {
    /// The metrics, with those of `actors` as gauges.
    pub fn new(actors: Registry) -> Self {
        let histograms = || Family::new_with_constructor(seconds as fn() -> Histogram);
        let mut metrics = Self {
            families: Families::default(),
            actors,
            latency: Family::new_with_constructor(seconds as fn() -> Histogram),
            tokens: Family::default(),
            decisions: Family::default(),
            failures: Family::default(),
            first_token: histograms(),
            between_tokens: histograms(),
            http: Family::new_with_constructor(seconds as fn() -> Histogram),
            running: Family::default(),
            waiting: Family::default(),
            kv_tokens: Family::default(),
            kv_bytes: Family::default(),
            restarts: Family::default(),
            up: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let metrics = self;
        let families = &mut metrics.families;
        let latency = "Time of an answer by kind: decide, retrieve, queue, prefill, decode, total";
        families.register_with_unit(
            "vllm_latency",
            latency,
            Unit::Seconds,
            metrics.latency.clone(),
        );
        families.register(
            "vllm_token_count",
            "Tokens by kind: prompt, cached, completion",
            metrics.tokens.clone(),
        );
        families.register(
            "nyx_decisions",
            "Decisions by specialist and status",
            metrics.decisions.clone(),
        );
        families.register(
            "nyx_failures",
            "Requests that failed, by error",
            metrics.failures.clone(),
        );
        let first = "From the question to the first token of the answer";
        families.register_with_unit(
            "nyx_time_to_first_token",
            first,
            Unit::Seconds,
            metrics.first_token.clone(),
        );
        let between = "Mean time between the tokens of an answer";
        families.register_with_unit(
            "nyx_time_between_tokens",
            between,
            Unit::Seconds,
            metrics.between_tokens.clone(),
        );
        families.register_with_unit(
            "nyx_http_request",
            "HTTP requests",
            Unit::Seconds,
            metrics.http.clone(),
        );
        families.register(
            "nyx_running_sequences",
            "Sequences in the device's batch",
            metrics.running.clone(),
        );
        families.register("nyx_queued", "Jobs that wait for the device", metrics.waiting.clone());
        families.register(
            "nyx_kv_tokens",
            "Positions in the KV cache, prefixes included",
            metrics.kv_tokens.clone(),
        );
        families.register_with_unit(
            "nyx_kv_cache",
            "KV cache in use",
            Unit::Bytes,
            metrics.kv_bytes.clone(),
        );
        families.register("nyx_actor_restarts", "Restarts of an actor", metrics.restarts.clone());
        families.register("nyx_actor_up", "1 while the actor runs", metrics.up.clone());
    }

    /// The metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        for report in self.actors.reports() {
            let named = Named { actor: report.name.as_str().into() };
            self.restarts.get_or_create(&named).set(report.restarts.cast_signed());
            self.up
                .get_or_create(&named)
                .set(i64::from(report.state == crate::observe::ActorState::Running));
        }
        let mut text = String::new();
        if encode(&mut text, &self.families).is_err() {
            tracing::error!("the metrics could not be written");
        }
        text
    }

    /// Counts an answered HTTP request.
    pub fn http_request(&self, method: &str, route: &str, status: u16, seconds: f64) {
        let route = Route {
            method: method.into(),
            route: route.into(),
            status: status.to_string().as_str().into(),
        };
        self.http.get_or_create(&route).observe(seconds);
    }

    /// Counts a recorded decision.
    pub(crate) fn decision(&self, decision: &Decision) {
        let specialist = || LabelValue::from(decision.specialist.as_str());
        let adapter = decision.adapter.as_ref().map_or("none", |adapter| adapter.name.as_str());
        let spoke = |kind: &str| Spoke {
            specialist: specialist(),
            adapter: adapter.into(),
            kind: kind.into(),
        };
        self.decisions
            .get_or_create(&Decided {
                specialist: specialist(),
                status: decision.status.as_str().into(),
            })
            .inc();
        let timings = &decision.timings;
        for (kind, ms) in [
            ("decide", timings.decide_ms),
            ("retrieve", timings.retrieve_ms),
            ("queue", timings.queue_ms),
            ("prefill", timings.prefill_ms),
            ("decode", timings.decode_ms),
            ("total", timings.total_ms),
        ] {
            self.latency.get_or_create(&spoke(kind)).observe(ms / 1e3);
        }
        let usage = &decision.usage;
        for (kind, count) in [
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
        ] {
            self.tokens.get_or_create(&spoke(kind)).inc_by(count);
        }
        let named = Named { actor: specialist() };
        if let Some(ms) = timings.first_token_ms {
            self.first_token.get_or_create(&named).observe(ms / 1e3);
        }
        // several answers are generated concurrently: each gets its share of the tokens
        let of_each = usage.completion_tokens / (decision.answers.len() as u64).max(1);
        if of_each > 1 {
            self.between_tokens
                .get_or_create(&named)
                .observe(timings.decode_ms / 1e3 / (of_each - 1) as f64);
        }
    }

    /// Counts a failed request.
    pub(crate) fn failure(&self, error: &str) {
        self.failures.get_or_create(&Failed { error: error.into() }).inc();
    }

    /// Counts a step of a device.
    pub(crate) fn step(&self, worker: &str, report: &StepReport) {
        let named = Named { actor: worker.into() };
        let set = |gauges: &Gauges, value: usize| {
            gauges.get_or_create(&named).set(i64::try_from(value).unwrap_or(i64::MAX))
        };
        set(&self.running, report.running);
        set(&self.waiting, report.waiting);
        set(&self.kv_tokens, report.kv_tokens);
        set(&self.kv_bytes, report.kv_bytes);
    }
}
