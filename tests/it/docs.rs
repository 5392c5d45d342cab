//! The documents: what they name is there.

use std::path::Path;

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
    let rows: Vec<&str> =
        table.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() >= 10, "the table is there");
    for row in rows {
        let quoted: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let [.., path, test] = quoted.as_slice() else { panic!("a row without a path and a test: {row}") };
        let source = read(path);
        let (before, _) = source.split_once(&format!("fn {test}(")).unwrap_or_else(|| panic!("there is no {test} in {path}"));
        assert!(before.trim_end().trim_end_matches("async").trim_end().ends_with("test]"), "{test} in {path} is not a test");
    }
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for document in ["README.md", "ARCHITECTURE.md", "BENCHMARKS.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = read(document);
        assert!(!text.contains("<!--"), "{document} has a place that nobody filled");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http")) {
            assert!(tree().join(target).exists(), "{document} links to {target}");
        }
    }
}
