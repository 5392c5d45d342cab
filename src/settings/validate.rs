//! Validation of settings beyond their types.

use std::fmt::Display;

use nyx_actors::StartError;
use nyx_actors::memory::{RecallOptions, StoreKind};
use nyx_actors::secret::{SecretUrl, redacted};
use tracing_subscriber::EnvFilter;

use super::error::SettingsError;
use super::layers::Origins;
use super::sections::Settings;
use crate::http::HttpOptionsError;
use crate::models::ModelSource;

/// Upper bound for batch, queue and window sizes, to catch typing errors.
const MOST: usize = 1 << 20;
/// Maximum length of a search's list.
const MOST_LISTED: usize = 1000;

/// Checks every value and returns the first error.
pub(super) fn check(settings: &Settings, origins: &Origins) -> Result<(), SettingsError> {
    let check = Checker(origins);
    check.that(
        !settings.data_dir.as_os_str().is_empty(),
        "data_dir",
        "\"\"",
        "a folder: set it, or HOME",
    )?;
    models(settings, &check)?;
    settings.http.validate().map_err(|error| match error {
        HttpOptionsError::BadValue { key, value, expected } => check.invalid(key, &value, expected),
        other => SettingsError::Syntax { origin: "settings".into(), reason: other.to_string() },
    })?;
    pool(settings, &check)?;
    routing(settings, &check)?;
    requests(settings, &check)?;
    database(settings, &check)?;
    memory(settings, &check)?;
    adapters(settings, &check)?;
    if let Some((key, value, expected)) = settings.training.wrong() {
        check.that(false, key, value, expected)?;
    }
    facts(settings, &check)?;
    let log = &settings.telemetry.log;
    EnvFilter::try_new(log).map_err(|error| {
        check.invalid(
            "telemetry.log",
            &format!("{log:?}"),
            &format!("a filter such as \"info\" or \"nyx=debug,warn\" ({error})"),
        )
    })?;
    Ok(())
}

struct Checker<'a>(&'a Origins);

impl Checker<'_> {
    fn invalid(&self, key: &str, value: &dyn Display, expected: &str) -> SettingsError {
        SettingsError::Invalid {
            key: key.to_owned(),
            value: value.to_string(),
            origin: self.0.of(key),
            expected: expected.to_owned(),
        }
    }

    fn that(
        &self,
        holds: bool,
        key: &str,
        value: impl Display,
        expected: &str,
    ) -> Result<(), SettingsError> {
        if holds { Ok(()) } else { Err(self.invalid(key, &value, expected)) }
    }

    fn between(
        &self,
        key: &str,
        value: usize,
        least: usize,
        most: usize,
    ) -> Result<(), SettingsError> {
        self.that((least..=most).contains(&value), key, value, &format!("{least} to {most}"))
    }
}

fn models(settings: &Settings, check: &Checker<'_>) -> Result<(), SettingsError> {
    for (key, source) in
        [("models.base", &settings.models.base), ("models.embedder", &settings.models.embedder)]
    {
        if let Err(error) = source.parse::<ModelSource>() {
            return Err(check.invalid(key, &format!("{source:?}"), &error.to_string()));
        }
    }
    for (key, digest) in [
        ("models.base_sha256", &settings.models.base_sha256),
        ("models.embedder_sha256", &settings.models.embedder_sha256),
    ] {
        let Some(digest) = digest else { continue };
        let hexadecimal = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        check.that(
            hexadecimal,
            key,
            format!("{digest:?}"),
            "a SHA-256 as 64 hexadecimal digits",
        )?;
    }
    Ok(())
}

fn pool(settings: &Settings, check: &Checker<'_>) -> Result<(), SettingsError> {
    let pool = &settings.pool;
    let shown = || format!("{:?}", pool.replicas);
    check.that(
        !pool.replicas.is_empty() && pool.replicas.iter().all(|replica| !replica.is_empty()),
        "pool.replicas",
        shown(),
        "at least one replica with at least one device, such as [[\"cpu\"]]",
    )?;
    nyx_actors::device_replicas(pool).map_err(|error| match error {
        StartError::Setting { value, expected, .. } => {
            check.invalid("pool.replicas", &value, expected)
        }
        other => check.invalid("pool.replicas", &shown(), &other.to_string()),
    })?;
    check.between("pool.max_batch", pool.max_batch, 1, 4096)?;
    check.between("pool.prefill_chunk", pool.prefill_chunk, 1, MOST)?;
    check.between("pool.queue", pool.queue, 1, MOST)?;
    check.between("pool.kv_cache_mb", pool.kv_cache_mb, 1, MOST)?;
    check.that(
        pool.prefix_cache_mb <= MOST,
        "pool.prefix_cache_mb",
        pool.prefix_cache_mb,
        "megabytes, at most 1048576",
    )?;
    if let Some(window) = pool.context_length {
        check.between("pool.context_length", window, 64, MOST)?;
    }
    Ok(())
}

