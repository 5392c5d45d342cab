//! Names of devices, as they stand in `pool.groups`: `cpu` (all cores as one device), `cpu:N` (one core), `cuda:N`.

use std::fmt;
use std::str::FromStr;

use crate::{EngineError, Result};

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
    /// Opens the device.
    ///
    /// # Errors
    /// [`EngineError::Device`] when the device is not there or this build has no support for it.
    pub fn open(self) -> Result<candle_core::Device> {
        match self {
            Self::Cpu | Self::CpuCore(_) => Ok(candle_core::Device::Cpu),
            Self::Cuda(ordinal) if cfg!(feature = "cuda") => candle_core::Device::new_cuda(ordinal)
                .map_err(|error| EngineError::Device { device: self.to_string(), reason: error.to_string() }),
            Self::Cuda(_) => Err(EngineError::Device {
                device: self.to_string(),
                reason: "this build has no CUDA support; build with `--features cuda` or use \"cpu\"".into(),
            }),
        }
    }
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
        let unknown = || EngineError::Device { device: name.to_owned(), reason: "expected \"cpu\", \"cpu:N\" or \"cuda:N\"".into() };
        match name.split_once(':') {
            None if name == "cpu" => Ok(Self::Cpu),
            Some(("cpu", core)) => core.parse().map(Self::CpuCore).map_err(|_| unknown()),
            Some(("cuda", ordinal)) => ordinal.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}
