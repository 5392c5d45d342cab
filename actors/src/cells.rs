//! The live stream of cell decisions: typed events with increasing ids; the last ones are kept for
//! readers that resume.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use nyx_domain::{CellEvent, CellStep};
use tokio::sync::broadcast;
use uuid::Uuid;

/// Events kept for `?after=ID`.
pub const KEPT: usize = 10_000;
/// Number of events a reader may fall behind before it is dropped.
const READER_LAG: usize = 1024;

/// The stream. Cheap to clone; publishing never blocks.
#[derive(Debug, Clone)]
pub struct CellStream {
    shared: Arc<Mutex<Ring>>,
    sender: broadcast::Sender<Arc<CellEvent>>,
}

#[derive(Debug)]
struct Ring {
    next_id: u64,
    events: VecDeque<Arc<CellEvent>>,
}

/// A reader's subscription: first `backlog`, then `live`.
#[derive(Debug)]
pub struct Subscription {
    pub backlog: Vec<Arc<CellEvent>>,
    /// Some events after the requested id are no longer kept.
    pub gap: bool,
    /// `Lagged` means that this reader was too slow and must be dropped.
    pub live: broadcast::Receiver<Arc<CellEvent>>,
}

impl Default for CellStream {
    fn default() -> Self {
        let start = u64::try_from(Utc::now().timestamp_micros()).unwrap_or(1);
        Self {
            shared: Arc::new(Mutex::new(Ring {
                next_id: start,
                events: VecDeque::with_capacity(KEPT),
            })),
            sender: broadcast::channel(READER_LAG).0,
        }
    }
}

impl CellStream {
    /// Publishes one step and returns its id.
    pub fn publish(&self, decision: Option<Uuid>, specialist: Option<&str>, step: CellStep) -> u64 {
        let mut ring = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let id = ring.next_id;
        ring.next_id += 1;
        let event = Arc::new(CellEvent {
            id,
            at: Utc::now(),
            decision,
            specialist: specialist.map(str::to_owned),
            step,
        });
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::clone(&event));
        // sent under the lock, so that live order is id order; no receiver is not an error
        let _ = self.sender.send(event);
        id
    }

    /// All kept events after `after`, then new ones; only new ones when `after` is `None`.
    pub fn subscribe(&self, after: Option<u64>) -> Subscription {
        let ring = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.sender.subscribe();
        let Some(after) = after else {
            return Subscription { backlog: Vec::new(), gap: false, live };
        };
        let oldest = ring.events.front().map_or(ring.next_id, |event| event.id);
        let backlog = ring.events.iter().filter(|event| event.id > after).cloned().collect();
        Subscription { backlog, gap: after.saturating_add(1) < oldest, live }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(n: u64) -> CellStep {
        CellStep::Failed { error: "internal_error", message: n.to_string() }
    }

    #[test]
    fn resumes_after_an_id_without_loss_or_repeat() {
        let cells = CellStream::default();
        let first = cells.publish(None, None, failed(0));
        let ids: Vec<u64> = (1..5).map(|n| cells.publish(None, None, failed(n))).collect();
        let mut subscription = cells.subscribe(Some(first));
        assert!(!subscription.gap);
        assert_eq!(subscription.backlog.iter().map(|event| event.id).collect::<Vec<_>>(), ids);
        let next = cells.publish(None, Some("moira"), failed(9));
        assert_eq!(subscription.live.try_recv().unwrap().id, next);
        assert_eq!(next, ids[3] + 1);
    }

    #[test]
    fn keeps_the_last_ten_thousand_and_says_when_some_are_gone() {
        let cells = CellStream::default();
        let first = cells.publish(None, None, failed(0));
        (0..KEPT as u64 + 5).for_each(|n| {
            cells.publish(None, None, failed(n));
        });
        let subscription = cells.subscribe(Some(first));
        assert!(subscription.gap);
        assert_eq!(subscription.backlog.len(), KEPT);
        assert!(!cells.subscribe(None).gap);
    }

    #[test]
    fn a_slow_reader_lags_and_does_not_hold_up_the_writer() {
        let cells = CellStream::default();
        let mut slow = cells.subscribe(None).live;
        (0..READER_LAG as u64 + 1).for_each(|n| {
            cells.publish(None, None, failed(n));
        });
        assert!(matches!(slow.try_recv(), Err(broadcast::error::TryRecvError::Lagged(_))));
    }

    #[test]
    fn events_are_flat_json_with_their_name() {
        let cells = CellStream::default();
        cells.publish(
            Some(Uuid::nil()),
            Some("kairos"),
            CellStep::FirstToken { first_token_ms: 1.5 },
        );
        let event = cells.subscribe(Some(0)).backlog.remove(0);
        let json = serde_json::to_value(&*event).unwrap();
        assert_eq!(json["event"], "first_token");
        assert_eq!(json["specialist"], "kairos");
        assert_eq!(json["first_token_ms"], 1.5);
    }
}
