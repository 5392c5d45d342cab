//! All-reduce through shared memory: for CPU ranks, and for other devices by way of host memory.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use candle_core::{DType, Tensor};

use super::communicator::Communicator;
use crate::backoff::Backoff;
use crate::{EngineError, Result};

/// Two buffers per rank for its partial sum: while one is read, the other is written.
#[derive(Debug)]
struct AllReduce {
    places: Vec<[RwLock<Vec<f32>>; 2]>,
    arrived: AtomicUsize,
    /// Completed reductions.
    held: AtomicUsize,
    /// A rank has left: waiting ranks return an error.
    lost: AtomicBool,
}

/// One rank of a group that shares memory.
#[derive(Debug)]
pub struct SharedComm {
    all_reduce: Arc<AllReduce>,
    rank: usize,
    /// Reductions this rank has entered.
    turn: AtomicUsize,
}

impl SharedComm {
    /// The ranks of a group of `world_size`.
    pub fn group(world_size: usize) -> Vec<Self> {
        let places = (0..world_size).map(|_| Default::default()).collect();
        let all_reduce = Arc::new(AllReduce {
            places,
            arrived: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        });
        (0..world_size)
            .map(|rank| Self {
                all_reduce: Arc::clone(&all_reduce),
                rank,
                turn: AtomicUsize::new(0),
            })
            .collect()
    }

    fn side(&self) -> usize {
        self.turn.load(Ordering::Relaxed) % 2
    }

    /// This rank's buffer for the next all-reduce; its content is stale.
    pub(crate) fn mine(&self) -> RwLockWriteGuard<'_, Vec<f32>> {
        self.all_reduce.places[self.rank][self.side()]
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every rank has written its partial sum.
    ///
    /// # Errors
    /// [`EngineError::ShardLost`] when a rank has left.
    pub(crate) fn meet(&self) -> Result<()> {
        let AllReduce { places, arrived, held, lost } = &*self.all_reduce;
        let before = held.load(Ordering::Acquire);
        self.turn.fetch_add(1, Ordering::Relaxed);
        if arrived.fetch_add(1, Ordering::AcqRel) + 1 == places.len() {
            arrived.store(0, Ordering::Relaxed);
            held.store(before + 1, Ordering::Release);
        }
        let mut backoff = Backoff::default();
        while held.load(Ordering::Acquire) == before {
            if lost.load(Ordering::Acquire) {
                return Err(EngineError::ShardLost);
            }
            // with more ranks than cores, they yield to each other
            backoff.spin_or_yield();
        }
        Ok(())
    }

    /// The partial sum of rank `rank` in the last all-reduce. Valid until the all-reduce after the
    /// next begins.
    pub(crate) fn theirs(&self, rank: usize) -> RwLockReadGuard<'_, Vec<f32>> {
        self.all_reduce.places[rank][1 - self.side()].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the group as lost: this rank takes part in no further all-reduce.
    pub(crate) fn leave(&self) {
        self.alarm().sound();
    }

    /// A handle with which code outside the group can mark it as lost.
    pub(crate) fn alarm(&self) -> Alarm {
        Alarm(Arc::clone(&self.all_reduce))
    }
}

/// Aborts all reductions of a group.
#[derive(Debug)]
pub(crate) struct Alarm(Arc<AllReduce>);

impl Alarm {
    pub(crate) fn sound(&self) {
        self.0.lost.store(true, Ordering::Release);
    }
}

impl Drop for SharedComm {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Communicator for SharedComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.all_reduce.places.len()
    }

    /// Through host memory, summed in rank order.
    fn all_reduce(&self, partial: Tensor) -> Result<Tensor> {
        {
            let mut mine = self.mine();
            mine.clear();
            mine.extend(partial.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?);
        }
        self.meet()?;
        let mut sum = vec![0.0; partial.elem_count()];
        for rank in 0..self.world_size() {
            sum.iter_mut().zip(self.theirs(rank).iter()).for_each(|(sum, part)| *sum += part);
        }
        Ok(Tensor::from_vec(sum, partial.dims(), partial.device())?.to_dtype(partial.dtype())?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn every_shard_gets_the_sum_of_all_and_none_waits_for_one_that_left() {
        for world in [1, 2, 3, 5] {
            let work = move |comm: SharedComm| {
                for round in 0..300_u32 {
                    let mine =
                        Tensor::new(&[comm.rank() as f32, round as f32], &Device::Cpu).unwrap();
                    let sum = comm.all_reduce(mine).unwrap().to_vec1::<f32>().unwrap();
                    assert_eq!(
                        sum,
                        [(world * (world - 1) / 2) as f32, (world as u32 * round) as f32]
                    );
                }
                comm
            };
            let threads: Vec<_> = SharedComm::group(world)
                .into_iter()
                .map(|comm| std::thread::spawn(move || work(comm)))
                .collect();
            let mut ranks: Vec<_> =
                threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            if world > 1 {
                drop(ranks.pop());
                let left = ranks[0].all_reduce(Tensor::new(&[1.0_f32], &Device::Cpu).unwrap());
                assert!(matches!(left, Err(EngineError::ShardLost)), "{left:?}");
            }
        }
    }
}
