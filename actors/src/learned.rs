//! Learned parts: small files beside the model's weights, shipped with Nyx or put into the data folder, each known by its id.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nyx_specialists::learn::{LearnedFile, LearnedPart, TrainedOn, learned_id};

use crate::StartError;

/// The folder below the data folder.
pub const FOLDER: &str = "learned";

/// Where a learned part came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Inside the binary.
    Shipped,
    File(PathBuf),
    /// Learned from this Nyx's own record while running.
    Record,
}

/// A part that is in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Learned<T> {
    pub value: T,
    /// SHA-256 (hex) of the file's bytes.
    pub id: String,
    pub origin: Origin,
}

/// A part that is in use, without its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedReport {
    pub name: String,
    pub id: String,
    pub origin: Origin,
    pub trained_on: TrainedOn,
}

/// Which parts are in use. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct LearnedRegistry(Arc<Mutex<BTreeMap<String, LearnedReport>>>);

impl LearnedRegistry {
    /// Enters a part, in the place of the one of its name.
    pub fn put(&self, report: LearnedReport) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(report.name.clone(), report);
    }

    /// In the order of their names.
    pub fn reports(&self) -> Vec<LearnedReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Reads parts for one data folder and one base model.
#[derive(Debug, Clone)]
pub struct LearnedLoader {
    folder: PathBuf,
    base_sha256: String,
    pub registry: LearnedRegistry,
}

impl LearnedLoader {
    pub fn new(data_dir: &Path, base_sha256: &str) -> Self {
        Self { folder: data_dir.join(FOLDER), base_sha256: base_sha256.to_owned(), registry: LearnedRegistry::default() }
    }

    /// `DATA_DIR/learned/KIND.json` if it is there, else the shipped one. A shipped part that was learned on another base model is left out,
    /// which is logged.
    ///
    /// # Errors
    /// The file cannot be read, is wrong, or was learned on another base model.
    pub fn load<T: LearnedPart>(&self, shipped: Option<&str>) -> Result<Option<Learned<T>>, StartError> {
        let path = self.folder.join(format!("{}.json", T::KIND));
        let refused = |reason: String| StartError::Learned { file: path.display().to_string(), reason };
        let (text, origin) = match std::fs::read_to_string(&path) {
            Ok(text) => (text, Origin::File(path.clone())),
            Err(error) if error.kind() == ErrorKind::NotFound => match shipped {
                Some(text) => (text.to_owned(), Origin::Shipped),
                None => return Ok(None),
            },
            Err(error) => return Err(refused(error.to_string())),
        };
        let file = LearnedFile::<T>::parse(&text).map_err(|reason| match origin {
            Origin::Shipped => StartError::Learned { file: format!("the shipped {}.json", T::KIND), reason },
            _ => refused(reason),
        })?;
        if let Some(base) = file.base_sha256.filter(|base| *base != self.base_sha256) {
            if origin == Origin::Shipped {
                tracing::warn!(part = T::KIND, "learned on another base model, and so not used: learn it anew with `nyx train`");
                return Ok(None);
            }
            let expected = &self.base_sha256;
            return Err(refused(format!("base_sha256 is {base}, expected {expected}, the base model's: learn it again with `nyx train`")));
        }
        let (name, id) = (T::KIND.to_owned(), learned_id(text.as_bytes()));
        self.registry.put(LearnedReport { name, id: id.clone(), origin: origin.clone(), trained_on: file.trained_on });
        Ok(Some(Learned { value: file.parameters, id, origin }))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Step {
        size: f64,
    }

    impl LearnedPart for Step {
        const KIND: &'static str = "step";
        const VERSION: u32 = 1;

        fn check(&self) -> Result<(), String> {
            if self.size > 0.0 { Ok(()) } else { Err(format!("size is {}, expected more than 0", self.size)) }
        }
    }

    fn written(size: f64, base: Option<&str>) -> String {
        LearnedFile::new(TrainedOn::of([("step", "one")]), base.map(str::to_owned), Step { size }).write().unwrap()
    }

    #[test]
    fn a_file_in_the_data_folder_replaces_the_shipped_one() {
        let dir = tempfile::tempdir().unwrap();
        let loader = LearnedLoader::new(dir.path(), &"a".repeat(64));
        assert_eq!(loader.load::<Step>(None).unwrap(), None);
        assert!(loader.registry.reports().is_empty());
        let shipped = written(1.0, None);
        let first = loader.load::<Step>(Some(&shipped)).unwrap().unwrap();
        assert_eq!((first.value.size, &first.origin), (1.0, &Origin::Shipped));
        let path = dir.path().join("learned/step.json");
        std::fs::create_dir(dir.path().join("learned")).unwrap();
        std::fs::write(&path, written(2.0, Some(&"a".repeat(64)))).unwrap();
        let second = loader.load::<Step>(Some(&shipped)).unwrap().unwrap();
        assert_eq!((second.value.size, &second.origin), (2.0, &Origin::File(path)));
        let reports = loader.registry.reports();
        assert_eq!((reports.len(), &reports[0].id, reports[0].trained_on.counts["step"]), (1, &second.id, 1));
        assert_ne!(first.id, second.id);
    }

    #[test]
    fn a_wrong_file_is_refused_by_name_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let loader = LearnedLoader::new(dir.path(), &"a".repeat(64));
        std::fs::create_dir(dir.path().join("learned")).unwrap();
        let refusal = |text: &[u8]| {
            std::fs::write(dir.path().join("learned/step.json"), text).unwrap();
            loader.load::<Step>(None).unwrap_err().to_string()
        };
        for (text, told) in [
            (written(0.0, None).into_bytes(), "parameters.size is 0"),
            (b"{}".to_vec(), "missing field `kind`"),
            (vec![0xFF], "UTF-8"),
            (written(1.0, Some(&"b".repeat(64))).into_bytes(), "base_sha256 is bbb"),
        ] {
            let error = refusal(&text);
            assert!(error.contains("step.json") && error.contains(told), "{error}");
        }
        assert!(loader.registry.reports().is_empty());
    }

    #[test]
    fn a_shipped_part_of_another_base_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let loader = LearnedLoader::new(dir.path(), &"a".repeat(64));
        assert_eq!(loader.load::<Step>(Some(&written(1.0, Some(&"b".repeat(64))))).unwrap(), None);
        assert!(loader.load::<Step>(Some(&written(1.0, Some(&"a".repeat(64))))).unwrap().is_some());
    }
}
