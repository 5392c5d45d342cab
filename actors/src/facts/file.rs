//! Tables in files: CSV with a header line, or JSON objects, one per line.

use std::io::Read as _;
use std::path::Path;

use serde_json::Value as Json;

use crate::NyxError;

/// Maximum size of a file.
const MAX_BYTES: u64 = 512 << 20;

/// The content of a file; `rows` is `[rows][columns]`.
#[derive(Debug, Clone, PartialEq)]
pub struct FileTable {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl FileTable {
    /// Reads `.csv` or `.tsv`, and `.jsonl`, `.ndjson` or `.json` with one object per line.
    ///
    /// # Errors
    /// The message contains the path and the invalid line.
    pub fn read(path: &Path) -> Result<Self, NyxError> {
        let wrong =
            |reason: String| NyxError::invalid("file", format!("{}: {reason}", path.display()));
        let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
        let mut text = String::new();
        file.take(MAX_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(|error| wrong(error.to_string()))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(wrong(format!(
                "more than {} MiB, expected a smaller table",
                MAX_BYTES >> 20
            )));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        match path
            .extension()
            .and_then(|extension| extension.to_str())
            .map(str::to_ascii_lowercase)
            .as_deref()
        {
            Some("csv") => Self::csv(text, b','),
            Some("tsv") => Self::csv(text, b'\t'),
            Some("jsonl" | "ndjson" | "json") => Self::json_lines(text),
            other => Err(format!(
                "unknown file type {:?}, expected .csv, .tsv, .jsonl or .ndjson",
                other.unwrap_or("no extension")
            )),
        }
        .map_err(wrong)
    }

    fn csv(text: &str, delimiter: u8) -> Result<Self, String> {
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let columns = reader
            .headers()
            .map_err(|error| error.to_string())?
            .iter()
            .map(str::to_owned)
            .collect();
        let mut rows = Vec::new();
        for record in reader.records() {
            // the error contains the line and the expected number of fields
            rows.push(
                record.map_err(|error| error.to_string())?.iter().map(str::to_owned).collect(),
            );
        }
        Ok(Self { columns, rows })
    }

    fn json_lines(text: &str) -> Result<Self, String> {
        let (mut columns, mut objects) = (Vec::<String>::new(), Vec::new());
        for (line, number) in text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty()) {
            let Json::Object(object) =
                serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?
            else {
                return Err(format!(
                    "line {number} is not an object, expected {{\"column\": value, ...}}"
                ));
            };
            for name in
                object.keys().filter(|name| !columns.contains(name)).cloned().collect::<Vec<_>>()
            {
                columns.push(name);
            }
            objects.push(object);
        }
        let cell = |value: Option<&Json>| match value {
            None | Some(Json::Null) => String::new(),
            Some(Json::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let rows = objects
            .iter()
            .map(|object| columns.iter().map(|name| cell(object.get(name))).collect())
            .collect();
        Ok(Self { columns, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<FileTable, NyxError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        FileTable::read(&path)
    }

    #[test]
    fn both_forms_are_read() {
        let csv = read("a.csv", "\u{feff}team, points\n\"reds, the\",3\nblues,\n").unwrap();
        assert_eq!(
            csv,
            FileTable {
                columns: vec!["team".into(), "points".into()],
                rows: vec![
                    vec!["reds, the".into(), "3".into()],
                    vec!["blues".into(), String::new()]
                ]
            }
        );
        let json = read(
            "a.jsonl",
            "{\"team\": \"reds\", \"points\": 3}\n\n{\"team\": null, \"won\": true}\n",
        )
        .unwrap();
        assert_eq!(json.columns.len(), 3);
        let at = |name: &str| json.columns.iter().position(|column| column == name).unwrap();
        assert_eq!(
            (
                json.rows[0][at("points")].as_str(),
                json.rows[1][at("won")].as_str(),
                json.rows[1][at("team")].as_str()
            ),
            ("3", "true", "")
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, text, message) in [
            ("a.csv", "a,b\n1,2,3\n", "line: 2"),
            ("a.jsonl", "{\"a\": 1}\n[2]\n", "line 2"),
            ("a.jsonl", "{\"a\": 1}\nnothing\n", "line 2"),
            ("a.xls", "", "xls"),
        ] {
            let refusal = read(name, text).unwrap_err().to_string();
            assert!(refusal.contains(message) && refusal.contains(name), "{refusal}");
        }
        assert!(
            FileTable::read(Path::new("/nowhere/t.csv"))
                .unwrap_err()
                .to_string()
                .contains("/nowhere/t.csv")
        );
    }
}
