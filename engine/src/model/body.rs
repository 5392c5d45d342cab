//! One rank's shard of the model, on the CPU kernels or on candle tensors.

use candle_core::Device;

use super::config::ModelConfig;
use super::cpu::CpuShard;
use super::rank::Rank;
use super::slice::Slice;
use super::step::Step;
use super::tensors::TensorShard;
use crate::Result;
use crate::comm::{Communicator, SingleRank};
use crate::device::DeviceSpec;
use crate::kernels::ThreadPool;
use crate::weights::{ModelFiles, Quantisation};

/// Weights and KV cache of one shard.
pub(super) enum Body {
    Cpu(Box<CpuShard>),
    Tensors(Box<TensorShard>),
}

impl Body {
    pub(super) fn forward(
        &mut self,
        config: &ModelConfig,
        step: &Step,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        match self {
            Self::Cpu(shard) => shard.forward(config, step, logits),
            Self::Tensors(shard) => shard.forward(config, step, logits),
        }
    }

    /// Opens `device` and loads the shard of `rank` on it.
    pub(super) fn load(
        files: &ModelFiles,
        quantisation: Quantisation,
        device: DeviceSpec,
        rank: Rank,
    ) -> Result<Self> {
        Self::load_on(files, quantisation, rank.open(device)?, device.threads(), rank)
    }

    pub(super) fn load_on(
        files: &ModelFiles,
        quantisation: Quantisation,
        device: Device,
        threads: ThreadPool,
        mut rank: Rank,
    ) -> Result<Self> {
        let config = files.config();
        let slice = Slice::new(config, rank.index, rank.world)?;
        let mut reader = files.reader()?;
        let comm = rank.comm.take();
        let body = if device.is_cpu() && config.suits_kernels() {
            Self::Cpu(Box::new(CpuShard::load(
                &mut reader,
                config,
                quantisation,
                slice,
                comm,
                threads,
            )?))
        } else {
            let comm: Box<dyn Communicator> = match comm {
                None => Box::new(SingleRank),
                Some(comm) => rank.communicator(comm, &device)?,
            };
            Self::Tensors(Box::new(TensorShard::load(
                &mut reader,
                config,
                quantisation,
                slice,
                comm,
                &device,
            )?))
        };
        rank.settle(&device);
        Ok(body)
    }
}
