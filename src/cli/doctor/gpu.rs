//! The GPUs of this machine, whether or not `pool.replicas` lists them.

use nyx_engine::device::{CudaDevice, WITH_CUDA, cuda_devices};

use super::check::Check;

const NAME: &str = "gpu";

/// One check per GPU found, or one that states why there is none.
pub(super) fn devices() -> Vec<Check> {
    if !WITH_CUDA {
        return vec![Check::ok(NAME, "built without CUDA")];
    }
    match cuda_devices() {
        Ok(found) => checks_of(&found),
        Err(error) => vec![Check::ok(NAME, format!("built with CUDA, no device opens ({error})"))],
    }
}

fn checks_of(found: &[CudaDevice]) -> Vec<Check> {
    if found.is_empty() {
        return vec![Check::ok(NAME, "built with CUDA, no device found")];
    }
    found.iter().map(|device| Check::ok(NAME, device.to_string())).collect()
}

/// How to fix a device of `pool.replicas` that does not open.
pub(super) fn advice(name: &str) -> &'static str {
    if name.starts_with("cuda") && !WITH_CUDA {
        "build with `cargo build --release --features cuda`, or set pool.replicas to [[\"cpu\"]]"
    } else {
        "correct pool.replicas, or set it to [[\"cpu\"]]"
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Health;
    use super::*;

    #[test]
    fn every_gpu_is_named() {
        let device = CudaDevice {
            ordinal: 0,
            name: "NVIDIA H100".into(),
            free_bytes: 79 << 30,
            total_bytes: 80 << 30,
            compute_capability: (9, 0),
            driver: None,
        };
        let checks = checks_of(&[device.clone(), CudaDevice { ordinal: 1, ..device }]);
        assert_eq!(checks.len(), 2);
        assert!(checks[1].found.starts_with("cuda:1: NVIDIA H100"), "{}", checks[1].found);
        assert!(checks.iter().all(|check| check.status == Health::Ok));
        assert!(checks_of(&[])[0].found.contains("no device"));
    }

    #[test]
    fn a_build_without_cuda_reports_it_and_how_to_fix_it() {
        if WITH_CUDA {
            assert!(devices().iter().all(|check| !check.found.contains("without CUDA")));
        } else {
            assert_eq!(devices()[0].found, "built without CUDA");
            assert!(advice("cuda:0").contains("--features cuda"));
        }
        assert!(!advice("cpux").contains("--features"));
    }
}
