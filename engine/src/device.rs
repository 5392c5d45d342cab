//! Device names, as used in `pool.replicas`: `cpu` (all cores as one device), `cpu:N` (one core),
//! `cuda:N`; and the properties of this machine's CUDA devices.

use std::fmt;
use std::str::FromStr;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};

use crate::kernels::ThreadPool;
use crate::{EngineError, Result};

/// Whether this build supports GPUs.
pub const WITH_CUDA: bool = cfg!(feature = "cuda");
/// Whether this build can shard one model over several GPUs.
pub const WITH_NCCL: bool = cfg!(feature = "nccl");

/// A device by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceSpec {
    /// All cores as one device.
    Cpu,
    /// One core.
    CpuCore(usize),
    /// One CUDA device; opening it needs the `cuda` feature.
    Cuda(usize),
}

impl DeviceSpec {
    /// Opens the device for use on this thread; GPU work goes through the thread's default stream.
    ///
    /// # Errors
    /// [`EngineError::Device`] when the device does not exist, this build does not support it, or
    /// it computes wrong products.
    pub fn open(self) -> Result<Device> {
        self.open_by(Device::new_cuda)
    }

    /// Opens the device as a member of a group: a GPU gets its own stream, which NCCL needs and
    /// which adds a small cost per tensor.
    ///
    /// # Errors
    /// As [`DeviceSpec::open`].
    pub fn open_in_group(self) -> Result<Device> {
        self.open_by(Device::new_cuda_with_stream)
    }

    fn open_by(self, cuda: impl Fn(usize) -> candle_core::Result<Device>) -> Result<Device> {
        match self {
            Self::Cpu | Self::CpuCore(_) => Ok(Device::Cpu),
            Self::Cuda(ordinal) if WITH_CUDA => {
                let bad = |reason: String| EngineError::Device { device: self.to_string(), reason };
                let device = cuda(ordinal).map_err(|error| bad(device_error(error)))?;
                if multiplies_rightly(&device).map_err(|error| bad(device_error(error)))? {
                    return Ok(device);
                }
                let advice = "build on this machine, or with CUDA_COMPUTE_CAP set to its own";
                Err(bad(format!(
                    "its quantised products are wrong, as are those of kernels for another compute capability: {advice}"
                )))
            }
            Self::Cuda(_) => Err(EngineError::Device {
                device: self.to_string(),
                reason:
                    "this build has no CUDA support; build with `--features cuda` or use \"cpu\""
                        .into(),
            }),
        }
    }
}

impl DeviceSpec {
    /// The threads that compute for it: on `cpu:N` the calling thread, which is pinned to that
    /// core, else one per core.
    pub(crate) fn threads(self) -> ThreadPool {
        match self {
            Self::CpuCore(core) => {
                pin(core);
                ThreadPool::new(1)
            }
            Self::Cpu | Self::Cuda(_) => ThreadPool::on_all_cores(),
        }
    }
}

/// Pins the calling thread to a core, where the operating system permits it.
fn pin(core: usize) {
    // not looked up among this thread's cores: it may be pinned to another one
    let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: core });
    if !pinned {
        tracing::warn!(core, "the thread could not be pinned to its core");
    }
}

/// Strips the backtrace that candle adds when `RUST_BACKTRACE` is set: the message is for the
/// operator who configured the device.
pub(crate) fn device_error(error: candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => device_error(*inner),
        other => other.to_string(),
    }
}

