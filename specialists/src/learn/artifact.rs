//! The file format of fitted artifacts: readable JSON with its kind, the data it was fitted on and
//! the base model.

use std::collections::BTreeMap;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;
use sha2::{Digest, Sha256};

/// Parameters that a file can hold.
pub trait Artifact: Serialize + DeserializeOwned {
    /// The artifact's kind, which is also its file name: `confidence` is stored in
    /// `confidence.json`.
    const KIND: &'static str;
    /// Incremented whenever older parameters would be misread.
    const VERSION: u32;

    /// Checks what the types alone cannot enforce.
    ///
    /// # Errors
    /// Names the key below `parameters`, its value and the expected value.
    fn check(&self) -> Result<(), String>;
}

/// The data that an artifact was fitted on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedOn {
    /// Number of examples of each kind.
    pub counts: BTreeMap<String, u64>,
    /// SHA-256 (hex) over the examples in their order.
    pub digest: String,
}

impl TrainedOn {
    /// From pairs of a kind and a unique key of the example (its id, or its text), in training
    /// order.
    pub fn of<'a>(examples: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut counts, mut digest) = (BTreeMap::<String, u64>::new(), Sha256::new());
        for (kind, example) in examples {
            *counts.entry(kind.to_owned()).or_default() += 1;
            // each string is preceded by its length: no two lists hash the same bytes
            for text in [kind, example] {
                digest.update((text.len() as u64).to_le_bytes());
                digest.update(text);
            }
        }
        Self { counts, digest: hex::encode(digest.finalize()) }
    }
}

/// The file of a fitted artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactFile<T> {
    /// What the artifact is.
    pub kind: String,
    /// Version of the format.
    pub version: u32,
    /// What it was fitted to.
    pub trained_on: TrainedOn,
    /// The base model whose scores it uses; absent where it uses none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_sha256: Option<String>,
    /// The parameters.
    pub parameters: T,
}

/// The header of any artifact's file, to tell a wrong file from a broken one.
#[derive(Deserialize)]
struct Head {
    kind: String,
    version: u32,
}

impl<T: Artifact> ArtifactFile<T> {
    /// A file with these parameters.
    pub fn new(trained_on: TrainedOn, base_sha256: Option<String>, parameters: T) -> Self {
        Self { kind: T::KIND.to_owned(), version: T::VERSION, trained_on, base_sha256, parameters }
    }

    /// Parses and validates a file's text.
    ///
    /// # Errors
    /// Names the key, its value and the expected value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Head { kind, version } = at_path(text)?;
        if kind != T::KIND {
            return Err(format!("kind is {kind:?}, expected {:?}", T::KIND));
        }
        if version != T::VERSION {
            return Err(format!(
                "version is {version}, expected {}: fit it again with `nyx fit {kind}`",
                T::VERSION
            ));
        }
        let file: Self = at_path(text)?;
        for (key, value) in [
            ("trained_on.digest", Some(&file.trained_on.digest)),
            ("base_sha256", file.base_sha256.as_ref()),
        ] {
            if let Some(value) = value.filter(|value| {
                value.len() != 64 || !value.bytes().all(|byte| byte.is_ascii_hexdigit())
            }) {
                return Err(format!("{key} is {value:?}, expected 64 hexadecimal digits"));
            }
        }
        file.parameters.check().map_err(|reason| format!("parameters.{reason}"))?;
        Ok(file)
    }

    /// The file's text, with one list of numbers per line.
    ///
    /// # Errors
    /// When the parameters cannot be written as JSON, such as a map with keys that are not strings.
    pub fn write(&self) -> Result<String, serde_json::Error> {
        let mut bytes = Vec::new();
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Rows::default()))?;
        bytes.push(b'\n');
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The id of a fitted artifact: SHA-256 of its file's bytes, in hex.
pub fn artifact_id(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn at_path<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        if path == "." { error.inner().to_string() } else { format!("{path}: {}", error.inner()) }
    })?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(value)
}

/// One line per key and list; nested lists on lines of their own.
#[derive(Default)]
struct Rows {
    depth: usize,
    lists: usize,
}

impl Rows {
    fn line<W: ?Sized + io::Write>(&self, writer: &mut W) -> io::Result<()> {
        write!(writer, "\n{:1$}", "", self.depth)
    }
}

impl Formatter for Rows {
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        self.line(writer)?;
        writer.write_all(b"}")
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.line(writer)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.lists > 0 {
            self.line(writer)?;
        }
        (self.depth, self.lists) = (self.depth + 1, self.lists + 1);
        writer.write_all(b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        (self.depth, self.lists) = (self.depth - 1, self.lists - 1);
        writer.write_all(b"]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rates {
        rows: Vec<Vec<f32>>,
        rate: f64,
    }

    impl Artifact for Rates {
        const KIND: &'static str = "rates";
        const VERSION: u32 = 2;

        fn check(&self) -> Result<(), String> {
            if self.rate > 1.0 {
                Err(format!("rate is {}, expected at most 1", self.rate))
            } else {
                Ok(())
            }
        }
    }

    fn file() -> ArtifactFile<Rates> {
        let rates = Rates { rows: vec![vec![0.125, -3.0], vec![], vec![0.1]], rate: 0.5 };
        ArtifactFile::new(
            TrainedOn::of([("a", "one"), ("b", "two"), ("a", "three")]),
            Some("0".repeat(64)),
            rates,
        )
    }

    #[test]
    fn a_file_reads_back_as_it_was_written_a_list_a_line() {
        let text = file().write().unwrap();
        assert_eq!(ArtifactFile::<Rates>::parse(&text).unwrap(), file());
        assert!(text.lines().any(|line| line.trim() == "[0.125,-3.0],"), "{text}");
        assert_eq!(
            file().trained_on.counts,
            BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)])
        );
        assert_eq!(
            artifact_id(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn the_digest_distinguishes_lists() {
        let digest = |examples: &[(&str, &str)]| TrainedOn::of(examples.iter().copied()).digest;
        assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
        assert_ne!(digest(&[("a", "b"), ("a", "c")]), digest(&[("a", "c"), ("a", "b")]));
        assert_eq!(digest(&[("a", "b")]), digest(&[("a", "b")]));
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        let text = file().write().unwrap();
        let refusal = |from: &str, to: &str| {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from} is not there");
            ArtifactFile::<Rates>::parse(&changed).unwrap_err()
        };
        for (from, to, message) in [
            ("\"rates\"", "\"tides\"", "kind is \"tides\", expected \"rates\""),
            ("\"version\": 2", "\"version\": 1", "version is 1, expected 2"),
            ("\"rate\": 0.5", "\"rate\": 1.5", "parameters.rate is 1.5"),
            ("\"rate\": 0.5", "\"rate\": \"0.5\"", "parameters.rate: invalid type"),
            ("\"rate\": 0.5", "\"wait\": 0.5", "parameters.wait: unknown field"),
            ("-3.0", "null", "parameters.rows[0][1]: invalid type"),
            (&"0".repeat(64), "0", "base_sha256 is \"0\""),
        ] {
            let error = refusal(from, to);
            assert!(error.contains(message), "{error}");
        }
        assert!(ArtifactFile::<Rates>::parse("").unwrap_err().contains("EOF"));
        assert!(
            ArtifactFile::<Rates>::parse(&format!("{text}{{}}")).unwrap_err().contains("trailing")
        );
        // every truncated file is rejected, none panics
        for end in 0..text.trim_end().len() {
            assert!(ArtifactFile::<Rates>::parse(&text[..end]).is_err());
        }
    }
}
