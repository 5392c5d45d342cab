//! The adapters that are loaded on the devices, and the leases that keep them there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nyx_engine::EngineError;
use tokio::sync::oneshot;

use crate::NyxError;

/// A lease of a loaded adapter: its holder may use it on any device. When the last one is dropped,
/// the devices unload it; running sequences keep its weights until they end.
#[derive(Debug, Clone)]
pub struct AdapterLease(Arc<Leased>);

#[derive(Debug)]
struct Leased {
    id: String,
    /// Distinguishes it from an earlier load of the same adapter.
    number: u64,
    table: Weak<Shared>,
}

impl AdapterLease {
    /// The adapter's id.
    pub fn id(&self) -> &str {
        &self.0.id
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.released(&self.id, self.number);
        }
    }
}

/// A request to a device thread to load an adapter on all shards of its replica, between two steps.
pub(crate) struct Load {
    pub id: String,
    pub folder: PathBuf,
    pub done: oneshot::Sender<Result<(), EngineError>>,
}

/// Loads that may wait for a device: there is one at a time, but a caller may have given up on an
/// earlier one.
pub(crate) const LOADS: usize = 16;

/// The connection to a device's thread.
struct Line {
    loads: SyncSender<Load>,
    /// Wakes the thread, so that it looks at its loads.
    wake: Box<dyn Fn() + Send + Sync>,
}

/// The adapters that belong on the devices. A device that reloads its weights loads these. Cheap to
/// clone.
#[derive(Clone, Default)]
pub struct LoadedAdapters(Arc<Shared>);

#[derive(Default)]
struct Shared {
    wanted: Mutex<BTreeMap<String, Wanted>>,
    lines: Mutex<BTreeMap<String, Line>>,
    loads: AtomicU64,
    /// Leases that have ended: increases whenever a device has something to unload.
    released: AtomicU64,
    /// Held during a load.
    loading: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LoadedAdapters")
    }
}

struct Wanted {
    number: u64,
    folder: PathBuf,
    lease: Weak<Leased>,
}

impl LoadedAdapters {
    /// Connects a device's thread; called before the thread reads what to load, so that no load is
    /// missed.
    pub(crate) fn attach(
        &self,
        device: &str,
        loads: SyncSender<Load>,
        wake: Box<dyn Fn() + Send + Sync>,
    ) {
        self.0
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(device.to_owned(), Line { loads, wake });
    }

    /// Ids and folders of the adapters that belong on a device now.
    pub(crate) fn wanted(&self) -> Vec<(String, PathBuf)> {
        let wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().map(|(id, wanted)| (id.clone(), wanted.folder.clone())).collect()
    }

    /// How many leases have ended so far.
    pub(crate) fn released(&self) -> u64 {
        self.0.released.load(Ordering::Acquire)
    }

    pub(crate) fn holds(&self, id: &str) -> bool {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Ids of the leased adapters.
    pub fn ids(&self) -> Vec<String> {
        self.wanted().into_iter().map(|(id, _)| id).collect()
    }

    /// A lease of an adapter that is loaded already.
    pub fn lease(&self, id: &str) -> Option<AdapterLease> {
        let wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.get(id)?.lease.upgrade().map(AdapterLease)
    }

    /// Loads an adapter on every shard of every replica, between two steps of each; resolves when
    /// all have it. A replica that is down loads it when it is back.
    ///
    /// # Errors
    /// The error of the first replica that fails; then it is loaded on none.
    pub async fn load(&self, id: &str, folder: PathBuf) -> Result<AdapterLease, NyxError> {
        let _one = self.0.loading.lock().await;
        if let Some(lease) = self.lease(id) {
            return Ok(lease);
        }
        let number = self.0.loads.fetch_add(1, Ordering::Relaxed);
        let leased = Arc::new(Leased { id: id.to_owned(), number, table: Arc::downgrade(&self.0) });
        let wanted = Wanted { number, folder: folder.clone(), lease: Arc::downgrade(&leased) };
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), wanted);
        let mut loading = Vec::new();
        for line in self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let (done, loaded) = oneshot::channel();
            match line.loads.try_send(Load { id: id.to_owned(), folder: folder.clone(), done }) {
                Ok(()) => loading.push(loaded),
                Err(TrySendError::Full(_)) => {
                    return Err(NyxError::Overloaded { capacity: LOADS, retry_after_s: 1 });
                }
                Err(TrySendError::Disconnected(_)) => {}
            }
            (line.wake)();
        }
        for loaded in loading {
            // a thread that ended meanwhile loads it when it is restarted
            loaded.await.unwrap_or(Ok(()))?;
        }
        Ok(AdapterLease(leased))
    }
}

impl Shared {
    fn released(&self, id: &str, number: u64) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.get(id).is_some_and(|wanted| wanted.number == number) {
            wanted.remove(id);
        }
        drop(wanted);
        self.released.fetch_add(1, Ordering::Release);
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .for_each(|line| (line.wake)());
    }
}
