//! Reads a folder of cases: `NAME.SPLIT.jsonl` with one JSON object per line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Errors of reading cases.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    #[error(
        "there is no {path}: name a folder that holds NAME.{split}.jsonl with --cases or NYX_EVALS, and one of its splits with --split"
    )]
    Missing { path: PathBuf, split: String },
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}, line {line}: {reason}")]
    BadLine { path: PathBuf, line: usize, reason: String },
}

/// A question with choices, one of which is correct.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ChoiceCase {
    pub id: String,
    pub specialist: String,
    #[serde(default)]
    pub context: String,
    pub question: String,
    pub choices: Vec<String>,
    /// Index into `choices`.
    pub answer: usize,
    #[serde(default)]
    pub category: String,
    /// Eleos: `ambig` or `disambig`.
    pub condition: Option<String>,
    /// Eleos: `neg` or `nonneg`.
    pub polarity: Option<String>,
    /// Eleos: index of the choice that names the stereotyped group.
    pub stereotype: Option<usize>,
    /// Moira: the market's probability of `choices[0]`.
    pub prior: Option<f64>,
    /// Moira: the date of the question.
    pub asked: Option<NaiveDate>,
    /// Aletheia: the table with the answer.
    pub table: Option<String>,
}

impl ChoiceCase {
    /// Merges equal choices, which some public questions contain, into the first one.
    fn merge_equals(&mut self) {
        let mut kept: Vec<String> = Vec::with_capacity(self.choices.len());
        let places: Vec<usize> = std::mem::take(&mut self.choices)
            .into_iter()
            .map(|choice| {
                kept.iter().position(|other| *other == choice).unwrap_or_else(|| {
                    kept.push(choice);
                    kept.len() - 1
                })
            })
            .collect();
        self.choices = kept;
        self.answer = places.get(self.answer).copied().unwrap_or(0);
        self.stereotype = self.stereotype.and_then(|at| places.get(at).copied());
    }
}

/// One turn of a conversation, to be stored as a memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct MemoryTurn {
    pub conversation: String,
    pub turn: String,
    pub speaker: String,
    #[serde(default)]
    pub text: String,
    pub caption: Option<String>,
    /// Such as `1:47 pm on 18 May, 2023`.
    pub when: Option<String>,
}

impl MemoryTurn {
    /// The turn's time, as UTC; `None` if it is missing or has another format.
    pub fn time(&self) -> Option<DateTime<Utc>> {
        NaiveDateTime::parse_from_str(self.when.as_deref()?, "%I:%M %p on %d %B, %Y")
            .ok()
            .map(|when| when.and_utc())
    }
}

/// A question about a conversation, with the turns that contain the answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RecallCase {
    pub id: String,
    pub conversation: String,
    pub question: String,
    /// A text, or a number.
    pub answer: serde_json::Value,
    pub evidence: Vec<String>,
    #[serde(default)]
    pub category: u32,
}

impl RecallCase {
    pub fn answer_text(&self) -> String {
        self.answer.as_str().map_or_else(|| self.answer.to_string(), str::to_owned)
    }
}

/// A table that statements are checked against.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Table {
    pub table: String,
    #[serde(default)]
    pub caption: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// A folder of cases and one of its splits.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub dir: PathBuf,
    pub split: String,
}

impl Dataset {
    /// The default folder: `$NYX_EVALS`, else `../shared/cases`.
    pub fn default_dir() -> PathBuf {
        std::env::var_os("NYX_EVALS")
            .map_or_else(|| PathBuf::from("../shared/cases"), PathBuf::from)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        match name.split_once('.') {
            Some((suite, part)) => self.dir.join(format!("{suite}.{}.{part}.jsonl", self.split)),
            None => self.dir.join(format!("{name}.{}.jsonl", self.split)),
        }
    }

    /// Whether the suite's file exists.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).is_file()
    }

    /// The choice suite `name`.
    ///
    /// # Errors
    /// A missing file or an invalid line, by name.
    pub fn choices(&self, name: &str) -> Result<Vec<ChoiceCase>, DatasetError> {
        let mut cases = self.lines(name, |case: &ChoiceCase| {
            if case.choices.len() < 2 {
                return Err(format!(
                    "choices has {} entries, expected at least 2",
                    case.choices.len()
                ));
            }
            for (key, index) in [("answer", Some(case.answer)), ("stereotype", case.stereotype)] {
                if let Some(index) = index.filter(|index| *index >= case.choices.len()) {
                    return Err(format!(
                        "{key} is {index}, expected an index into {} choices",
                        case.choices.len()
                    ));
                }
            }
            match case.prior {
                Some(prior) if !(0.0..=1.0).contains(&prior) => {
                    Err(format!("prior is {prior}, expected a probability from 0 to 1"))
                }
                _ => Ok(()),
            }
        })?;
        cases.iter_mut().for_each(ChoiceCase::merge_equals);
        Ok(cases)
    }

    /// Mnemosyne's memories.
    ///
    /// # Errors
    /// As [`choices`](Self::choices).
    pub fn memories(&self) -> Result<Vec<MemoryTurn>, DatasetError> {
        self.lines("mnemosyne.memories", |_| Ok(()))
    }

    /// Mnemosyne's questions.
    ///
    /// # Errors
    /// As [`choices`](Self::choices).
    pub fn questions(&self) -> Result<Vec<RecallCase>, DatasetError> {
        self.lines("mnemosyne.questions", |_| Ok(()))
    }

    /// Aletheia's tables.
    ///
    /// # Errors
    /// As [`choices`](Self::choices).
    pub fn tables(&self) -> Result<Vec<Table>, DatasetError> {
        self.lines("aletheia.tables", |table: &Table| {
            match table.rows.iter().position(|row| row.len() != table.columns.len()) {
                Some(row) => Err(format!(
                    "row {row} has {} cells, expected {}",
                    table.rows[row].len(),
                    table.columns.len()
                )),
                None => Ok(()),
            }
        })
    }

    fn lines<T: DeserializeOwned>(
        &self,
        name: &str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Result<Vec<T>, DatasetError> {
        let path = self.path(name);
        if !path.is_file() {
            return Err(DatasetError::Missing { path, split: self.split.clone() });
        }
        read_lines(&path, check)
    }
}

