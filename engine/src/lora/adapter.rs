//! Low-rank adapters in memory.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::ModelConfig;
use crate::kernels::LoraMatrix;
use crate::model::Slice;

/// The linear layers that an adapter may target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Target {
    /// The query projection.
    #[serde(rename = "q_proj")]
    Q,
    /// The key projection.
    #[serde(rename = "k_proj")]
    K,
    /// The value projection.
    #[serde(rename = "v_proj")]
    V,
    /// The output projection of attention.
    #[serde(rename = "o_proj")]
    O,
    /// The gate projection of the MLP.
    #[serde(rename = "gate_proj")]
    Gate,
    /// The up projection of the MLP.
    #[serde(rename = "up_proj")]
    Up,
    /// The down projection of the MLP.
    #[serde(rename = "down_proj")]
    Down,
}

impl Target {
    /// All targets, in the order of [`Target::index`].
    pub const ALL: [Self; 7] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Its index in [`ALL`](Self::ALL).
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// PEFT's name of the module.
    pub fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// `[out, in]` of the base weight.
    pub fn shape(self, config: &ModelConfig) -> [usize; 2] {
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Self::Q => [queries, config.hidden],
            Self::K | Self::V => [keys, config.hidden],
            Self::O => [config.hidden, queries],
            Self::Gate | Self::Up => [config.intermediate, config.hidden],
            Self::Down => [config.hidden, config.intermediate],
        }
    }
}

/// Precision of adapters with quantised weights on the CPU kernels. With f32 weights, and with
/// candle's tensors, adapters are not quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum AdapterPrecision {
    /// Quantised to 8 bits with one scale per sixteen numbers of a row, and multiplied with
    /// quantised activations: the adapter's contribution changes by 0.5 to 0.8 % on random inputs,
    /// and a step with many adapters reads about half the bytes.
    #[default]
    Int8,
    /// f16 where the file has f16, else f32: for comparisons.
    File,
}

/// The low-rank pair of one module of a layer: `a` is `[rank, in]`, `b` `[out, rank]`.
#[derive(Debug)]
pub(crate) enum Delta {
    /// For the CPU kernels.
    Packed { a: LoraMatrix, b: LoraMatrix, scale: f32 },
    /// For candle's tensors; `b` is already scaled.
    Tensors { a: Tensor, b: Tensor },
}

/// One adapter's matrices on every shard of a model replica.
#[derive(Debug)]
pub struct LoraAdapter {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) rank: usize,
    pub(super) bytes: usize,
    pub(super) shards: Vec<Deltas>,
}

/// One shard's part of an adapter, by layer and target.
#[derive(Debug)]
pub(super) struct Deltas(pub(super) Vec<Option<Delta>>);

/// Where to place a shard's part of an adapter.
pub(crate) struct Place {
    pub slice: Slice,
    pub device: Device,
    /// For the CPU kernels; `None`: for candle's tensors.
    pub kernels: Option<AdapterPrecision>,
}

/// A loaded adapter, shared by the sequences that use it.
#[derive(Debug, Clone)]
pub struct AdapterHandle(pub Arc<LoraAdapter>);

impl AdapterHandle {
    /// Equal for handles of the same load of the same adapter.
    pub(crate) fn key(&self) -> *const LoraAdapter {
        Arc::as_ptr(&self.0)
    }
}

impl LoraAdapter {
    /// The name it was loaded under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of its configuration (keys sorted), weights and base, in hex: its identity, and the
    /// key of its entries in the prefix cache. Two loads with the same id compute the same, so they
    /// share cache entries.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The rank of its matrices.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Device memory in bytes, on all shards together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether its matrices are multiplied with quantised activations.
    pub(crate) fn is_rounded(&self) -> bool {
        let deltas = self.shards.iter().flat_map(|shard| &shard.0).flatten();
        deltas.into_iter().any(|delta| matches!(delta, Delta::Packed { a, .. } if a.is_rounded()))
    }

    pub(crate) fn delta(&self, rank: usize, layer: usize, target: Target) -> Option<&Delta> {
        self.shards.get(rank)?.0.get(place_of(layer, target))?.as_ref()
    }
}

pub(super) fn place_of(layer: usize, target: Target) -> usize {
    layer * Target::ALL.len() + target.index()
}
