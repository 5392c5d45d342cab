//! One replica of the base model.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, Device, Tensor};

use super::body::Body;
use super::config::ModelConfig;
use super::group::Leader;
use super::rank::Rank;
use super::slice::Slice;
use super::step::{LogitRows, Step};
use super::tensors;
use crate::device::DeviceSpec;
use crate::kernels::{KV_BLOCK_SIZE, ThreadPool};
use crate::kv::{BlockPool, KvCache};
use crate::lora::{AdapterHandle, AdapterPrecision, LoraAdapter, Place};
use crate::weights::{ModelFiles, Quantisation};
use crate::{EngineError, Result};

/// Consecutive tokens of one sequence, following the positions that its cache already contains.
#[derive(Debug)]
pub struct Segment<'a> {
    /// Token ids, at least one.
    pub tokens: &'a [u32],
    /// The sequence's cache, to which the keys and values of `tokens` are appended.
    pub kv: &'a mut KvCache,
    /// The LoRA adapter to apply; `None` for the base model.
    pub adapter: Option<AdapterHandle>,
    /// The rows whose logits are computed.
    pub logits: LogitRows,
}

/// One replica of the base model, on one device or sharded over several; read-only once loaded.
#[derive(Debug)]
pub struct Llama {
    config: ModelConfig,
    device: Device,
    pool: BlockPool,
    leader: Leader,
    /// Whether the CPU kernels are used.
    pub(super) kernels: bool,
    /// Weights and cache are unquantised, so adapters are not quantised either.
    exact: bool,
    pub(super) running: Mutex<Running>,
}

/// The leader's shard, and buffers reused between forward passes.
pub(super) struct Running {
    pub(super) body: Body,
    /// Reused by [`Llama::forward`].
    step: Step,
    logits: Vec<f32>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.body {
            Body::Cpu(_) => "CPU kernels",
            Body::Tensors(_) => "candle tensors",
        })
    }
}

impl Llama {
    /// Loads the weights onto `device`; matrices that the file does not quantise are quantised as
    /// `quantisation` states.
    ///
    /// # Errors
    /// The files cannot be read, or a tensor is missing or has another shape; the error names it.
    pub fn load(files: &ModelFiles, quantisation: Quantisation, device: &Device) -> Result<Self> {
        Self::load_on(
            files,
            quantisation,
            device.clone(),
            ThreadPool::on_all_cores(),
            Rank::alone(),
            usize::MAX,
        )
    }

    /// Loads the shard of the leader, and waits until the other ranks are loaded by
    /// [`Follower::load`](super::Follower::load). The KV cache takes at most `kv_bytes` on all
    /// shards together.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`EngineError::Sharding`] when the model cannot be split over
    /// this number of devices.
    pub fn load_shard(
        files: &ModelFiles,
        quantisation: Quantisation,
        device: DeviceSpec,
        rank: Rank,
        kv_bytes: usize,
    ) -> Result<Self> {
        Self::load_on(files, quantisation, rank.open(device)?, device.threads(), rank, kv_bytes)
    }

