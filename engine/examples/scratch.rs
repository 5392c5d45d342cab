//! Measures the engine on the default model and prints a table: `make bench`. Rounds alternate, so that a drifting machine hits all alike;
//! medians and ranges are given.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use nyx_engine::lora::Target;
use nyx_engine::{
    AdapterHandle, Engine, EngineOptions, Finished, GenerateJob, ModelFiles, Piece, Result, SamplingParams, ScoreJob, Text, TokenSink,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

type Fallible<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rank of the adapters, all seven projections of every layer.
const RANK: usize = 16;

struct Sink(SyncSender<Result<Finished>>);

impl TokenSink for Sink {
    fn piece(&mut self, _: Piece) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
    fn finish(self: Box<Self>, end: Result<Finished>) {
        // the bench that asked for it waits
        drop(self.0.send(end));
    }
}

/// An adapter in f16, from a seed.
fn make_adapter(files: &ModelFiles, folder: &Path, seed: u64) -> Fallible<()> {
    std::fs::create_dir_all(folder)?;
    let config = serde_json::json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "bias": "none"});
    std::fs::write(folder.join("adapter_config.json"), config.to_string())?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut tensors = HashMap::new();
    for layer in 0..files.config().layers {
        for target in Target::ALL {
            let [out, columns] = target.shape(files.config());
            for (matrix, rows, columns) in [("lora_A", RANK, columns), ("lora_B", out, RANK)] {
                let values: Vec<f32> = (0..rows * columns).map(|_| random.random_range(-0.02..0.02)).collect();
                let name = format!("base_model.model.model.layers.{layer}.{}.{matrix}.weight", target.module());
                tensors.insert(name, Tensor::from_vec(values, (rows, columns), &Device::Cpu)?.to_dtype(DType::F16)?);
            }
        }
    }
    Ok(candle_core::safetensors::save(&tensors, folder.join("adapter_model.safetensors"))?)
}

struct Bench {
    engine: Engine,
    adapters: Vec<AdapterHandle>,
    random: StdRng,
}

impl Bench {
    /// Tokens of plain text, no control tokens among them.
    fn prompt(&mut self, tokens: usize) -> Vec<u32> {
        (0..tokens).map(|_| self.random.random_range(100..40_000)).collect()
    }

    fn submit(&mut self, prompt: Vec<u32>, prefix: usize, tokens: usize, adapter: Option<usize>) -> Receiver<Result<Finished>> {
        let (sender, receiver) = sync_channel(1);
        // an answer does not end by itself
        let logit_bias = vec![(0, -100.0), (2, -100.0)];
        self.engine.submit(GenerateJob {
            prompt,
            cacheable_prefix: prefix,
            params: SamplingParams { max_tokens: tokens, logit_bias, ..SamplingParams::default() },
            adapter: adapter.map(|index| self.adapters[index].clone()),
            client: String::new(),
            cancelled: Box::new(|| false),
            deadline: None,
            sink: Box::new(Sink(sender)),
        });
        receiver
    }

    /// Seconds until everything is done.
    fn run(&mut self) -> Fallible<f64> {
        let begun = Instant::now();
        while self.engine.has_work() {
            self.engine.step()?;
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Tokens a second, prompts included.
    fn sequences(&mut self, count: usize, prompt: usize, tokens: usize, adapter: impl Fn(usize) -> Option<usize>) -> Fallible<f64> {
        let jobs: Vec<_> = (0..count)
            .map(|index| {
                let prompt = self.prompt(prompt);
                self.submit(prompt, 0, tokens, adapter(index))
            })
            .collect();
        let seconds = self.run()?;
        for job in jobs {
            job.recv()??;
        }
        Ok((count * tokens) as f64 / seconds)
    }

    /// Milliseconds to the first token of a prompt whose first `prefix` tokens are `shared`.
    fn first_token(&mut self, shared: &[u32], new: usize, adapter: Option<usize>) -> Fallible<f64> {
        let prompt = [shared.to_vec(), self.prompt(new)].concat();
        let job = self.submit(prompt, shared.len(), 1, adapter);
        let seconds = self.run()?;
        job.recv()??;
        Ok(seconds * 1e3)
    }

    /// Milliseconds for scoring five names after a 60-token question with a warm prompt.
    fn decision(&mut self, master: &[u32]) -> Fallible<f64> {
        let prompt = [master.to_vec(), self.prompt(60)].concat();
        let continuations = (0..5).map(|_| self.prompt(3)).collect();
        let (sender, receiver) = sync_channel(1);
        let reply = Box::new(move |scores| drop(sender.send(scores)));
        let cacheable_prefix = master.len();
        self.engine.score(ScoreJob { prompt, cacheable_prefix, continuations, adapter: None, cancelled: Box::new(|| false), reply });
        let seconds = self.run()?;
        receiver.recv()??;
        Ok(seconds * 1e3)
    }
}

/// A figure's samples.
#[derive(Default)]
struct Figures(Vec<(&'static str, &'static str, Vec<f64>)>);

impl Figures {
    fn add(&mut self, name: &'static str, unit: &'static str, value: f64) {
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((.., samples)) => samples.push(value),
            None => self.0.push((name, unit, vec![value])),
        }
    }
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

#[allow(clippy::print_stdout, reason = "a program that prints its figures")]
fn main() -> Fallible<()> {
    let model = std::env::args().nth(1).map(PathBuf::from).ok_or("usage: bench MODEL.gguf [ROUNDS]")?;
    let rounds: usize = 1;
    let which = std::env::args().nth(2).unwrap_or_default();
    let files = ModelFiles::open(&model)?;
    let text = Arc::new(Text::load(&files)?);
    let mut engine =
        Engine::load(&files, text, &Device::Cpu, EngineOptions { speculate: std::env::var("SPEC").is_ok(), ..EngineOptions::default() })?;
    let folder = tempfile::tempdir()?;
    let mut adapters = Vec::new();
    for index in 0..5 {
        let path = folder.path().join(index.to_string());
        make_adapter(&files, &path, index)?;
        adapters.push(engine.load_adapter(&index.to_string(), &path)?);
    }
    let bytes = adapters[0].0.bytes();
    println!("{}: {}; adapters of {:.1} MB; {} rounds", files.info().name, files.info().tensors, bytes as f64 / 1e6, rounds);
    let mut bench = Bench { engine, adapters, random: StdRng::seed_from_u64(1) };

    bench.sequences(5, 8, 32, Some)?;
    let n: usize = std::env::args().nth(3).unwrap().parse()?;
    let mut took = vec![];
    for _ in 0..n {
        took.push(match which.as_str() {
            "five" => bench.sequences(5, 8, 128, |_| None)?,
            "shared" => bench.sequences(5, 8, 128, |_| Some(0))?,
            "adapters" => bench.sequences(5, 8, 128, Some)?,
            "one" => bench.sequences(1, 8, 128, |_| None)?,
            "prefill" => {
                let p = bench.prompt(512);
                let j = bench.submit(p, 0, 1, None);
                let s = 512.0 / bench.run()?;
                j.recv()??;
                s
            }
            _ => bench.sequences(5, 200, 64, Some)?,
        });
    }
    took.sort_by(f64::total_cmp);
    println!("{which}: median {:.1} best {:.1}", took[n / 2], took[n - 1]);
    Ok(())
}
