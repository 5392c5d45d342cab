//! The actors of a running system: their health and their end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use serde::Serialize;

use super::devices::Devices;
use crate::admission::Admission;
use crate::devices::GpuPool;
use crate::facts::Facts;
use crate::memory::MemoryKeeper;
use crate::observe::{ActorState, Registry};
use crate::orchestrator::Orchestrator;
use crate::phoebe::messages::Ping;
use crate::phoebe::{Phoebe, PhoebeStore};
use crate::runtime::blocking;
use crate::specialist::Specialist;
use crate::supervise::ActorRef;

/// Time limit of the readiness check of the database.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for closing database connections: one that hangs must not prevent the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether requests can be answered, and if not, why.
#[derive(Debug, Clone, Serialize)]
pub struct Readiness {
    pub ready: bool,
    /// Each part with `ok` or what is wrong.
    pub parts: BTreeMap<String, String>,
}

/// Everything that must be stopped at the end.
pub(super) struct System {
    pub(super) orchestrator: ActorRef<Orchestrator>,
    pub(super) pool: ActorRef<GpuPool>,
    pub(super) devices: Devices,
    /// By name, `base` among them.
    pub(super) specialists: BTreeMap<String, ActorRef<Specialist>>,
    pub(super) memory: ActorRef<MemoryKeeper>,
    pub(super) phoebe: ActorRef<Phoebe>,
    pub(super) store: PhoebeStore,
    /// The thread of the actors.
    pub(super) arbiter: Arbiter,
}

impl System {
    pub(super) async fn readiness(&self, registry: &Registry, admission: &Admission) -> Readiness {
        let mut parts = BTreeMap::new();
        for report in registry.reports() {
            let ok = report.state == ActorState::Running;
            parts.insert(
                report.name,
                if ok { "ok".to_owned() } else { report.state.as_str().to_owned() },
            );
        }
        for (worker, device) in self.devices.workers.iter().zip(&self.devices.threads) {
            if !device.alive() {
                parts.insert(
                    worker.metrics().name.clone(),
                    "its device thread has ended: restart the actor".into(),
                );
            }
        }
        let database = match tokio::time::timeout(READY_TIMEOUT, self.phoebe.send(Ping)).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database did not answer in 2 s".to_owned(),
        };
        parts.insert("database".into(), database);
        if admission.is_draining() {
            parts.insert("endpoint".into(), "shutting down".into());
        }
        Readiness { ready: parts.values().all(|state| state == "ok"), parts }
    }

    /// Stops the actors and device threads, and closes the databases.
    pub(super) async fn stop(&self, facts: &Facts) {
        self.orchestrator.stop();
        self.specialists.values().for_each(ActorRef::stop);
        self.pool.stop();
        self.devices.workers.iter().for_each(ActorRef::stop);
        self.devices.shards.iter().for_each(ActorRef::stop);
        for thread in &self.devices.threads {
            let thread = Arc::clone(thread);
            if let Err(error) = blocking(move || thread.stop()).await {
                tracing::error!(%error, "a device thread did not stop");
            }
        }
        self.memory.stop();
        self.phoebe.stop();
        let closing = async {
            facts.close().await;
            self.store.close().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::warn!(
                "a database did not close its connections in {} s: left as they are",
                CLOSE_TIMEOUT.as_secs()
            );
        }
        self.arbiter.stop();
    }
}
