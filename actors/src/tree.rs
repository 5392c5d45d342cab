//! Starts supervised actors on one arbiter and registers them.

use std::sync::Arc;

use actix::{Actor, ArbiterHandle, Context};

use crate::observe::{ActorMetrics, Registry};
use crate::restart::RestartPolicy;
use crate::supervise::ActorRef;

/// Messages that may wait for an actor; a further one is refused.
pub(crate) const MAILBOX: usize = 1024;

/// Where actors are started.
pub(crate) struct ActorTree {
    pub(crate) arbiter: ArbiterHandle,
    pub(crate) registry: Registry,
}

impl ActorTree {
    pub(crate) fn new(arbiter: ArbiterHandle) -> Self {
        Self { arbiter, registry: Registry::default() }
    }

    /// Starts an actor; `make` creates its first instance and each one after a failure.
    pub(crate) fn start<A: Actor<Context = Context<A>>>(
        &self,
        metrics: Arc<ActorMetrics>,
        make: impl Fn(Arc<ActorMetrics>) -> A + Send + 'static,
    ) -> ActorRef<A> {
        self.registry.add(Arc::clone(&metrics));
        let for_instances = Arc::clone(&metrics);
        ActorRef::start(&self.arbiter, metrics, RestartPolicy::default(), MAILBOX, move || {
            make(Arc::clone(&for_instances))
        })
    }
}