/// Checks that quantised products are correct. candle's kernels are compiled for one compute
/// capability; on another they leave the output buffer unwritten, without an error.
fn multiplies_rightly(device: &Device) -> candle_core::Result<bool> {
    const SIZE: usize = 32;
    // integers up to 127 in every block: exact in 8 bits, with scale 1
    let weight: Vec<f32> =
        (0..SIZE * SIZE).map(|at| if at / SIZE == at % SIZE { 127.0 } else { 0.0 }).collect();
    let weight =
        QTensor::quantize(&Tensor::from_vec(weight, (SIZE, SIZE), device)?, GgmlDType::Q8_0)?;
    let weight = QMatMul::from_qtensor(weight)?;
    // up to 8 rows use other kernels than more rows
    for rows in [1, 16] {
        let x: Vec<f32> = (0..rows * SIZE)
            .map(|at| if at % SIZE == 0 { 127.0 } else { (at * 37 % 255) as f32 - 127.0 })
            .collect();
        let products = weight
            .forward(&Tensor::from_slice(&x, (rows, SIZE), device)?)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        if !products.iter().zip(&x).all(|(product, x)| (product - 127.0 * x).abs() < 1.0) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::CpuCore(core) => write!(f, "cpu:{core}"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self> {
        let unknown = || EngineError::Device {
            device: name.to_owned(),
            reason: "expected \"cpu\", \"cpu:N\" or \"cuda:N\"".into(),
        };
        match name.split_once(':') {
            None if name == "cpu" => Ok(Self::Cpu),
            Some(("cpu", core)) => core.parse().map(Self::CpuCore).map_err(|_| unknown()),
            Some(("cuda", ordinal)) => ordinal.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

/// A GPU as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// Its number, from 0.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Free memory in bytes.
    pub free_bytes: usize,
    /// All memory in bytes.
    pub total_bytes: usize,
    /// Major and minor version.
    pub compute_capability: (u32, u32),
    /// The driver's version, where the system reports it.
    pub driver: Option<String>,
}

impl fmt::Display for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
        let (free, total) = (gib(self.free_bytes), gib(self.total_bytes));
        let (major, minor) = self.compute_capability;
        let driver = self.driver.as_deref().unwrap_or("unknown");
        write!(
            f,
            "{}: {}, {free:.1} of {total:.1} GiB free, ",
            DeviceSpec::Cuda(self.ordinal),
            self.name
        )?;
        write!(f, "compute capability {major}.{minor}, driver {driver}")
    }
}

/// All CUDA devices of this machine.
///
/// # Errors
/// [`EngineError::Device`] without a driver, without a device, or when this build has no CUDA
/// support.
#[cfg(feature = "cuda")]
pub fn cuda_devices() -> Result<Vec<CudaDevice>> {
    use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};

    let bad = |device: &str, error: DriverError| EngineError::Device {
        device: device.to_owned(),
        reason: error.to_string(),
    };
    let found = CudaContext::device_count().map_err(|error| bad("cuda", error))?;
    let driver = driver_version();
    let describe = |ordinal: usize| -> Result<CudaDevice, DriverError> {
        let context = CudaContext::new(ordinal)?;
        let (free_bytes, total_bytes) = context.mem_get_info()?;
        let (major, minor) = context.compute_capability()?;
        let compute_capability = (major.unsigned_abs(), minor.unsigned_abs());
        Ok(CudaDevice {
            ordinal,
            name: context.name()?,
            free_bytes,
            total_bytes,
            compute_capability,
            driver: driver.clone(),
        })
    };
    (0..usize::try_from(found).unwrap_or(0))
        .map(|ordinal| {
            describe(ordinal).map_err(|error| bad(&DeviceSpec::Cuda(ordinal).to_string(), error))
        })
        .collect()
}

/// All CUDA devices of this machine.
///
/// # Errors
/// Always [`EngineError::Device`]: this build has no CUDA support.
#[cfg(not(feature = "cuda"))]
pub fn cuda_devices() -> Result<Vec<CudaDevice>> {
    Err(EngineError::Device {
        device: "cuda".into(),
        reason: "this build has no CUDA support; build with `--features cuda`".into(),
    })
}

/// As the Linux kernel module reports it: CUDA itself reports only its API version.
#[cfg(feature = "cuda")]
fn driver_version() -> Option<String> {
    let version = std::fs::read_to_string("/sys/module/nvidia/version").ok()?;
    Some(version.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_named_with_its_memory_capability_and_driver() {
        let device = CudaDevice {
            ordinal: 1,
            name: "NVIDIA A100".into(),
            free_bytes: 39 << 30,
            total_bytes: 40 << 30,
            compute_capability: (8, 0),
            driver: Some("580.65.06".into()),
        };
        assert_eq!(
            device.to_string(),
            "cuda:1: NVIDIA A100, 39.0 of 40.0 GiB free, compute capability 8.0, driver 580.65.06"
        );
        assert!(CudaDevice { driver: None, ..device }.to_string().ends_with("driver unknown"));
    }

    #[test]
    fn a_device_is_tried_before_it_is_used() {
        assert!(multiplies_rightly(&Device::Cpu).unwrap());
    }

    #[test]
    fn cuda_devices_are_found_or_the_reason_is_reported() {
        match cuda_devices() {
            Ok(found) => found.iter().for_each(|device| println!("{device}")),
            Err(error) => assert!(
                error.to_string().contains(if WITH_CUDA { "CUDA" } else { "--features cuda" }),
                "{error}"
            ),
        }
    }
}
