//! Peak memory of a fresh process with the model, five adapters and five sequences of 200 + 64
//! tokens.

use std::path::Path;
use std::process::Command;

use nyx_engine::ModelFiles;

use crate::Fallible;
use crate::adapters::{Adapters, COUNT};
use crate::llama::Server;
use crate::nyx::Nyx;
use crate::report::Engine;
use crate::work::{Prompts, Served, rows};

/// The argument with which the benchmark starts itself to measure memory.
pub const MODE: &str = "--peak-memory";
/// Positions that the row needs in all slots together.
const CONTEXT: usize = COUNT * 264;
/// The row that is run.
const ROW: &str = "five_adapters_long";

fn work(engine: &mut dyn Served) -> Fallible<()> {
    let row = rows().into_iter().find(|row| row.key == ROW).ok_or("the row is gone")?;
    (row.plan)(&mut Prompts::new()).measure(engine)?;
    Ok(())
}

/// Peak resident memory of a process in MB; `None` without `/proc`.
fn peak(process: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0 / 1e6)
}

/// Peak memory of this process, after the work.
pub fn of_nyx_here(model: &Path, adapters: &Path) -> Fallible<f64> {
    let files = ModelFiles::open(model)?;
    work(&mut Nyx::load(&files, &Adapters::at(adapters), true)?)?;
    Ok(peak("self").ok_or("this system does not report a process's peak memory")?)
}

/// Peak memory of each available engine.
pub fn peaks(
    model: &Path,
    adapters: &Adapters,
    server: Option<&Path>,
    folder: &Path,
) -> Fallible<Vec<(Engine, f64)>> {
    if peak("self").is_none() {
        return Ok(Vec::new());
    }
    let mut peaks = Vec::new();
    let output = Command::new(std::env::current_exe()?)
        .arg(MODE)
        .arg(model)
        .arg(folder.join("adapters"))
        .output()?;
    if !output.status.success() {
        return Err(
            format!("measuring Nyx's memory: {}", String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    peaks.push((Engine::Nyx, String::from_utf8(output.stdout)?.trim().parse()?));
    if let Some(program) = server {
        let mut server =
            Server::start(program, model, adapters, CONTEXT, &folder.join("llama-memory.log"))?;
        work(&mut server)?;
        peaks.extend(peak(&server.process()).map(|peak| (Engine::Llama, peak)));
    }
    Ok(peaks)
}
