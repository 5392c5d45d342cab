//! The documents: names, links and examples in them are valid.

use std::path::Path;

use serde_json::Value;

use crate::program::Program;

fn tree() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(tree().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_guarantee_of_the_readme_names_a_test_that_exists() {
    let readme = read("README.md");
    let (_, table) = readme.split_once("## Guarantees and their tests").unwrap();
    let rows: Vec<&str> = table
        .split("\n## ")
        .next()
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'))
        .collect();
    assert!(rows.len() >= 10, "the table is there");
    for row in rows {
        let quoted: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let [.., path, test] = quoted.as_slice() else {
            panic!("a row without a path and a test: {row}")
        };
        assert_is_test(path, test);
    }
}

fn assert_is_test(path: &str, test: &str) {
    let source = read(path);
    let (before, _) = source
        .split_once(&format!("fn {test}("))
        .unwrap_or_else(|| panic!("there is no {test} in {path}"));
    assert!(
        before.trim_end().trim_end_matches("async").trim_end().ends_with("test]"),
        "{test} in {path} is not a test"
    );
}

#[test]
fn every_invariant_of_the_architecture_names_a_test_that_exists() {
    let architecture = read("ARCHITECTURE.md");
    let (_, section) = architecture.split_once("\n## Invariants\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut invariants: Vec<String> = Vec::new();
    for line in section.lines() {
        let number = line.split_once(". ").and_then(|(number, _)| number.parse::<usize>().ok());
        if let Some(number) = number {
            assert_eq!(number, invariants.len() + 1, "the numbers are consecutive: {line}");
            invariants.push(line.to_owned());
        } else if let Some(last) = invariants.last_mut() {
            last.push(' ');
            last.push_str(line.trim());
        }
    }
    assert!(invariants.len() >= 15, "the invariants are there");
    for invariant in invariants {
        let (_, held_by) = invariant
            .rsplit_once("Held by")
            .unwrap_or_else(|| panic!("an invariant without a test: {invariant}"));
        let quoted: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        let [path, test, ..] = quoted.as_slice() else {
            panic!("an invariant without a path and a test: {invariant}")
        };
        assert_is_test(path, test);
    }
}

/// Differences of `given` from `shown`. Numbers may differ by rounding and by another processor's
/// kernels.
fn differences(at: &str, shown: &Value, given: &Value, found: &mut Vec<String>) {
    match (shown, given) {
        (Value::Object(shown), Value::Object(given)) => {
            for (name, shown) in shown.iter().filter(|(name, _)| *name != "decision_id") {
                differences(
                    &format!("{at}.{name}"),
                    shown,
                    given.get(name).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Number(a), Value::Number(b))
            if (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() <= 0.03 => {}
        (shown, given) if shown == given => {}
        (shown, given) => found.push(format!("{at}: {shown} is shown, {given} was returned")),
    }
}

#[test]
fn the_readmes_request_returns_what_the_readme_shows() {
    let readme = read("README.md");
    let (_, after) =
        readme.split_once("/infer -H 'Content-Type: application/json' \\\n  -d '").unwrap();
    let (request, after) = after.split_once("'\n").unwrap();
    let shown = after.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
    let (request, shown): (Value, Value) =
        (serde_json::from_str(request).unwrap(), serde_json::from_str(shown).unwrap());
    let (status, given) = Program::new().serve().post("/infer", &request);
    assert_eq!(status, 200, "{given}");
    let mut found = Vec::new();
    differences("", &shown, &given, &mut found);
    assert!(found.is_empty(), "README.md shows another answer:\n{}", found.join("\n"));
    let left_out = ["timings", "trace"]
        .iter()
        .all(|name| shown.get(*name).is_none() && given.get(*name).is_some());
    let fields = |value: &Value| value.as_object().unwrap().len();
    assert!(
        left_out && fields(&given) == fields(&shown) + 2,
        "README.md names what it leaves out: {given}"
    );
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for document in
        ["README.md", "ARCHITECTURE.md", "BENCHMARKS.md", "CONTRIBUTING.md", "CHANGELOG.md"]
    {
        let text = read(document);
        assert!(!text.contains("<!--"), "{document} has a place that nobody filled");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            assert!(tree().join(target).exists(), "{document} links to {target}");
        }
    }
}

/// The checks that CI does not run (CUDA, Arm) name source files too.
#[test]
fn source_files_named_in_scripts_and_documents_exist() {
    let crates = ["actors/", "domain/", "engine/", "evals/", "migrations/", "specialists/", "src/"];
    let scripts = std::fs::read_dir(tree().join("scripts")).unwrap();
    let files = scripts.map(|entry| format!("scripts/{}", entry.unwrap().file_name().display()));
    let documents = ["Makefile", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];
    let mut found = 0;
    for file in files.chain(documents.map(str::to_owned)) {
        let Ok(text) = std::fs::read_to_string(tree().join(&file)) else { continue };
        let words = text.split(|c: char| !(c.is_alphanumeric() || "/_.-".contains(c)));
        for word in words.filter(|word| word.ends_with(".rs")) {
            let path = word.trim_start_matches("root").trim_start_matches('/');
            if crates.iter().any(|name| path.starts_with(name)) {
                assert!(tree().join(path).exists(), "{file} names {path}");
                found += 1;
            }
        }
    }
    assert!(found > 30, "{found} paths");
}
