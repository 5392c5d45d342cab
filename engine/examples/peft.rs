//! Compares Nyx's trainer with PyTorch and PEFT: the same base, adapter, examples, order, rank,
//! batch and learning rates.
//!
//! usage: peft MODEL.gguf EXAMPLES.json FOLDER PYTHON SCRIPT [STEPS]
//!
//! EXAMPLES.json is written by `nyx train SPECIALIST --objective sft --examples-to`. Each run has a
//! process of its own, one after the other, Nyx before and after PyTorch; the report goes to
//! FOLDER/peft.json.

#![allow(clippy::print_stdout, reason = "a program that prints its report")]

use std::path::{Path, PathBuf};
use std::process::Command;

use nyx_engine::ModelFiles;
use nyx_engine::train::{Example, TrainOptions, Trainer};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

const BATCH: usize = 8;
const WARM: usize = 1;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--ours", model, run, out] => ours(Path::new(model), Path::new(run), Path::new(out)),
        [model, examples, folder, python, script, rest @ ..] => {
            let steps = rest.first().map_or(Ok(50), |steps| steps.parse())?;
            compare(model, Path::new(examples), Path::new(folder), python, script, steps)
        }
        _ => Err("usage: peft MODEL.gguf EXAMPLES.json FOLDER PYTHON SCRIPT [STEPS]".into()),
    }
}

fn options(steps: usize, count: usize) -> TrainOptions {
    // as many epochs as the steps need
    TrainOptions {
        epochs: (steps * BATCH).div_ceil(count),
        batch: BATCH,
        ..TrainOptions::default()
    }
}

fn compare(
    model: &str,
    examples: &Path,
    folder: &Path,
    python: &str,
    script: &str,
    steps: usize,
) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    let examples: Vec<Example> = serde_json::from_slice(&std::fs::read(examples)?)?;
    let examples = &examples[..examples.len().min(steps * BATCH) / BATCH * BATCH];
    let files = ModelFiles::open(Path::new(model))?;
    let options = options(steps, examples.len());
    let adapter = folder.join("begin");
    Trainer::new(&files, options.clone())?.save(&adapter)?;
    let all = (examples.len() / BATCH * options.epochs) as u64;
    let batches: Vec<Vec<Value>> = examples
        .chunks(BATCH)
        .map(|batch| {
            batch
                .iter()
                .map(
                    |example| json!({"prompt": example.prompt, "answer": example.continuations[0]}),
                )
                .collect()
        })
        .cycle()
        .take(steps)
        .collect();
    let rates: Vec<f64> = (0..steps as u64).map(|step| options.optimiser.rate(step, all)).collect();
    let run = folder.join("run.json");
    let data = json!({
        "steps": batches, "rank": options.lora.rank, "alpha": options.lora.alpha, "rates": rates, "clip": options.optimiser.clip,
        "adapter": std::fs::canonicalize(&adapter)?,
    });
    std::fs::write(&run, data.to_string())?;
    let result = |name: &str| folder.join(format!("{name}.json"));
    let us = |name: &str| -> Result<Value, Failure> {
        let out = result(name);
        let status = Command::new(std::env::current_exe()?)
            .arg("--ours")
            .arg(model)
            .args([&run, &out])
            .status()?;
        if !status.success() {
            return Err("Nyx's own run failed".into());
        }
        read(&out)
    };
    let theirs = |dtype: &str| -> Result<Value, Failure> {
        let out = result(dtype);
        let status =
            Command::new(python).args([script, model]).arg(&run).arg(dtype).arg(&out).status()?;
        if !status.success() {
            return Err(format!("{script} failed in {dtype}").into());
        }
        read(&out)
    };
    let runs = [us("nyx-1")?, theirs("bfloat16")?, theirs("float32")?, us("nyx-2")?];
    let pace = |run: &Value| run["tokens_per_second"].as_f64().unwrap_or(0.0);
    let peak = |run: &Value| run["peak_memory"].as_f64().unwrap_or(0.0);
    // the end of a run is its last fifth; losses are compared with the f32 run, the precision that
    // both approximate
    let last = |run: &Value| -> f64 {
        let losses: Vec<f64> =
            run["losses"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let end = &losses[losses.len() - (losses.len() / 5).max(1)..];
        end.iter().sum::<f64>() / end.len() as f64
    };
    let [first, half, single, second] = &runs;
    let best = if pace(half) > pace(single) { half } else { single };
    let nyx = f64::midpoint(pace(first), pace(second));
    let report = json!({
        "tokens_per_second_ratio": nyx / pace(best), "peak_memory_ratio": peak(first).max(peak(second)) / peak(best).min(peak(half)),
        "final_loss_difference": last(first) / last(single) - 1.0, "steps": steps, "batch": BATCH, "best_dtype": best["dtype"],
        "final_loss": {"nyx": last(first), "bfloat16": last(half), "float32": last(single)},
        "tokens_per_second": {"nyx": [pace(first), pace(second)], "bfloat16": pace(half), "float32": pace(single)},
        "peak_memory": {"nyx": peak(first), "bfloat16": peak(half), "float32": peak(single)},
    });
    std::fs::write(folder.join("peft.json"), serde_json::to_string_pretty(&report)?)?;
    println!("{report:#}");
    Ok(())
}

fn read(path: &Path) -> Result<Value, Failure> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// One run of Nyx's trainer, in the order written to the plan.
fn ours(model: &Path, run: &Path, out: &Path) -> Result<(), Failure> {
    let data = read(run)?;
    let steps: Vec<Vec<Example>> = data["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|batch| {
            let each =
                batch.as_array().into_iter().flatten().map(|example| -> Result<Example, Failure> {
                    let tokens =
                        |name: &str| serde_json::from_value::<Vec<u32>>(example[name].clone());
                    Ok(Example {
                        prompt: tokens("prompt")?,
                        continuations: vec![tokens("answer")?],
                        target: nyx_engine::train::TrainingTarget::Answer,
                    })
                });
            each.collect::<Result<_, Failure>>()
        })
        .collect::<Result<_, Failure>>()?;
    let files = ModelFiles::open(model)?;
    let mut trainer =
        Trainer::new(&files, TrainOptions { batch: BATCH, ..TrainOptions::default() })?;
    trainer.begin_from(&PathBuf::from(data["adapter"].as_str().unwrap_or_default()))?;
    let rates: Vec<f64> = serde_json::from_value(data["rates"].clone())?;
    let (mut losses, mut tokens, mut started) = (Vec::new(), 0, std::time::Instant::now());
    for (step, (batch, rate)) in steps.iter().zip(rates).enumerate() {
        if step == WARM {
            (tokens, started) = (0, std::time::Instant::now());
        }
        losses.push(trainer.single_step(batch, rate)?);
        tokens += batch
            .iter()
            .map(|example| example.prompt.len() + example.continuations[0].len())
            .sum::<usize>();
    }
    let seconds = started.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    });
    let data = json!({"losses": losses, "tokens_per_second": tokens as f64 / seconds, "peak_memory": peak.unwrap_or(0) * 1024});
    std::fs::write(out, data.to_string())?;
    Ok(())
}
