//! The Llama architecture over a ragged batch. OWNER: E1 (interface fixed, inside free).

use candle_core::{Device, Tensor};

use crate::Result;
use crate::comm::Communicator;
use crate::kv::KvCache;
use crate::lora::AdapterHandle;
use crate::weights::{ModelFiles, Quantisation};

/// A Llama model's shape, read from `config.json` or GGUF metadata. Fields: E1 adds what is needed.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocabulary: usize,
    pub context_length: usize,
    pub norm_eps: f64,
    pub rope_theta: f32,
    pub tied: bool,
}

/// For which of a segment's rows logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    None,
    Last,
    All,
}

/// A run of consecutive tokens of one sequence, after what its cache already holds.
#[derive(Debug)]
pub struct Segment<'a> {
    pub tokens: &'a [u32],
    pub kv: &'a mut KvCache,
    pub adapter: Option<AdapterHandle>,
    pub logits: LogitRows,
}

/// The base model on one device, read-only once loaded.
#[derive(Debug)]
pub struct Llama {}

impl Llama {
    pub fn load(_files: &ModelFiles, _quantisation: Quantisation, _device: &Device) -> Result<Self> {
        todo!()
    }
    pub fn config(&self) -> &ModelConfig {
        todo!()
    }
    pub fn device(&self) -> &Device {
        todo!()
    }
    /// An empty cache for a sequence of this model.
    pub fn new_cache(&self) -> Result<KvCache> {
        todo!()
    }
    /// One forward pass over a ragged batch: appends each segment's keys and values to its cache and returns f32 logits
    /// `[rows, vocabulary]` for the rows asked for, in the order of the segments.
    pub fn forward(&self, _batch: &mut [Segment<'_>], _comm: &dyn Communicator) -> Result<Tensor> {
        todo!()
    }
}