pub(crate) fn read_lines<T: DeserializeOwned>(
    path: &Path,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<Vec<T>, DatasetError> {
    let unreadable = |source| DatasetError::Unreadable { path: path.to_owned(), source };
    let mut read = Vec::new();
    for (line, text) in BufReader::new(File::open(path).map_err(unreadable)?).lines().enumerate() {
        let text = text.map_err(unreadable)?;
        if text.trim().is_empty() {
            continue;
        }
        let bad = |reason: String| DatasetError::BadLine {
            path: path.to_owned(),
            line: line + 1,
            reason,
        };
        let item: T =
            serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(&text))
                .map_err(|error| bad(error.to_string()))?;
        check(&item).map_err(bad)?;
        read.push(item);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Dataset) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let dataset = Dataset { dir: dir.path().to_owned(), split: "dev".into() };
        (dir, dataset)
    }

    #[test]
    fn suites_are_read_from_their_files() {
        let (_dir, dataset) = folder(&[
            (
                "kairos.dev.jsonl",
                "{\"id\":\"1\",\"specialist\":\"kairos\",\"question\":\"When?\",\"choices\":[\"a\",\"b\"],\"answer\":1}\n\n",
            ),
            (
                "mnemosyne.dev.memories.jsonl",
                "{\"conversation\":\"c\",\"turn\":\"D1:1\",\"speaker\":\"Ada\",\"text\":\"Hi\",\"caption\":null,\"when\":\"1:47 pm on 18 May, 2023\"}\n",
            ),
            (
                "mnemosyne.dev.questions.jsonl",
                "{\"id\":\"q\",\"conversation\":\"c\",\"question\":\"Who?\",\"answer\":2022,\"evidence\":[\"D1:1\"]}\n",
            ),
            (
                "aletheia.dev.tables.jsonl",
                "{\"table\":\"t\",\"columns\":[\"a\"],\"rows\":[[\"1\"]]}\n",
            ),
        ]);
        assert_eq!(dataset.choices("kairos").unwrap()[0].answer, 1);
        assert_eq!(
            dataset.memories().unwrap()[0].time().unwrap().to_rfc3339(),
            "2023-05-18T13:47:00+00:00"
        );
        assert_eq!(dataset.questions().unwrap()[0].answer_text(), "2022");
        assert_eq!(dataset.tables().unwrap()[0].rows, [["1"]]);
        assert!(dataset.has("kairos") && !dataset.has("eleos"));
    }

    #[test]
    fn a_choice_that_stands_twice_counts_once() {
        let line = "{\"id\":\"1\",\"specialist\":\"k\",\"question\":\"?\",\"choices\":[\"a\",\"b\",\"a\",\"c\"],\"answer\":2,\"stereotype\":3}\n";
        let (_dir, dataset) = folder(&[("kairos.dev.jsonl", line)]);
        let case = dataset.choices("kairos").unwrap().remove(0);
        assert_eq!(
            (case.choices, case.answer, case.stereotype),
            (vec!["a".into(), "b".into(), "c".into()], 0, Some(2))
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let good = "{\"id\":\"1\",\"specialist\":\"kairos\",\"question\":\"?\",\"choices\":[\"a\",\"b\"],\"answer\":0}\n";
        for (bad, named) in [
            ("{\"id\":\"1\"}", "missing field"),
            ("not json", "expected"),
            (
                "{\"id\":\"1\",\"specialist\":\"k\",\"question\":\"?\",\"choices\":[\"a\",\"b\"],\"answer\":2}",
                "answer is 2",
            ),
            (
                "{\"id\":\"1\",\"specialist\":\"k\",\"question\":\"?\",\"choices\":[\"a\"],\"answer\":0}",
                "choices has 1",
            ),
            (
                "{\"id\":\"1\",\"specialist\":\"k\",\"question\":\"?\",\"choices\":[\"a\",\"b\"],\"answer\":0,\"prior\":1.5}",
                "prior is 1.5",
            ),
        ] {
            let (_dir, dataset) = folder(&[("kairos.dev.jsonl", &format!("{good}{bad}\n"))]);
            let error = dataset.choices("kairos").unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(named), "{error}");
        }
        let (_dir, dataset) = folder(&[]);
        let error = dataset.choices("kairos").unwrap_err().to_string();
        assert!(error.contains("kairos.dev.jsonl") && error.contains("--cases"), "{error}");
    }
}
