//! The state of actors, readable without their mailboxes: counters, and the lifecycle that the
//! supervisor publishes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::NyxError;

/// Time limit for the start of an actor.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The lifecycle state of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorState {
    Starting,
    Running,
    /// It failed; a new instance starts after the back-off.
    Restarting,
    /// It failed too often; only `POST /admin/actors/{name}/restart` restarts it.
    Quarantined,
    Stopped,
}

impl ActorState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Quarantined => "quarantined",
            Self::Stopped => "stopped",
        }
    }
}

/// The last failure of an actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub at: DateTime<Utc>,
    pub reason: String,
}

/// The lifecycle that a supervisor publishes.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    pub state: ActorState,
    pub restarts: u64,
    pub last_failure: Option<Failure>,
    pub since: Instant,
}

/// The metrics of one actor. All fields may be read and written from any thread.
#[derive(Debug)]
pub struct ActorMetrics {
    pub name: String,
    /// `orchestrator`, `specialist`, `gpu_pool`, `gpu_worker`, `memory_keeper`, `phoebe`.
    pub kind: &'static str,
    pub device: Option<String>,
    /// Messages that wait for the current instance.
    mailbox: Mutex<Mailbox>,
    /// Messages sent and not yet answered.
    pub in_flight: AtomicU64,
    pub processed: AtomicU64,
    pub failed: AtomicU64,
    /// Accepted work that outlives its message: a device's jobs, waiting or running.
    pub held: AtomicU64,
    /// The running part of it.
    pub running: AtomicU64,
    /// Its device thread has ended: it refuses work.
    pub lost: AtomicBool,
    pub adapter: Mutex<Option<String>>,
    pub lifecycle: watch::Sender<Lifecycle>,
    /// Wakes the supervisor for a manual restart.
    pub restart: Notify,
}

/// The messages of one instance, counted when sent, taken up and answered, so that a handler that
/// does not report taking a message up only delays the count until the answer.
#[derive(Debug, Default)]
struct Mailbox {
    instance: u64,
    sent: u64,
    taken_up: u64,
    answered: u64,
}

impl Mailbox {
    fn waiting(&self) -> u64 {
        self.sent - self.taken_up.max(self.answered)
    }
}

/// An actor's state, for `/admin/actors`.
#[derive(Debug, Clone, Serialize)]
pub struct ActorReport {
    pub name: String,
    pub kind: &'static str,
    pub state: ActorState,
    pub device: Option<String>,
    pub mailbox: u64,
    pub queue_depth: u64,
    pub in_flight: u64,
    pub processed: u64,
    pub failed: u64,
    pub restarts: u64,
    pub last_failure: Option<Failure>,
    pub adapter: Option<String>,
    /// Since this instance started.
    pub uptime_ms: u64,
}

impl ActorMetrics {
    /// Logs a failure and shows it as the actor's last one.
    pub(crate) fn record_failure(&self, reason: String) {
        tracing::error!(actor = %self.name, %reason, "the device failed");
        self.lifecycle.send_modify(|lifecycle| {
            lifecycle.last_failure = Some(Failure { at: Utc::now(), reason })
        });
    }

    pub fn new(name: impl Into<String>, kind: &'static str, device: Option<String>) -> Arc<Self> {
        let lifecycle = Lifecycle {
            state: ActorState::Starting,
            restarts: 0,
            last_failure: None,
            since: Instant::now(),
        };
        Arc::new(Self {
            name: name.into(),
            kind,
            device,
            mailbox: Mutex::default(),
            in_flight: AtomicU64::new(0),
            processed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            held: AtomicU64::new(0),
            running: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            adapter: Mutex::new(None),
            lifecycle: watch::channel(lifecycle).0,
            restart: Notify::new(),
        })
    }

