//! Loading adapters from PEFT folders.

use std::path::Path;

use candle_core::Device;

use super::adapter::{LoraAdapter, Place};
use super::peft;
use crate::model::Slice;
use crate::{AdapterPrecision, ModelConfig, Result};

impl LoraAdapter {
    /// Reads a PEFT folder (`adapter_config.json` + `adapter_model.safetensors`) for the base with
    /// this shape and digest; nothing is quantised.
    ///
    /// # Errors
    /// [`EngineError::BadAdapter`](crate::EngineError::BadAdapter) when a file or tensor is
    /// missing, unsupported or of the wrong shape;
    /// [`EngineError::AdapterBaseMismatch`](crate::EngineError::AdapterBaseMismatch) when it names
    /// another base.
    pub fn load(
        folder: &Path,
        name: &str,
        model: &ModelConfig,
        base_sha256: &str,
        device: &Device,
    ) -> Result<Self> {
        let kernels = (device.is_cpu() && model.suits_kernels()).then_some(AdapterPrecision::File);
        let place = Place { slice: Slice::new(model, 0, 1)?, device: device.clone(), kernels };
        peft::load(folder, name, model, base_sha256, &[place])
    }

    /// As [`load`](Self::load), for each shard of a replica.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_sharded(
        folder: &Path,
        name: &str,
        model: &ModelConfig,
        base_sha256: &str,
        places: &[Place],
    ) -> Result<Self> {
        peft::load(folder, name, model, base_sha256, places)
    }
}
