//! All-reduce over the GPUs of one group, with NCCL.
//!
//! A group is created once, on any thread, and joined by each rank on the thread that owns the
//! rank's GPU. cudarc's communicator is not `Send`, but the engine is: so the communicator is kept
//! in thread-local storage, and the engine holds its key.
//!
//! A collective waits on the device until every rank has issued it. When a rank fails in between,
//! the other ranks' next read from their device does not return: the supervisor of the group has to
//! end the process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, DriverError, ValidAsZeroBits};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, NcclType, ReduceOp};
use candle_core::cuda_backend::{CudaDType, CudaStorage, WrapErr};
use candle_core::{CpuStorage, CustomOp1, DType, Device, DeviceLocation, Layout, Shape, Tensor};

use super::barrier::RankBarrier;
use super::communicator::Communicator;
use crate::{DeviceSpec, EngineError, Result};

/// How long a rank waits for the others to join. A rank joins before it loads its weights, so no
/// slow work precedes it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The handles of CUDA's default streams: 0, 1 (legacy) and 2 (per thread). The last is the stream
/// of whichever thread launches, and NCCL may launch from a thread of its own (NVIDIA/nccl issue
/// 1976).
const PER_THREAD: usize = 2;

thread_local! {
    /// The communicators created on this thread, by key.
    static COMMUNICATORS: RefCell<HashMap<u64, Comm>> = RefCell::new(HashMap::new());
}

/// The GPUs of one group in this process, one per rank. It can be joined once; a restarted group
/// needs a new one.
#[derive(Debug)]
pub struct NcclGroup {
    id: Id,
    world_size: usize,
    barrier: RankBarrier,
}

impl NcclGroup {
    /// A group of `world_size` GPUs, at least one.
    ///
    /// # Errors
    /// [`EngineError::Sharding`] when NCCL fails.
    pub fn new(world_size: usize) -> Result<Self> {
        let id = Id::new().map_err(|error| EngineError::Sharding { reason: refused(&error) })?;
        Ok(Self { id, world_size, barrier: RankBarrier::new(world_size) })
    }

    /// Fails the group because a rank will not join: no rank waits any longer.
    pub fn call_off(&self, reason: String) {
        self.barrier.call_off(reason);
    }

    /// Creates `rank`'s communicator, which works on this thread only, over the stream of `device`
    /// (see [`DeviceSpec::open_in_group`]). Waits until all ranks have joined.
    ///
    /// # Errors
    /// [`EngineError::Device`] when `device` uses the default stream, the other ranks do not join
    /// within a minute, or NCCL fails, as when two ranks share a GPU.
    pub fn join(&self, rank: usize, device: &Device) -> Result<NcclComm> {
        let DeviceLocation::Cuda { gpu_id } = device.location() else {
            let reason = format!("rank {rank} of a group of GPUs is on {:?}", device.location());
            return Err(EngineError::Sharding { reason });
        };
        let bad = |reason: String| EngineError::Device {
            device: DeviceSpec::Cuda(gpu_id).to_string(),
            reason,
        };
        let stream = device.as_cuda_device()?.cuda_stream();
        if stream.cu_stream().addr() <= PER_THREAD {
            return Err(bad(
                "it was opened over the thread's default stream, a group needs one of its own"
                    .into(),
            ));
        }
        self.barrier.arrive(rank, PATIENCE).map_err(&bad)?;
        // NCCL uses the thread's current device
        stream.context().bind_to_thread().map_err(|error| bad(driver_error(error)))?;
        let world_size = self.world_size;
        let comm = Comm::from_rank(stream, rank, world_size, self.id)
            .map_err(|error| bad(refused(&error)))?;
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let key = KEYS.fetch_add(1, Ordering::Relaxed);
        COMMUNICATORS.with_borrow_mut(|all| all.insert(key, comm));
        Ok(NcclComm { key, rank, world_size, device: DeviceSpec::Cuda(gpu_id) })
    }
}

/// One rank of an [`NcclGroup`].
#[derive(Debug)]
pub struct NcclComm {
    key: u64,
    rank: usize,
    world_size: usize,
    device: DeviceSpec,
}

impl Drop for NcclComm {
    fn drop(&mut self) {
        // dropped on another thread, the communicator stays until its own thread ends; during that
        // thread's end it is already gone
        let comm = COMMUNICATORS
            .try_with(|all| all.try_borrow_mut().ok().and_then(|mut all| all.remove(&self.key)));
        drop(comm);
    }
}

impl Communicator for NcclComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    /// For f32, f16 and bf16 on this rank's GPU. Returns when the sum is queued on the device's
    /// stream; the order of the additions is NCCL's.
    fn all_reduce(&self, partial: Tensor) -> Result<Tensor> {
        if partial.elem_count() == 0 {
            return Ok(partial);
        }
        let sum = partial.contiguous().and_then(|partial| partial.apply_op1_no_bwd(&Sum(self)));
        sum.map_err(|error| EngineError::Device {
            device: self.device.to_string(),
            reason: format!("all-reduce, rank {}: {error}", self.rank),
        })
    }
}

/// The all-reduce as an operation on tensors.
struct Sum<'a>(&'a NcclComm);