fn routing(settings: &Settings, check: &Checker<'_>) -> Result<(), SettingsError> {
    let routing = &settings.routing;
    let positive = |value: f64| value.is_finite() && value > 0.0;
    check.that(
        positive(routing.similarity_scale),
        "routing.similarity_scale",
        routing.similarity_scale,
        "a number above 0",
    )?;
    check.that(
        positive(routing.temperature),
        "routing.temperature",
        routing.temperature,
        "a number above 0",
    )?;
    check.that(
        (0.0..=1.0).contains(&routing.epsilon),
        "routing.epsilon",
        routing.epsilon,
        "0 to 1",
    )?;
    check.that(
        positive(routing.max_trait_weight),
        "routing.max_trait_weight",
        routing.max_trait_weight,
        "a number above 0",
    )?;
    check.that(
        (0.0..=10.0).contains(&routing.learning_rate),
        "routing.learning_rate",
        routing.learning_rate,
        "0 to 10",
    )?;
    check.that((0.0..=0.5).contains(&routing.decay), "routing.decay", routing.decay, "0 to 0.5")?;
    let age = routing.trait_weight_age_ms;
    check.that(age <= 3_600_000, "routing.trait_weight_age_ms", age, "0 to 3600000")?;
    let rewards = &settings.rewards;
    check.that(
        (0.0..=1.0).contains(&rewards.calibration),
        "rewards.calibration",
        rewards.calibration,
        "0 to 1",
    )
}

fn is_database(url: &SecretUrl) -> bool {
    ["sqlite:", "postgres:", "postgresql:"].iter().any(|scheme| url.expose().starts_with(scheme))
}

fn database(settings: &Settings, check: &Checker<'_>) -> Result<(), SettingsError> {
    let phoebe = &settings.phoebe;
    if let Some(url) = &phoebe.url {
        check.that(
            is_database(url),
            "phoebe.url",
            url,
            "postgres://USER:PASSWORD@HOST/DATABASE or sqlite://PATH",
        )?;
    }
    check.that(
        (2..=1000).contains(&phoebe.max_connections),
        "phoebe.max_connections",
        phoebe.max_connections,
        "2 to 1000",
    )?;
    for (key, value) in [
        ("phoebe.acquire_timeout_ms", phoebe.acquire_timeout_ms),
        ("phoebe.statement_timeout_ms", phoebe.statement_timeout_ms),
    ] {
        check.that((1..=3_600_000).contains(&value), key, value, "1 to 3600000")?;
    }
    Ok(())
}

fn memory(settings: &Settings, check: &Checker<'_>) -> Result<(), SettingsError> {
    let memory = &settings.memory;
    if memory.store == StoreKind::Qdrant {
        check.that(
            memory.url.is_some(),
            "memory.url",
            "not set",
            "the server's gRPC address, as memory.store is qdrant",
        )?;
    }
    if let Some(url) = &memory.url {
        let known = url.starts_with("http://") || url.starts_with("https://");
        check.that(
            known,
            "memory.url",
            redacted(url),
            "the server's gRPC address, such as http://localhost:6334",
        )?;
        // the client would print them in its errors, and the server uses none of them
        let plain = !url.contains(['@', '?', '#']);
        check.that(
            plain,
            "memory.url",
            redacted(url),
            "http://HOST:PORT without user, password or parameters: the key is memory.api_key",
        )?;
    }
    check.that(
        !memory.collection.trim().is_empty(),
        "memory.collection",
        format!("{:?}", memory.collection),
        "a name",
    )?;
    check.that(
        (1..=600_000).contains(&memory.timeout_ms),
        "memory.timeout_ms",
        memory.timeout_ms,
        "1 to 600000",
    )?;
    if let Some(days) = memory.retention_days {
        check.that(
            (1..=36_500).contains(&days),
            "memory.retention_days",
            days,
            "1 to 36500, or not set for no limit",
        )?;
    }
    recall(&memory.recall, check)?;
    check.between("memory.queue", memory.queue, 1, MOST)
}

