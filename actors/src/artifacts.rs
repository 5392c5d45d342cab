//! Fitted artifacts: small files in the data folder, identified by their hash. Nyx comes without
//! any.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nyx_specialists::learn::{Artifact, ArtifactFile, TrainedOn, artifact_id};

use crate::StartError;

/// The folder below the data folder.
pub const FOLDER: &str = "artifacts";

/// The origin of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    File(PathBuf),
    /// Fitted to this Nyx's own record while running.
    Record,
}

/// An artifact in use.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedArtifact<T> {
    pub value: T,
    /// SHA-256 (hex) of the file's bytes.
    pub id: String,
    pub origin: Origin,
}

/// An artifact in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactReport {
    pub name: String,
    pub id: String,
    pub origin: Origin,
    pub trained_on: TrainedOn,
}

/// The artifacts in use. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct ArtifactRegistry(Arc<Mutex<BTreeMap<String, ArtifactReport>>>);

impl ArtifactRegistry {
    /// Registers an artifact, replacing one of the same name.
    pub fn put(&self, report: ArtifactReport) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(report.name.clone(), report);
    }

    /// In the order of their names.
    pub fn reports(&self) -> Vec<ArtifactReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Loads artifacts for one data folder and one base model.
#[derive(Debug, Clone)]
pub struct ArtifactLoader {
    folder: PathBuf,
    base_sha256: String,
    pub registry: ArtifactRegistry,
}

impl ArtifactLoader {
    pub fn new(data_dir: &Path, base_sha256: &str) -> Self {
        Self {
            folder: data_dir.join(FOLDER),
            base_sha256: base_sha256.to_owned(),
            registry: ArtifactRegistry::default(),
        }
    }

    /// `DATA_DIR/artifacts/KIND.json`, if it exists.
    ///
    /// # Errors
    /// The file cannot be read, is invalid, or was fitted for another base model.
    pub fn load<T: Artifact>(&self) -> Result<Option<LoadedArtifact<T>>, StartError> {
        let path = self.folder.join(format!("{}.json", T::KIND));
        let refused =
            |reason: String| StartError::Artifact { file: path.display().to_string(), reason };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(error.to_string())),
        };
        let file = ArtifactFile::<T>::parse(&text).map_err(refused)?;
        if let Some(base) = file.base_sha256.filter(|base| *base != self.base_sha256) {
            let expected = &self.base_sha256;
            return Err(refused(format!(
                "base_sha256 is {base}, expected {expected}, the base model's: fit it again with `nyx fit`"
            )));
        }
        let (name, id, origin) =
            (T::KIND.to_owned(), artifact_id(text.as_bytes()), Origin::File(path.clone()));
        self.registry.put(ArtifactReport {
            name,
            id: id.clone(),
            origin: origin.clone(),
            trained_on: file.trained_on,
        });
        Ok(Some(LoadedArtifact { value: file.parameters, id, origin }))
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

    impl Artifact for Step {
        const KIND: &'static str = "step";
        const VERSION: u32 = 1;

        fn check(&self) -> Result<(), String> {
            if self.size > 0.0 {
                Ok(())
            } else {
                Err(format!("size is {}, expected more than 0", self.size))
            }
        }
    }

    fn written(size: f64, base: Option<&str>) -> String {
        ArtifactFile::new(TrainedOn::of([("step", "one")]), base.map(str::to_owned), Step { size })
            .write()
            .unwrap()
    }

    #[test]
    fn a_part_is_read_from_the_data_folder_alone() {
        let dir = tempfile::tempdir().unwrap();
        let loader = ArtifactLoader::new(dir.path(), &"a".repeat(64));
        assert_eq!(loader.load::<Step>().unwrap(), None);
        assert!(loader.registry.reports().is_empty());
        let path = dir.path().join("artifacts/step.json");
        std::fs::create_dir(dir.path().join("artifacts")).unwrap();
        std::fs::write(&path, written(2.0, Some(&"a".repeat(64)))).unwrap();
        let part = loader.load::<Step>().unwrap().unwrap();
        assert_eq!((part.value.size, &part.origin), (2.0, &Origin::File(path)));
        let reports = loader.registry.reports();
        assert_eq!(
            (reports.len(), &reports[0].id, reports[0].trained_on.counts["step"]),
            (1, &part.id, 1)
        );
    }

    #[test]
    fn a_wrong_file_is_refused_by_name_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let loader = ArtifactLoader::new(dir.path(), &"a".repeat(64));
        std::fs::create_dir(dir.path().join("artifacts")).unwrap();
        let refusal = |text: &[u8]| {
            std::fs::write(dir.path().join("artifacts/step.json"), text).unwrap();
            loader.load::<Step>().unwrap_err().to_string()
        };
        for (text, message) in [
            (written(0.0, None).into_bytes(), "parameters.size is 0"),
            (b"{}".to_vec(), "missing field `kind`"),
            (vec![0xFF], "UTF-8"),
            (written(1.0, Some(&"b".repeat(64))).into_bytes(), "base_sha256 is bbb"),
        ] {
            let error = refusal(&text);
            assert!(error.contains("step.json") && error.contains(message), "{error}");
        }
        assert!(loader.registry.reports().is_empty());
    }
}
