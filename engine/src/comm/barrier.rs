//! A barrier with a deadline: the ranks of a group pass it before they enter a call that blocks
//! without one.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A one-time barrier: all ranks arrive before the deadline, or it fails for all of them.
#[derive(Debug)]
pub(crate) struct RankBarrier {
    ranks: Mutex<Ranks>,
    changed: Condvar,
}

#[derive(Debug)]
struct Ranks {
    arrived: Vec<bool>,
    /// The result of the barrier, once it is settled.
    outcome: Option<Result<(), String>>,
}

impl RankBarrier {
    pub(crate) fn new(world_size: usize) -> Self {
        Self {
            ranks: Mutex::new(Ranks { arrived: vec![false; world_size], outcome: None }),
            changed: Condvar::new(),
        }
    }

    /// Fails the barrier because a rank will not arrive: pending and later calls return `reason`. A
    /// barrier that has completed stays completed.
    pub(crate) fn call_off(&self, reason: String) {
        self.ranks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .outcome
            .get_or_insert(Err(reason));
        self.changed.notify_all();
    }

    /// Returns when every rank has arrived.
    ///
    /// # Errors
    /// A description: a rank that does not exist or arrives twice; the reason for which the barrier
    /// was called off; or the ranks missing after `backoff`, which calls it off.
    pub(crate) fn arrive(&self, rank: usize, backoff: Duration) -> Result<(), String> {
        let deadline = Instant::now() + backoff;
        let mut ranks = self.ranks.lock().unwrap_or_else(PoisonError::into_inner);
        let world_size = ranks.arrived.len();
        match ranks.arrived.get_mut(rank) {
            None => {
                return Err(format!(
                    "rank {rank} of {world_size}: expected one from 0 to {}",
                    world_size.saturating_sub(1)
                ));
            }
            Some(true) => {
                return Err(format!(
                    "rank {rank} has joined this group already: a group that starts anew is a new one"
                ));
            }
            Some(arrived) => *arrived = true,
        }
        if ranks.arrived.iter().all(|arrived| *arrived) {
            ranks.outcome.get_or_insert(Ok(()));
            self.changed.notify_all();
        }
        loop {
            if let Some(outcome) = &ranks.outcome {
                return outcome.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let missing: Vec<usize> =
                    (0..world_size).filter(|rank| !ranks.arrived[*rank]).collect();
                ranks.outcome = Some(Err(format!(
                    "ranks {missing:?} of {world_size} had not joined after {} s",
                    backoff.as_secs_f32()
                )));
                self.changed.notify_all();
                continue;
            }
            ranks =
                self.changed.wait_timeout(ranks, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn ranks_meet_whatever_their_order() {
        let barrier = &RankBarrier::new(3);
        std::thread::scope(|scope| {
            let others: Vec<_> = [2, 0]
                .into_iter()
                .map(|rank| scope.spawn(move || barrier.arrive(rank, LONG)))
                .collect();
            barrier.arrive(1, LONG).unwrap();
            others.into_iter().for_each(|other| other.join().unwrap().unwrap());
        });
    }

    #[test]
    fn a_rank_that_does_not_come_is_named_and_nobody_meets_later() {
        let barrier = RankBarrier::new(3);
        let error = barrier.arrive(1, Duration::ZERO).unwrap_err();
        assert!(error.contains("[0, 2] of 3"), "{error}");
        assert_eq!(barrier.arrive(0, LONG).unwrap_err(), error);
        assert_eq!(barrier.arrive(2, LONG).unwrap_err(), error);
    }

    #[test]
    fn a_rank_that_is_none_or_comes_twice_is_refused() {
        let barrier = RankBarrier::new(1);
        assert!(barrier.arrive(1, LONG).unwrap_err().contains("rank 1 of 1"));
        barrier.arrive(0, LONG).unwrap();
        assert!(barrier.arrive(0, LONG).unwrap_err().contains("already"));
    }

    #[test]
    fn who_will_not_come_ends_the_waiting_and_undoes_no_meeting() {
        let barrier = &RankBarrier::new(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || barrier.arrive(0, LONG));
            barrier.call_off("rank 1 has no device".into());
            assert_eq!(waiting.join().unwrap().unwrap_err(), "rank 1 has no device");
        });
        let met = RankBarrier::new(1);
        met.arrive(0, LONG).unwrap();
        met.call_off("too late".into());
        assert!(met.arrive(0, LONG).unwrap_err().contains("already"));
    }
}