fn recall(recall: &RecallOptions, check: &Checker<'_>) -> Result<(), SettingsError> {
    check.between("memory.recall.dense", recall.dense, 1, MOST_LISTED)?;
    check.between("memory.recall.lexical", recall.lexical, 1, MOST_LISTED)?;
    check.that(
        (0.0..=1e6).contains(&recall.rrf_offset),
        "memory.recall.rrf_offset",
        recall.rrf_offset,
        "0 to 1000000",
    )?;
    for (key, weight) in [
        ("memory.recall.dense_weight", recall.dense_weight),
        ("memory.recall.lexical_weight", recall.lexical_weight),
    ] {
        check.that((0.0..=1e6).contains(&weight), key, weight, "0 to 1000000")?;
    }
    let (weight, days) = (recall.recency_weight, recall.recency_half_life_days);
    check.that(
        (0.0..=1e6).contains(&weight),
        "memory.recall.recency_weight",
        weight,
        "0 to 1000000",
    )?;
    check.that(
        days > 0.0 && days <= 36_500.0,
        "memory.recall.recency_half_life_days",
        days,
        "above 0, up to 36500",
    )?;
    check.that(
        (0.0..=1.0).contains(&recall.mmr_lambda),
        "memory.recall.mmr_lambda",
        recall.mmr_lambda,
        "0 to 1",
    )?;
    check.between("memory.recall.neighbours", recall.neighbours as usize, 0, 2)
}

fn adapters(settings: &Settings, check: &Checker<'_>) -> Result<(), SettingsError> {
    let adapters = &settings.adapters;
    check.between("adapters.max_mb", adapters.max_mb, 1, MOST)?;
    check.that(
        (10..=3_600_000).contains(&adapters.poll_ms),
        "adapters.poll_ms",
        adapters.poll_ms,
        "10 to 3600000",
    )?;
    check.that(
        (1..=604_800).contains(&adapters.check_every_s),
        "adapters.check_every_s",
        adapters.check_every_s,
        "1 to 604800",
    )
}

fn facts(settings: &Settings, check: &Checker<'_>) -> Result<(), SettingsError> {
    let facts = &settings.tables;
    let key = |name: &str| format!("tables.{name}");
    check.that(
        (1..=600_000).contains(&facts.query_timeout_ms),
        &key("query_timeout_ms"),
        facts.query_timeout_ms,
        "1 to 600000",
    )?;
    check.between(&key("index_cells"), facts.index_cells, 1, 100 * MOST)?;
    for table in &facts.external {
        let named = !table.table.trim().is_empty();
        check.that(
            named,
            &key("external"),
            "a table without name",
            "table = \"NAME\" of a table or view",
        )?;
        if let Some(url) = &table.url {
            let expected = "postgres://USER:PASSWORD@HOST/DATABASE or sqlite://PATH";
            check.that(
                is_database(url),
                &key("external"),
                format!("{} with url {url}", table.table),
                expected,
            )?;
        }
    }
    let mut names: Vec<&str> = facts.external.iter().map(|table| table.table.as_str()).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].to_owned());
    check.that(twice.is_none(), &key("external"), twice.unwrap_or_default(), "each table once")
}

fn requests(settings: &Settings, check: &Checker<'_>) -> Result<(), SettingsError> {
    let requests = &settings.requests;
    check.between("requests.max_in_flight", requests.max_in_flight, 1, MOST)?;
    check.that(
        (1..=3600).contains(&requests.retry_after_s),
        "requests.retry_after_s",
        requests.retry_after_s,
        "1 to 3600",
    )?;
    check.that(
        requests.max_deadline_ms >= 1,
        "requests.max_deadline_ms",
        requests.max_deadline_ms,
        "at least 1",
    )?;
    check.that(
        (1..=requests.max_deadline_ms).contains(&requests.default_deadline_ms),
        "requests.default_deadline_ms",
        requests.default_deadline_ms,
        &format!("1 to requests.max_deadline_ms ({})", requests.max_deadline_ms),
    )
}
