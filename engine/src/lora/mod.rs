//! LoRA adapters in PEFT's format, applied beside the base, never merged into it. OWNER: E1.

use std::path::Path;
use std::sync::Arc;

use crate::{ModelConfig, Result};

/// One adapter's deltas on one device, packed for this model.
#[derive(Debug)]
pub struct LoraAdapter {}

/// A loaded adapter, shared by the sequences that speak through it.
#[derive(Debug, Clone)]
pub struct AdapterHandle(pub Arc<LoraAdapter>);

impl LoraAdapter {
    /// Reads a PEFT folder (`adapter_config.json` + `adapter_model.safetensors`).
    pub fn load(_folder: &Path, _name: &str, _model: &ModelConfig, _base_sha256: &str, _device: &candle_core::Device) -> Result<Self> {
        todo!()
    }
    /// The name it was loaded under.
    pub fn name(&self) -> &str {
        todo!()
    }
    /// SHA-256 of its configuration, weights and base, hex: its identity.
    pub fn id(&self) -> &str {
        todo!()
    }
    /// Bytes of device memory.
    pub fn bytes(&self) -> usize {
        todo!()
    }
}
