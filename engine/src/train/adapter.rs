//! The trained parameters: one low-rank pair (A, B) per targeted linear layer, stored in one flat
//! vector, loaded from and saved to PEFT's format.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::lora::{Target, deinterleaved, interleaved};
use crate::weights::load_safetensors;
use crate::{EngineError, ModelConfig, Result};

/// The rank is padded to a multiple of this SIMD width; padding rows are 0 and stay 0.
const LANES: usize = 16;

/// Shape of the trained adapter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LoraShape {
    /// Rank of the low-rank matrices, at least 1.
    pub rank: usize,
    /// The low-rank product is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The linear layers that get a low-rank pair.
    pub targets: Vec<Target>,
}

impl Default for LoraShape {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, targets: Target::ALL.to_vec() }
    }
}

/// Position of one layer's pair in the flat vector: A `[padded rank, in]`, followed by B
/// transposed, `[padded rank, out]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    /// Offset of A, in elements.
    pub(super) at: usize,
    /// Input width of the layer.
    pub(super) columns: usize,
    /// Output width of the layer.
    pub(super) out: usize,
}

/// Layout of the flat parameter vector.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) shape: LoraShape,
    /// The rank, padded to a multiple of [`LANES`].
    pub(super) padded: usize,
    /// By layer and target; `None` for layers without a pair.
    pairs: Vec<Option<Pair>>,
    /// Length of the flat vector.
    pub(super) len: usize,
}

impl Layout {
    /// The layout of an adapter of `shape` for this model.
    ///
    /// # Errors
    /// The rank is 0 or above the hidden size, there are no targets, or alpha is not positive.
    pub(super) fn new(config: &ModelConfig, shape: LoraShape) -> Result<Self> {
        let refuse = |reason: String| Err(EngineError::Training { reason });
        if shape.rank == 0 || shape.rank > config.hidden {
            return refuse(format!("rank is {}, expected 1 to {}", shape.rank, config.hidden));
        }
        if shape.targets.is_empty() {
            return refuse("targets is empty, expected at least one linear layer".into());
        }
        if !(shape.alpha.is_finite() && shape.alpha > 0.0) {
            return refuse(format!("alpha is {}, expected a positive number", shape.alpha));
        }
        let padded = shape.rank.next_multiple_of(LANES);
        let (mut pairs, mut len) = (Vec::new(), 0);
        for _ in 0..config.layers {
            for target in Target::ALL {
                let [out, columns] = target.shape(config);
                pairs.push(shape.targets.contains(&target).then(|| {
                    let pair = Pair { at: len, columns, out };
                    len += padded * (columns + out);
                    pair
                }));
            }
        }
        Ok(Self { shape, padded, pairs, len })
    }

    pub(super) fn pair(&self, layer: usize, target: Target) -> Option<Pair> {
        self.pairs[layer * Target::ALL.len() + target.index()]
    }

    pub(super) fn scale(&self) -> f32 {
        (self.shape.alpha / self.shape.rank as f64) as f32
    }