    /// The adapter that is active for this actor.
    pub fn set_adapter(&self, id: Option<String>) {
        *self.adapter.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    /// Counts one more accepted job, unless `most` are held already.
    pub fn hold(self: &Arc<Self>, most: u64) -> Option<Held> {
        let held = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            (held < most).then_some(held + 1)
        });
        held.is_ok().then(|| Held(Arc::clone(self)))
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a sent message, unless `most` wait already.
    pub(crate) fn send(self: &Arc<Self>, most: usize) -> Option<Sent> {
        let instance = {
            let mut mailbox = self.mailbox();
            if mailbox.waiting() >= most as u64 {
                return None;
            }
            mailbox.sent += 1;
            mailbox.instance
        };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Sent { metrics: Arc::clone(self), instance })
    }

    /// A handler has taken up a message.
    pub fn taken_up(&self) {
        let mut mailbox = self.mailbox();
        // a message that was not sent through the supervisor was never counted
        mailbox.taken_up = (mailbox.taken_up + 1).min(mailbox.sent);
    }

    /// A new instance starts: messages that waited for the previous one are gone.
    pub(crate) fn new_instance(&self) {
        let mut mailbox = self.mailbox();
        *mailbox = Mailbox { instance: mailbox.instance + 1, ..Mailbox::default() };
    }

    /// The reason why a message to this actor waits, for errors.
    pub(crate) fn doing(&self) -> &'static str {
        match self.kind {
            "orchestrator" => "the orchestrator worked on the request",
            "specialist" => "a specialist worked on the request",
            "gpu_pool" => "a device was looked for",
            "gpu_worker" => "a device worked on the request",
            "memory_keeper" => "the memory keeper worked on the request",
            "phoebe" => "the database worked on the request",
            "trainer" => "the trainer worked on the request",
            _ => "an actor worked on the request",
        }
    }

    pub fn state(&self) -> ActorState {
        self.lifecycle.borrow().state
    }

    pub fn report(&self) -> ActorReport {
        let lifecycle = self.lifecycle.borrow().clone();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ActorReport {
            name: self.name.clone(),
            kind: self.kind,
            state: lifecycle.state,
            device: self.device.clone(),
            mailbox: self.mailbox().waiting(),
            queue_depth: count(&self.held).saturating_sub(count(&self.running)),
            in_flight: count(&self.in_flight).max(count(&self.held)),
            processed: count(&self.processed),
            failed: count(&self.failed),
            restarts: lifecycle.restarts,
            last_failure: lifecycle.last_failure,
            adapter: self.adapter.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            uptime_ms: u64::try_from(lifecycle.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// A sent message, until it is answered or its actor has died.
#[derive(Debug)]
pub(crate) struct Sent {
    metrics: Arc<ActorMetrics>,
    instance: u64,
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut mailbox = self.metrics.mailbox();
        if mailbox.instance == self.instance {
            mailbox.answered += 1;
        }
    }
}

/// A job counted in [`ActorMetrics::held`] until it is dropped.
#[derive(Debug)]
pub struct Held(Arc<ActorMetrics>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Every actor of this process, by name.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<String, Arc<ActorMetrics>>>>);

impl Registry {
    pub fn add(&self, metrics: Arc<ActorMetrics>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(metrics.name.clone(), metrics);
    }

    pub fn get(&self, name: &str) -> Option<Arc<ActorMetrics>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Ends an actor's instance and starts a new one, also of a quarantined actor.
    ///
    /// # Errors
    /// [`NyxError::NotFound`].
    pub fn restart(&self, name: &str) -> Result<(), NyxError> {
        let metrics = self
            .get(name)
            .ok_or_else(|| NyxError::NotFound { what: "actor", id: name.to_owned() })?;
        metrics.restart.notify_one();
        Ok(())
    }

    /// Waits until every registered actor has its first instance.
    ///
    /// # Errors
    /// [`NyxError::ActorDown`] for one that did not start in time.
    pub(crate) async fn wait_until_running(&self) -> Result<(), NyxError> {
        for name in self.reports().into_iter().map(|report| report.name) {
            let Some(metrics) = self.get(&name) else { continue };
            let mut lifecycle = metrics.lifecycle.subscribe();
            let running = lifecycle.wait_for(|lifecycle| lifecycle.state == ActorState::Running);
            if tokio::time::timeout(START_TIMEOUT, running).await.is_err() {
                let reason = format!("it did not start in {} s", START_TIMEOUT.as_secs());
                return Err(NyxError::ActorDown {
                    actor: name,
                    state: metrics.state().as_str(),
                    reason,
                });
            }
        }
        Ok(())
    }

    /// In the order of their names.
    pub fn reports(&self) -> Vec<ActorReport> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .map(|metrics| metrics.report())
            .collect()
    }
}