impl CustomOp1 for Sum<'_> {
    fn name(&self) -> &'static str {
        "nccl-all-reduce"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        candle_core::bail!("the tensor is on the CPU, expected {}", self.0.device)
    }

    fn cuda_fwd(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let at = DeviceSpec::Cuda(storage.device().cuda_stream().context().ordinal());
        if at != self.0.device {
            candle_core::bail!("the tensor is on {at}, expected {}", self.0.device);
        }
        let summed =
            COMMUNICATORS.with_borrow(|all| match (all.get(&self.0.key), storage.dtype()) {
                (None, _) => candle_core::bail!(
                    "called on another thread than the one that joined the group"
                ),
                (Some(comm), DType::F32) => sum::<f32>(comm, storage, layout),
                (Some(comm), DType::F16) => sum::<half::f16>(comm, storage, layout),
                (Some(comm), DType::BF16) => sum::<half::bf16>(comm, storage, layout),
                (Some(_), other) => {
                    candle_core::bail!("the tensor is of {other:?}, expected f32, f16 or bf16")
                }
            })?;
        Ok((summed, layout.shape().clone()))
    }
}

/// Writes to a new buffer: other tensors may share the memory of the partial sum.
fn sum<T>(comm: &Comm, storage: &CudaStorage, layout: &Layout) -> candle_core::Result<CudaStorage>
where
    T: CudaDType + NcclType + DeviceRepr + ValidAsZeroBits,
{
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("the tensor is not contiguous: {layout:?}");
    };
    let device = storage.device();
    comm.context().bind_to_thread().w()?;
    let partial = storage.as_cuda_slice::<T>()?.slice(start..end);
    let mut summed = device.alloc_zeros::<T>(end - start)?;
    if let Err(error) = comm.all_reduce(&partial, &mut summed, &ReduceOp::Sum) {
        candle_core::bail!("{}", refused(&error));
    }
    Ok(CudaStorage::wrap_cuda_slice(summed, device.clone()))
}

fn driver_error(error: DriverError) -> String {
    format!("the CUDA driver said {error}")
}

fn refused(error: &NcclError) -> String {
    format!("NCCL said {:?}; NCCL_DEBUG=WARN makes it say more", error.0)
}

#[cfg(test)]
mod tests {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;

    use super::*;

    /// The number of GPUs of this machine; 0 without a driver.
    fn gpus() -> usize {
        CudaContext::device_count().map_or(0, |count| usize::try_from(count).unwrap())
    }

    /// Every rank's sums of known tensors, over groups of `world_size` GPUs.
    fn sums_are_right(world_size: usize) {
        let group = NcclGroup::new(world_size).unwrap();
        let summed = |rank: usize| {
            let device = DeviceSpec::Cuda(rank).open_in_group().unwrap();
            let comm = group.join(rank, &device).unwrap();
            assert_eq!((comm.rank(), comm.world_size()), (rank, world_size));
            // small integers: exact in every type and order. A transposed view covers the copy too
            let partial =
                Tensor::arange(0_f32, 6.0, &device).unwrap().reshape((2, 3)).unwrap().t().unwrap();
            let partial = (partial * (rank + 1) as f64).unwrap();
            [DType::F32, DType::F16, DType::BF16].map(|dtype| {
                let sum = comm.all_reduce(partial.to_dtype(dtype).unwrap()).unwrap();
                assert_eq!((sum.dims(), sum.dtype()), (&[3, 2][..], dtype));
                sum.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            })
        };
        let factor = (1..=world_size).sum::<usize>() as f32;
        let expected = [0.0, 3.0, 1.0, 4.0, 2.0, 5.0].map(|value| value * factor);
        let summed = &summed;
        std::thread::scope(|scope| {
            let ranks: Vec<_> =
                (0..world_size).map(|rank| scope.spawn(move || summed(rank))).collect();
            for (rank, found) in ranks.into_iter().enumerate() {
                for sum in found.join().unwrap() {
                    assert_eq!(sum, expected, "rank {rank} of {world_size}");
                }
            }
        });
    }

    #[test]
    fn nccl_sums_are_on_every_rank() {
        match gpus() {
            0 => println!("skipped: no CUDA device"),
            1 => {
                println!("one CUDA device: a group of one, no sum over several");
                sums_are_right(1);
            }
            found => (1..=found).for_each(sums_are_right),
        }
    }

    #[test]
    fn nccl_refuses_what_it_cannot_sum_by_name() {
        if gpus() == 0 {
            println!("skipped: no CUDA device");
            return;
        }
        let device = DeviceSpec::Cuda(0).open_in_group().unwrap();
        let group = NcclGroup::new(1).unwrap();
        let shared = group.join(0, &DeviceSpec::Cuda(0).open().unwrap()).unwrap_err().to_string();
        assert!(shared.contains("default stream"), "{shared}");
        let on_cpu = group.join(0, &Device::Cpu).unwrap_err().to_string();
        assert!(on_cpu.contains("rank 0") && on_cpu.contains("Cpu"), "{on_cpu}");
        let comm = group.join(0, &device).unwrap();
        assert!(group.join(0, &device).unwrap_err().to_string().contains("already"));
        let refused = |tensor: Tensor| comm.all_reduce(tensor).unwrap_err().to_string();
        assert!(
            refused(Tensor::new(&[1_f32], &Device::Cpu).unwrap()).contains("CPU, expected cuda:0")
        );
        assert!(refused(Tensor::new(&[1_u32], &device).unwrap()).contains("U32"));
        let elsewhere = std::thread::scope(|scope| {
            scope.spawn(|| refused(Tensor::new(&[1_f32], &device).unwrap())).join().unwrap()
        });
        assert!(elsewhere.contains("another thread"), "{elsewhere}");
        let none = Tensor::zeros((0, 3), DType::F32, &device).unwrap();
        assert_eq!(comm.all_reduce(none).unwrap().dims(), [0, 3]);
    }
}
