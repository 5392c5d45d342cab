//! The adapters that are active in this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use nyx_domain::{AdapterChoice, AdapterVersion, Arm, CanaryTrace};
use tokio_util::sync::CancellationToken;

use super::library::{AdapterBase, AdapterLibrary};
use super::loaded::{AdapterLease, LoadedAdapters};
use super::options::AdapterOptions;
use crate::NyxError;
use crate::cells::CellStream;
use crate::draw::draw;
use crate::observe::Registry;

/// The adapter of one request, from its beginning to its end.
#[derive(Debug, Clone, Default)]
pub struct ActiveAdapter {
    /// Keeps the adapter loaded on the devices; `None` is the base model.
    pub lease: Option<AdapterLease>,
    /// Its `generation` is 0 if it was not promoted.
    pub version: Option<AdapterVersion>,
    /// The specialist's generation, also where the base model is one.
    pub generation: u64,
    /// The draw between the active adapter and a canary, if there is one.
    pub canary: Option<CanaryTrace>,
}

/// The active generation of a specialist.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    pub(super) generation: u64,
    pub(super) lease: Option<AdapterLease>,
    pub(super) canary: Option<(f64, AdapterLease)>,
}

/// The adapters of one process. Cheap to clone.
#[derive(Clone)]
pub struct Adapters(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) library: AdapterLibrary,
    pub(super) loaded: LoadedAdapters,
    pub(super) base: AdapterBase,
    pub(super) cells: CellStream,
    pub(super) registry: Registry,
    pub(super) specialists: Vec<String>,
    pub(super) live: RwLock<BTreeMap<String, Live>>,
    /// Held during a swap.
    pub(super) swapping: tokio::sync::Mutex<()>,
    /// The last warning per specialist, so that each is logged once.
    pub(super) complaints: Mutex<BTreeMap<String, String>>,
}

/// What [`Adapters`] is made of.
pub struct AdapterParts {
    pub library: AdapterLibrary,
    pub loaded: LoadedAdapters,
    pub base: AdapterBase,
    pub cells: CellStream,
    pub registry: Registry,
    /// The specialists that may have an adapter.
    pub specialists: Vec<String>,
}

impl Adapters {
    pub fn new(parts: AdapterParts) -> Self {
        let AdapterParts { library, loaded, base, cells, registry, specialists } = parts;
        let (live, swapping, complaints) =
            (RwLock::default(), tokio::sync::Mutex::default(), Mutex::default());
        Self(Arc::new(Inner {
            library,
            loaded,
            base,
            cells,
            registry,
            specialists,
            live,
            swapping,
            complaints,
        }))
    }

    /// The adapters' files and records.
    pub fn library(&self) -> &AdapterLibrary {
        &self.0.library
    }

    /// The adapter for a request of this specialist: the chosen one, else the canary in its share
    /// of the requests, else the active one. With a seed, the canary's draw follows from the seed
    /// and the question, so that the same request gets the same adapter.
    ///
    /// # Errors
    /// The chosen adapter is not stored here or cannot be loaded.
    pub async fn active_adapter(
        &self,
        specialist: &str,
        choice: Option<&AdapterChoice>,
        seed: Option<u64>,
        question: &str,
    ) -> Result<ActiveAdapter, NyxError> {
        let live = self.live(specialist);
        let id = match choice {
            None => return Ok(drawn(specialist, &live, seed, question)),
            Some(AdapterChoice::Base) => return Ok(ActiveAdapter::default()),
            Some(AdapterChoice::Id(id)) => id,
        };
        let lease = self.lease(id).await?;
        let generation =
            if live.lease.is_some_and(|live| live.id() == id) { live.generation } else { 0 };
        Ok(ActiveAdapter {
            version: Some(version(specialist, &lease, generation)),
            lease: Some(lease),
            generation,
            canary: None,
        })
    }

    /// Loads an adapter on every device, where it stays as long as the lease lives. Its files are
    /// checked against its id first.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; its files are missing or changed; a device cannot load it.
    pub async fn lease(&self, id: &str) -> Result<AdapterLease, NyxError> {
        if let Some(lease) = self.0.loaded.lease(id) {
            return Ok(lease);
        }
        let record = self.0.library.usable(id).await?;
        if record.base_sha256 != self.0.base.sha256 {
            let (trained_on, base) = (record.base_sha256, self.0.base.sha256.clone());
            return Err(nyx_engine::EngineError::AdapterBaseMismatch {
                adapter: id.to_owned(),
                trained_on,
                base,
            }
            .into());
        }
        self.0.loaded.load(id, self.0.library.folder(id)).await
    }

    pub(super) fn live(&self, specialist: &str) -> Live {
        self.0
            .live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(specialist)
            .cloned()
            .unwrap_or_default()
    }

    /// The active generation's number and adapter; `(0, None)` is the base model before any
    /// promotion.
    pub fn generation(&self, specialist: &str) -> (u64, Option<String>) {
        let live = self.live(specialist);
        (live.generation, live.lease.map(|lease| lease.id().to_owned()))
    }

    /// Whether there is a canary.
    pub(crate) fn has_canary(&self, specialist: &str) -> bool {
        self.live(specialist).canary.is_some()
    }

    /// The canary's id.
    pub(crate) fn canary(&self, specialist: &str) -> Option<String> {
        self.live(specialist).canary.map(|(_, lease)| lease.id().to_owned())
    }

    /// Polls for new generations and canaries every `poll_ms`, and checks the active adapters'
    /// files against their ids every `check_every_s`, until `end`.
    pub async fn watch(self, options: AdapterOptions, end: CancellationToken) {
        let check_every = Duration::from_secs(options.check_every_s);
        let mut checked = std::time::Instant::now();
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(options.poll_ms)) => {}
            }
            if let Err(error) = self.sync().await {
                self.complain("", format!("generations could not be looked up: {error}"));
            }
            if checked.elapsed() >= check_every {
                checked = std::time::Instant::now();
                if let Err(error) = self.check_all().await {
                    self.complain("", format!("adapters could not be checked: {error}"));
                }
            }
        }
    }
}

fn version(specialist: &str, lease: &AdapterLease, generation: u64) -> AdapterVersion {
    AdapterVersion { name: specialist.to_owned(), id: lease.id().to_owned(), generation }
}

/// The active adapter, or the canary in its share of the requests.
fn drawn(specialist: &str, live: &Live, seed: Option<u64>, question: &str) -> ActiveAdapter {
    let of_live = || ActiveAdapter {
        version: live.lease.as_ref().map(|lease| version(specialist, lease, live.generation)),
        lease: live.lease.clone(),
        generation: live.generation,
        canary: None,
    };
    let Some((share, canary)) = &live.canary else { return of_live() };
    let id = canary.id();
    if draw(seed, &[id, question]) < *share {
        let trace = CanaryTrace {
            arm: Arm::Canary,
            propensity: *share,
            id: Some(id.to_owned()),
            canary: None,
        };
        return ActiveAdapter {
            lease: Some(canary.clone()),
            version: Some(version(specialist, canary, 0)),
            generation: 0,
            canary: Some(trace),
        };
    }
    let active = live.lease.as_ref().map(|lease| lease.id().to_owned());
    let trace = CanaryTrace {
        arm: Arm::Live,
        propensity: 1.0 - share,
        id: active,
        canary: Some(id.to_owned()),
    };
    ActiveAdapter { canary: Some(trace), ..of_live() }
}
