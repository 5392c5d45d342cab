//! Test support: locates models and references, builds small models.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::lora::Target;
use crate::{ModelConfig, ModelFiles};

/// The folder that `make models` fills.
pub(crate) fn models() -> PathBuf {
    let cache = || {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
    };
    let set = std::env::var_os("NYX_MODELS").map(PathBuf::from);
    set.or_else(|| Some(cache()?.join("nyx/models"))).expect("neither NYX_MODELS nor HOME is set")
}

pub(crate) fn default_model() -> PathBuf {
    present(models().join("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"))
}

#[allow(dead_code)]
pub(crate) fn embedder() -> PathBuf {
    present(models().join("all-minilm-l6-v2"))
}

fn present(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is not there: run `make models`", path.display());
    path
}

/// Path of a file in tests/reference.
pub(crate) fn reference(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/reference").join(name)
}

/// A random number generator whose seed is printed; `NYX_TEST_SEED` replays it.
pub(crate) fn random() -> StdRng {
    let seed = std::env::var("NYX_TEST_SEED")
        .ok()
        .map_or_else(rand::random, |seed| seed.parse().expect("a whole number"));
    println!("NYX_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Writes a PEFT folder with random f16 weights for some or all of the layers' modules.
pub(crate) fn random_adapter(
    config: &ModelConfig,
    folder: &Path,
    rank: usize,
    targets: &[Target],
    random: &mut StdRng,
) {
    let settings =
        serde_json::json!({"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none"});
    std::fs::write(folder.join("adapter_config.json"), settings.to_string()).unwrap();
    let mut tensors = HashMap::new();
    for layer in 0..config.layers {
        for target in targets {
            let [out, columns] = target.shape(config);
            for (matrix, rows, columns) in [("lora_A", rank, columns), ("lora_B", out, rank)] {
                let values: Vec<f32> =
                    (0..rows * columns).map(|_| random.random_range(-0.05..0.05)).collect();
                let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu)
                    .unwrap()
                    .to_dtype(DType::F16)
                    .unwrap();
                tensors.insert(
                    format!(
                        "base_model.model.model.layers.{layer}.{}.{matrix}.weight",
                        target.module()
                    ),
                    tensor,
                );
            }
        }
    }
    candle_core::safetensors::save(&tensors, folder.join("adapter_model.safetensors")).unwrap();
}

/// Writes a folder with a small Llama of random f32 weights: the given `config.json` fields beside
/// fixed ones.
pub(crate) fn random_model(
    folder: &Path,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    intermediate: usize,
    random: &mut StdRng,
) {
    let (hidden, layers, vocabulary) = (heads * head_dim, 2, 300);
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
        "vocab_size": vocabulary, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize], around: f32| {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| around + random.random_range(-0.3..0.3)).collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    add("model.embed_tokens.weight".into(), &[vocabulary, hidden], 0.0);
    add("model.norm.weight".into(), &[hidden], 1.0);
    let shapes = ModelConfig {
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_dim,
        vocabulary,
        ..base_config()
    };
    for layer in 0..layers {
        for part in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{layer}.{part}.weight"), &[hidden], 1.0);
        }
        for target in Target::ALL {
            add(
                format!("model.layers.{layer}.{}.weight", target.module()),
                &target.shape(&shapes),
                0.0,
            );
        }
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
}

fn base_config() -> ModelConfig {
    ModelFiles::open(&reference("tiny-llama3")).unwrap().config().clone()
}

/// Counts the heap allocations of each thread.
pub(crate) mod heap {
    #![allow(unsafe_code, reason = "an allocator is unsafe by its nature; this one only counts")]

    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static TAKEN: Cell<usize> = const { Cell::new(0) };
    }

    struct Counting;

    #[global_allocator]
    static HEAP: Counting = Counting;

    // SAFETY: delegates to the system allocator.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // the counter of a thread that is ending is already destroyed
            let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
            unsafe { System.dealloc(start, layout) }
        }
    }

    /// The number of allocations of `work` on this thread.
    pub(crate) fn taken_by(work: impl FnOnce()) -> usize {
        let before = TAKEN.get();
        work();
        TAKEN.get() - before
    }
}