    /// Matrix A of a pair, `[padded rank, in]`.
    pub(super) fn a<'a>(&self, values: &'a [f32], pair: Pair) -> &'a [f32] {
        &values[pair.at..pair.at + self.padded * pair.columns]
    }

    /// Matrix B of a pair, transposed: `[padded rank, out]`.
    pub(super) fn b<'a>(&self, values: &'a [f32], pair: Pair) -> &'a [f32] {
        &values[pair.at + self.padded * pair.columns
            ..pair.at + self.padded * (pair.columns + pair.out)]
    }

    /// Mutable A and transposed B of a pair.
    pub(super) fn both<'a>(
        &self,
        values: &'a mut [f32],
        pair: Pair,
    ) -> (&'a mut [f32], &'a mut [f32]) {
        values[pair.at..pair.at + self.padded * (pair.columns + pair.out)]
            .split_at_mut(self.padded * pair.columns)
    }

    /// Initial values, as in PEFT: A uniform in ±`1 / √in` (Kaiming with a = √5), B zero, so that
    /// the initial adapter does not change the model's output.
    pub(super) fn begin(&self, seed: u64) -> Vec<f32> {
        let (mut values, mut random) = (vec![0.0; self.len], StdRng::seed_from_u64(seed));
        for pair in self.pairs.iter().flatten() {
            let bound = 1.0 / (pair.columns as f32).sqrt();
            let used = self.shape.rank * pair.columns;
            values[pair.at..pair.at + used]
                .iter_mut()
                .for_each(|value| *value = random.random_range(-bound..bound));
        }
        values
    }

    /// Every pair with its layer and target.
    fn each(&self) -> impl Iterator<Item = (usize, Target, Pair)> + '_ {
        let named = |at: usize| (at / Target::ALL.len(), Target::ALL[at % Target::ALL.len()]);
        self.pairs.iter().enumerate().filter_map(move |(at, pair)| {
            let (layer, target) = named(at);
            pair.map(|pair| (layer, target, pair))
        })
    }

    /// Writes a PEFT folder: `adapter_config.json` and `adapter_model.safetensors` in f32, with
    /// rows in Hugging Face's order.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn save(
        &self,
        values: &[f32],
        config: &ModelConfig,
        base: &Base<'_>,
        folder: &Path,
    ) -> Result<()> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| EngineError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let mut tensors = HashMap::new();
        for (layer, target, pair) in self.each() {
            let rank = self.shape.rank;
            let a = Tensor::from_slice(
                &self.a(values, pair)[..rank * pair.columns],
                (rank, pair.columns),
                &Device::Cpu,
            )?;
            let b = Tensor::from_slice(
                &self.b(values, pair)[..rank * pair.out],
                (rank, pair.out),
                &Device::Cpu,
            )?
            .t()?
            .contiguous()?;
            let b = match heads(config, target) {
                Some(heads) => deinterleaved(&b, heads)?,
                None => b,
            };
            let name = |matrix: &str| {
                format!("base_model.model.model.layers.{layer}.{}.{matrix}.weight", target.module())
            };
            tensors.insert(name("lora_A"), a);
            tensors.insert(name("lora_B"), b);
        }
        let weights = folder.join("adapter_model.safetensors");
        candle_core::safetensors::save(&tensors, &weights)?;
        let modules: Vec<&str> = self
            .shape
            .targets
            .iter()
            .map(|target| target.module().rsplit('.').next().unwrap_or_default())
            .collect();
        let settings = serde_json::json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base.name, "base_sha256": base.sha256,
            "r": self.shape.rank, "lora_alpha": self.shape.alpha, "lora_dropout": 0.0, "bias": "none", "target_modules": modules,
            "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "use_rslora": false, "use_dora": false,
            "modules_to_save": null, "rank_pattern": {}, "alpha_pattern": {},
        });
        let path = folder.join("adapter_config.json");
        let text = serde_json::to_string_pretty(&settings)
            .map_err(|error| EngineError::Training { reason: error.to_string() })?;
        std::fs::write(&path, text + "\n").map_err(io(&path))
    }

    /// Reads a PEFT folder into a flat vector of this layout.
    ///
    /// # Errors
    /// The weights cannot be read, or a tensor is missing or has another shape.
    pub(super) fn read(&self, config: &ModelConfig, folder: &Path) -> Result<Vec<f32>> {
        let bad = |reason: String| EngineError::BadAdapter { path: folder.to_owned(), reason };
        let tensors = load_safetensors(&folder.join("adapter_model.safetensors"), &Device::Cpu)?;
        let mut values = vec![0.0; self.len];
        for (layer, target, pair) in self.each() {
            let get = |matrix: &str, shape: (usize, usize)| -> Result<Tensor> {
                let name = format!(
                    "base_model.model.model.layers.{layer}.{}.{matrix}.weight",
                    target.module()
                );
                let tensor =
                    tensors.get(&name).ok_or_else(|| bad(format!("tensor {name:?} is missing")))?;
                if tensor.dims2()? != shape {
                    return Err(bad(format!(
                        "tensor {name:?} has shape {:?}, expected {shape:?}",
                        tensor.dims()
                    )));
                }
                Ok(tensor.to_dtype(candle_core::DType::F32)?)
            };
            let (a, b) = (
                get("lora_A", (self.shape.rank, pair.columns))?,
                get("lora_B", (pair.out, self.shape.rank))?,
            );
            let b = match heads(config, target) {
                Some(heads) => interleaved(&b, heads)?,
                None => b,
            };
            let (to_a, to_b) = self.both(&mut values, pair);
            to_a[..self.shape.rank * pair.columns]
                .copy_from_slice(&a.flatten_all()?.to_vec1::<f32>()?);
            to_b[..self.shape.rank * pair.out]
                .copy_from_slice(&b.t()?.contiguous()?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(values)
    }
}

/// The base model, as recorded in the adapter's configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) name: &'a str,
    pub(super) sha256: &'a str,
}

/// The number of heads of a projection whose rows the base stores in GGUF's interleaved order;
/// `None` for projections in Hugging Face's order.
fn heads(config: &ModelConfig, target: Target) -> Option<usize> {
    match target {
        _ if !config.rope.interleaved => None,
        Target::Q => Some(config.heads),
        Target::K => Some(config.kv_heads),
        _ => None,
    }
}
