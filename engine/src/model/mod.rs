//! The Llama architecture (Touvron et al. 2023, with Llama 3's GQA and RoPE scaling) over a ragged batch.

mod attention;
mod config;
mod cpu;
mod linear;
mod tensors;
#[cfg(test)]
mod tests;

use candle_core::{D, Device, Tensor};

pub use config::{Llama3Scaling, ModelConfig, Rope};

use crate::comm::Communicator;
use crate::kv::KvCache;
use crate::lora::AdapterHandle;
use crate::weights::{ModelFiles, Quantisation};
use crate::{EngineError, Result};
use cpu::CpuModel;
use tensors::TensorModel;

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
pub struct Llama {
    config: ModelConfig,
    device: Device,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Cpu(Box<CpuModel>),
    Tensors(Box<TensorModel>),
}

impl Llama {
    /// Reads the weights onto `device`; those that the file does not quantise are quantised as asked.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape is named.
    pub fn load(files: &ModelFiles, quantisation: Quantisation, device: &Device) -> Result<Self> {
        let config = files.config().clone();
        let mut reader = files.reader()?;
        let body = if device.is_cpu() && config.suits_kernels() {
            Body::Cpu(Box::new(CpuModel::load(&mut reader, &config, quantisation)?))
        } else {
            Body::Tensors(Box::new(TensorModel::load(&mut reader, &config, quantisation, device)?))
        };
        Ok(Self { config, device: device.clone(), body })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// An empty cache for a sequence of this model.
    pub fn new_cache(&self) -> KvCache {
        match &self.body {
            Body::Cpu(model) => KvCache::paged(model.kv_shape()),
            Body::Tensors(_) => KvCache::tensors(self.config.layers, self.config.kv_heads, self.config.head_dim, &self.device),
        }
    }

    /// One forward pass over a ragged batch: appends each segment's keys and values to its cache and returns f32 logits
    /// `[rows, vocabulary]` for the rows asked for, in the order of the segments.
    ///
    /// On an error the caches' lengths are unchanged.
    ///
    /// # Errors
    /// An empty segment, a token outside the vocabulary, a sequence over the context window, or a device failure.
    pub fn forward(&self, batch: &mut [Segment<'_>], comm: &dyn Communicator) -> Result<Tensor> {
        for segment in batch.iter_mut() {
            self.check(segment)?;
            segment.kv.reserve(segment.tokens.len())?;
        }
        match &self.body {
            Body::Cpu(model) => model.forward(&self.config, batch),
            Body::Tensors(model) => model.forward(&self.config, batch, comm),
        }
    }

    fn check(&self, segment: &Segment<'_>) -> Result<()> {
        if segment.tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&token) = segment.tokens.iter().find(|&&token| token as usize >= self.config.vocabulary) {
            return Err(EngineError::TokenOutOfRange { token, vocabulary: self.config.vocabulary });
        }
        let end = segment.kv.len() + segment.tokens.len();
        if end > self.config.context_length {
            return Err(EngineError::ContextOverflow { prompt: end, max_tokens: 0, window: self.config.context_length });
        }
        Ok(())
    }
}

/// The rows of the batch whose logits are read.
fn logit_rows(batch: &[Segment<'_>]) -> impl Iterator<Item = usize> {
    let mut start = 0;
    batch.iter().flat_map(move |segment| {
        let end = start + segment.tokens.len();
        let read = match segment.logits {
            LogitRows::None => end..end,
            LogitRows::Last => end - 1..end,
            LogitRows::All => start..end,
        };
        start = end;
        read
    })
}

/// The best token of each row of logits `[rows, vocabulary]`; the lowest id of equals.
///
/// # Errors
/// When the device fails.
pub fn argmax(logits: &Tensor) -> Result<Vec<u32>> {
    Ok(logits.argmax(D::Minus1)?.to_vec1()?)
}
