//! Benchmarks the engine against llama.cpp's server: `make bench`, or `bench MODEL.gguf [ROUNDS
//! [LLAMA_SERVER]]`.
//!
//! Every round measures every row of [`work::rows`] on each engine in turn, with the same prompts,
//! so that drift of the machine's speed affects both; ratios are medians of the per-round ratios.
//! Nyx runs in this process; llama.cpp's server is a child process, measured at a client over a
//! keep-alive loopback connection. Without a server, only Nyx is measured.

mod adapters;
mod check;
mod http;
mod llama;
mod machine;
mod memory;
mod nyx;
mod report;
mod work;

use std::path::{Path, PathBuf};

use nyx_engine::ModelFiles;

use llama::Server;
use machine::{Memory, Others};
use nyx::Nyx;
use report::{Engine, Samples};
use work::{Prompts, Served};

type Fallible<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Output folder.
const FOLDER: &str = "target/bench";

#[allow(clippy::print_stdout, reason = "a program that prints its figures")]
fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match given.as_slice() {
        // a child process of this program that measures its memory
        [memory::MODE, model, adapters] => {
            println!("{}", memory::of_nyx_here(Path::new(model), Path::new(adapters))?);
            Ok(())
        }
        [model] => bench(Path::new(model), 5, None),
        [model, rounds] => bench(Path::new(model), rounds.parse()?, None),
        [model, rounds, server] => {
            bench(Path::new(model), rounds.parse()?, Some(Path::new(server)))
        }
        [] | [_, _, _, _, ..] => Err("usage: bench MODEL.gguf [ROUNDS [LLAMA_SERVER]]".into()),
    }
}

#[allow(clippy::print_stdout, reason = "a program that prints its figures")]
#[allow(clippy::too_many_lines, reason = "the bench, one measurement after the other")]
fn bench(model: &Path, rounds: usize, server: Option<&Path>) -> Fallible<()> {
    let folder = PathBuf::from(FOLDER);
    std::fs::create_dir_all(&folder)?;
    let buffer = Memory::new();
    let mut machine = machine::describe(&buffer);
    println!("{}\n", report::machine_lines(&machine));

    let files = ModelFiles::open(model)?;
    let adapters = adapters::make(&files, &folder.join("adapters"))?;
    println!(
        "{}: {}; {} adapters of {:.1} MB",
        files.info().name,
        files.info().tensors,
        adapters::COUNT,
        adapters.bytes as f64 / 1e6
    );
    let mut nyx = Nyx::load(&files, &adapters, false)?;
    let mut drafting = Nyx::load(&files, &adapters, true)?;

    let mut q4_1 = None;
    let mut q4_0 = None;
    match server {
        None => println!(
            "\nllama.cpp's server was not built (scripts/llama-server says why): Nyx is measured alone, without ratios to it"
        ),
        Some(server) => {
            let mut started =
                Server::start(server, model, &adapters, llama::CONTEXT, &folder.join("llama.log"))?;
            println!(
                "the exported adapters are the same ones: {}",
                check::same_adapters(&mut nyx, &mut started, &adapters, &files)?
            );
            started.must_idle()?;
            q4_1 = Some(started);
            let other = folder.join("model-q4_0.gguf");
            if adapters::write_q4_0(model, &other)? {
                let started = Server::start(
                    server,
                    &other,
                    &adapters::Adapters::default(),
                    llama::CONTEXT,
                    &folder.join("llama-q4_0.log"),
                )?;
                started.must_idle()?;
                q4_0 = Some(started);
            }
        }
    }

    let mut samples = Samples::default();
    let (mut prompts, rows) = (Prompts::new(), work::rows());
    let master = prompts.tokens(work::MASTER);
    let others = Others::watch(q4_1.iter().chain(&q4_0).map(Server::process));
    for round in 0..=rounds {
        // the first round is a warm-up
        let keep = round > 0;
        println!(
            "{}",
            if keep { format!("round {round} of {rounds}") } else { "warming up".into() }
        );
        for row in &rows {
            let plan = (row.plan)(&mut prompts);
            let mut engines: Vec<(Engine, &mut dyn Served)> = vec![(Engine::Nyx, &mut nyx)];
            if row.with_drafts {
                engines.push((Engine::NyxDrafts, &mut drafting));
            }
            if let Some(server) = q4_1.as_mut().filter(|_| row.of_llama) {
                engines.push((Engine::Llama, server));
            }
            if let Some(server) = q4_0.as_mut().filter(|_| row.of_q4_0) {
                engines.push((Engine::LlamaQ4_0, server));
            }
            // alternate the order, since the first engine may find the machine in another state
            let count = engines.len();
            engines.rotate_left(round % count);
            for (name, engine) in engines {
                let found = plan
                    .measure(engine)
                    .map_err(|error| format!("{}, {}: {error}", row.title, name.title()))?;
                if keep {
                    samples.add(name, row.key, found);
                }
            }
        }
        let decisions = nyx.decisions(&master, &mut prompts)?;
        if keep {
            samples.add(Engine::Nyx, work::DECISION, decisions);
        }
        for pair in 0..work::PAIRS {
            let mut plans = prompts.pair();
            plans.rotate_left((round + pair) % 2);
            let bandwidth = buffer.gigabytes_a_second(machine.cores);
            for (key, plan) in plans {
                let found = plan.measure(&mut nyx)?;
                if keep {
                    samples.add(Engine::Nyx, key, found);
                }
            }
            if keep {
                samples.add(Engine::Nyx, work::BANDWIDTH, vec![bandwidth]);
            }
        }
    }
    machine.others = others.cores();
    drop((q4_1, q4_0));
    for (engine, peak) in memory::peaks(model, &adapters, server, &folder)? {
        samples.add(engine, work::PEAK, vec![peak]);
    }
    let report = report::Report::new(
        machine,
        &files,
        &samples,
        (adapters.bytes * adapters::COUNT, nyx.adapter_bytes()),
        rounds,
        server.is_some(),
    );
    println!("\n{}", report.tables(&rows));
    let path = folder.join("report.json");
    std::fs::write(&path, serde_json::to_string_pretty(&report.json())?)?;
    println!("\nwritten to {}", path.display());
    Ok(())
}
