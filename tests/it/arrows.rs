//! The crates and the allowed direction of their dependencies (ARCHITECTURE.md).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn output(command: &mut Command) -> String {
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn metadata() -> Value {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = output(Command::new(rustc).arg("-vV"));
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", &host];
    serde_json::from_str(&output(Command::new(env!("CARGO")).args(arguments))).unwrap()
}

/// The dependencies of each package except dev-dependencies. Versions of a package are merged.
fn dependencies(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    let names: BTreeMap<&str, &str> = packages
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut all = BTreeMap::<String, BTreeSet<String>>::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let of = all.entry(names[node["id"].as_str().unwrap()].to_owned()).or_default();
        for dependency in node["deps"].as_array().unwrap() {
            if dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev")
            {
                of.insert(names[dependency["pkg"].as_str().unwrap()].to_owned());
            }
        }
    }
    all
}

/// All transitive dependencies of `root`.
fn reachable<'a>(root: &'a str, all: &'a BTreeMap<String, BTreeSet<String>>) -> BTreeSet<&'a str> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(name) = open.pop() {
        for next in all.get(name).into_iter().flatten() {
            if seen.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    seen
}

#[test]
fn crate_dependencies_point_one_way() {
    let all = dependencies(&metadata());
    let allowed: [(&str, &[&str]); 7] = [
        (
            "nyx",
            &[
                "nyx-actors",
                "nyx-domain",
                "nyx-engine",
                "nyx-evals",
                "nyx-migrations",
                "nyx-specialists",
            ],
        ),
        ("nyx-evals", &["nyx-actors", "nyx-domain", "nyx-engine", "nyx-specialists"]),
        ("nyx-actors", &["nyx-domain", "nyx-engine", "nyx-migrations", "nyx-specialists"]),
        ("nyx-engine", &["nyx-domain"]),
        ("nyx-specialists", &["nyx-domain"]),
        ("nyx-migrations", &[]),
        ("nyx-domain", &[]),
    ];
    for (name, may_use) in allowed {
        let used: BTreeSet<&str> =
            all[name].iter().map(String::as_str).filter(|name| name.starts_with("nyx")).collect();
        let others: Vec<&&str> = used.iter().filter(|used| !may_use.contains(used)).collect();
        assert!(others.is_empty(), "{name} depends on {others:?}");
    }
    assert!(all["nyx"].contains("nyx-actors"), "the test finds dependencies");
}

#[test]
fn no_crate_is_built_from_what_it_does_not_need() {
    let all = dependencies(&metadata());
    let unwanted: [(&str, &[&str]); 4] = [
        ("nyx-engine", &["actix", "sea-orm", "sqlx", "qdrant", "hyper", "reqwest"]),
        (
            "nyx-specialists",
            &["actix", "tokio", "sea-orm", "sqlx", "qdrant-client", "candle", "hyper", "reqwest"],
        ),
        (
            "nyx-domain",
            &["actix", "tokio", "sea-orm", "sqlx", "qdrant", "candle", "hyper", "tracing"],
        ),
        ("nyx-migrations", &["actix", "qdrant", "candle", "hyper", "reqwest"]),
    ];
    for (name, prefixes) in unwanted {
        let found: Vec<&str> = reachable(name, &all)
            .into_iter()
            .filter(|used| prefixes.iter().any(|prefix| used.starts_with(prefix)))
            .collect();
        assert!(found.is_empty(), "{name} is built from {found:?}");
    }
    assert!(
        reachable("nyx-engine", &all).contains("candle-core")
            && reachable("nyx-actors", &all).contains("actix")
    );
}

#[test]
fn migrations_are_written_against_the_schema_tool_alone() {
    let all = dependencies(&metadata());
    let extra: Vec<&String> = all["nyx-migrations"]
        .iter()
        .filter(|name| !["sea-orm-migration", "async-trait"].contains(&name.as_str()))
        .collect();
    assert!(extra.is_empty(), "nyx-migrations depends on {extra:?}");
}

#[test]
fn the_server_uses_no_database_directly() {
    let mut files = 0;
    each_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut |path, text| {
        assert!(!text.contains("sea_orm"), "{} mentions sea_orm", path.display());
        files += 1;
    });
    assert!(files > 10, "the test reads the sources");
}

fn each_source(folder: &Path, look: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_source(&path, look);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            look(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}
