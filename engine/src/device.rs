//! Names of devices, as they stand in `pool.groups`: `cpu` (all cores as one device), `cpu:N` (one core), `cuda:N`.

use std::fmt;
use std::str::FromStr;

use crate::kernels::Team;
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

impl DeviceSpec {
    /// The threads that compute on it: on `cpu:N` the calling thread, which is pinned to that core, else one a core.
    pub(crate) fn team(self) -> Team {
        match self {
            Self::CpuCore(core) => {
                pin(core);
                Team::new(1)
            }
            Self::Cpu | Self::Cuda(_) => Team::on_all_cores(),
        }
    }
}

/// Pins the calling thread to a core, where the system lets us.
fn pin(core: usize) {
    let pinned = core_affinity::get_core_ids()
        .and_then(|cores| cores.into_iter().find(|id| id.id == core))
        .is_some_and(core_affinity::set_for_current);
    if !pinned {
        tracing::warn!(core, "the thread could not be pinned to its core");
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