    pub(super) fn load_on(
        files: &ModelFiles,
        quantisation: Quantisation,
        device: Device,
        threads: ThreadPool,
        rank: Rank,
        kv_bytes: usize,
    ) -> Result<Self> {
        let config = files.config().clone();
        let leader = Leader::new(Arc::clone(&rank.shared), rank.world);
        let body = Body::load_on(files, quantisation, device.clone(), threads, rank)?;
        let (number, kernels, exact) = match &body {
            Body::Cpu(shard) => (if shard.half() { 2 } else { 4 }, true, !shard.half()),
            Body::Tensors(_) => (tensors::kv_dtype(&device).size_in_bytes(), false, true),
        };
        let block_bytes =
            2 * config.layers * config.kv_heads * config.head_dim * KV_BLOCK_SIZE * number;
        let most = (kv_bytes / block_bytes).clamp(1, u32::MAX as usize / 2);
        let pool = BlockPool::new(most, block_bytes, kernels);
        leader.devices()?;
        let running = Mutex::new(Running { body, step: Step::default(), logits: Vec::new() });
        Ok(Self { config, device, pool, leader, kernels, exact, running })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The leader's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether all ranks are alive.
    pub(crate) fn is_whole(&self) -> bool {
        self.leader.is_whole()
    }

    /// The block pool of the KV cache.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Creates an empty KV cache for one sequence.
    pub fn new_cache(&self) -> KvCache {
        self.pool.cache()
    }

    /// Loads the LoRA adapter in the PEFT folder `folder` onto every shard.
    ///
    /// # Errors
    /// The errors of [`LoraAdapter::load`].
    pub fn load_adapter(
        &self,
        name: &str,
        folder: &Path,
        base_sha256: &str,
        precision: AdapterPrecision,
    ) -> Result<AdapterHandle> {
        let devices = self.leader.devices()?;
        let world = devices.len();
        let precision = if self.exact { AdapterPrecision::File } else { precision };
        let kernels = self.kernels.then_some(precision);
        let place = |(rank, device)| {
            Ok(Place { slice: Slice::new(&self.config, rank, world)?, device, kernels })
        };
        let places = devices.into_iter().enumerate().map(place).collect::<Result<Vec<_>>>()?;
        Ok(AdapterHandle(Arc::new(LoraAdapter::load_sharded(
            folder,
            name,
            &self.config,
            base_sha256,
            &places,
        )?)))
    }

    /// One forward pass over a ragged batch: appends each segment's keys and values to its cache
    /// and returns f32 logits `[rows, vocabulary]` for the requested rows, in the order of the
    /// segments.
    ///
    /// On an error the caches' lengths are unchanged.
    ///
    /// # Errors
    /// An empty segment, a token outside the vocabulary, a sequence longer than the context window,
    /// too few free blocks in the KV cache, or a device failure.
    pub fn forward(&self, batch: &mut [Segment<'_>]) -> Result<Tensor> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Running { step, logits, .. } = &mut *running;
        let (mut step, mut logits) = (std::mem::take(step), std::mem::take(logits));
        drop(running);
        step.clear();
        batch.iter().try_for_each(|segment| self.check(segment))?;
        let wants: usize = batch.iter().map(|segment| segment.kv.wants(segment.tokens.len())).sum();
        if wants > self.pool.free() {
            return Err(EngineError::OutOfBlocks {
                blocks: self.pool.capacity(),
                tokens: KV_BLOCK_SIZE,
            });
        }
        for segment in batch.iter_mut() {
            step.push(segment.tokens, segment.kv, segment.adapter.as_ref(), segment.logits)?;
        }
        self.run(&mut step, &mut logits)?;
        batch.iter_mut().for_each(|segment| segment.kv.advance(segment.tokens.len()));
        let found =
            Tensor::from_slice(&logits, (step.reads.len(), self.config.vocabulary), &Device::Cpu)?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        (running.step, running.logits) = (step, logits);
        Ok(found)
    }

    /// Runs a step on every shard and writes the logits, `[rows read, vocabulary]`.
    ///
    /// # Errors
    /// A device failed or a rank was lost.
    pub(crate) fn run(&self, step: &mut Step, logits: &mut Vec<f32>) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        (step.blocks, step.most_blocks) = (self.pool.high_water(), self.pool.capacity());
        self.leader.run(step, |step| running.body.forward(&self.config, step, logits))
    }

    fn check(&self, segment: &Segment<'_>) -> Result<()> {
        if segment.tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&token) =
            segment.tokens.iter().find(|&&token| token as usize >= self.config.vocabulary)
        {
            return Err(EngineError::TokenOutOfRange { token, vocabulary: self.config.vocabulary });
        }
        let end = segment.kv.len() + segment.tokens.len();
        if end > self.config.context_length {
            return Err(EngineError::ContextOverflow {
                prompt: end,
                max_tokens: 0,
                window: self.config.context_length,
            });
        }
        Ok(())
    }
}

/// The token with the highest logit in each row of logits `[rows, vocabulary]`; the lowest id wins
/// ties.
///
/// # Errors
/// The device failed.
pub fn argmax(logits: &Tensor) -> Result<Vec<u32>> {
    Ok(logits.argmax(D::Minus1)?.to_vec1()?)
}
