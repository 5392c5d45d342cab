//! Passwords and keys in settings: no command prints them, whatever is wrong with them.

use serde_json::json;

use crate::postgres::Postgres;
use crate::program::{JSON, Program, Ran, write};

/// Substring of every secret here.
const SESAME: &str = "hunter2Sesame";
/// The same in encoded form.
const ENCODED: &str = "hunter2%53esame";

fn hidden(what: &str, said: &[&str]) {
    for text in said {
        for secret in ["Sesame", "%53esame", "hunter2"] {
            assert!(!text.contains(secret), "{what} shows the secret: {text}");
        }
    }
}

fn refused(what: &str, ran: &Ran) {
    assert!(!ran.status.success(), "{what}: {ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.stderr);
    hidden(what, &[&ran.stdout, &ran.stderr]);
}

/// URLs that cannot be connected to, most of them malformed.
const URLS: [&str; 29] = [
    "postgres://nyx:SECRET@127.0.0.1:1/nyx",
    "postgresql://nyx:SECRET@127.0.0.1:1/nyx",
    "POSTGRES://nyx:SECRET@127.0.0.1:1/nyx",
    "postgres://SECRET@127.0.0.1:1/nyx",
    "postgres://nyx%3ASECRET@127.0.0.1:1/nyx",
    "postgres://nyx@127.0.0.1:1/nyx?password=SECRET",
    "postgres://nyx@127.0.0.1:1/nyx?Password=SECRET",
    "postgres://nyx@127.0.0.1:1/nyx?passwd=SECRET&sslmode=disable",
    "postgres://nyx@127.0.0.1:1/nyx?sslmode=SECRET",
    "postgres://nyx@127.0.0.1:1/nyx?statement-cache-capacity=SECRET",
    "postgres://nyx@127.0.0.1:1/nyx?SECRET",
    "postgres://nyx@127.0.0.1:1/nyx#SECRET",
    "postgres://nyx:SECRET@127.0.0.1:port/nyx",
    "postgres://nyx:SECRET",
    "postgres://nyx:a@SECRET@127.0.0.1:1/nyx",
    "postgres://nyx:a/SECRET@127.0.0.1:1/nyx",
    "postgres://nyx:a?SECRET@127.0.0.1:1/nyx",
    "postgres://nyx:a#SECRET@127.0.0.1:1/nyx",
    "postgres://nyx:%zzSECRET@127.0.0.1:1/nyx",
    "postgres://nyx:%ffSECRET@127.0.0.1:1/nyx",
    "postgres://nyx: SECRET @127.0.0.1:1/nyx",
    "postgres://nyx:SECRET@[::1/nyx",
    "postgres:nyx:SECRET@127.0.0.1:1/nyx",
    "host=127.0.0.1 user=nyx password=SECRET",
    "mysql://nyx:SECRET@127.0.0.1/nyx",
    "sqlite://nyx:SECRET@/nowhere/nyx.db",
    "sqlite:///nowhere/nyx.db?key=SECRET",
    "sqlite:///nowhere/nyx.db?mode=SECRET",
    "SECRET",
];

#[test]
fn no_url_of_a_database_shows_its_password() {
    let program = Program::new().with("NYX__PHOEBE__ACQUIRE_TIMEOUT_MS", "300");
    for url in URLS {
        for secret in [SESAME, ENCODED] {
            let url = url.replace("SECRET", secret);
            let ran = program.run(&["migrate", "--log", "trace", "--url", &url]);
            refused(&format!("migrate with {url}"), &ran);
        }
    }
    // clap quotes unexpected arguments
    refused("migrate", &program.run(&["migrate", "postgres://nyx:hunter2Sesame@127.0.0.1:1/nyx"]));
    refused("migrate", &program.run(&["migrate", "password=hunter2Sesame"]));
}

#[test]
fn neither_doctor_nor_serve_shows_a_password() {
    for url in [URLS[0], URLS[7], URLS[8], URLS[12], URLS[14], URLS[25]] {
        let url = url.replace("SECRET", SESAME);
        let program = Program::new()
            .with("NYX__PHOEBE__ACQUIRE_TIMEOUT_MS", "300")
            .with("NYX__PHOEBE__URL", &url);
        for command in [
            &["doctor", "--log", "trace"][..],
            &["doctor", "--json"],
            &["serve", "--port", "0", "--log", "trace"],
        ] {
            let ran = program.run(command);
            // doctor does not open an SQLite file that does not exist yet
            assert!(
                !ran.status.success() || command[0] == "doctor",
                "{command:?} with {url}: {ran:?}"
            );
            hidden(&format!("{command:?} with {url}"), &[&ran.stdout, &ran.stderr]);
        }
    }
}

#[test]
fn no_setting_that_is_wrong_shows_a_secret() {
    let variables = [
        ("NYX__HTTP__API_KEYS", r#"["SECRET"#),
        ("NYX__HTTP__API_KEYS", r#"[["SECRET"]]"#),
        ("NYX__HTTP__API_KEYS", "{\"SECRET\": 1}"),
        ("NYX__HTTP__API_KEYS", "one, two words SECRET"),
        ("NYX__HTTP__ADMIN_KEY", "two words SECRET"),
        ("NYX__HTTP", r#"{"admin_key": "SECRET""#),
        ("NYX__HTTP", r#"{"admin_key": ["SECRET"]}"#),
        ("NYX__HTTP", "SECRET"),
        ("NYX__MEMORY", r#"{"api_key": "SECRET""#),
        ("NYX__MEMORY", r#"{"api_key": ["SECRET"]}"#),
        ("NYX__MEMORY__URL", "SECRET"),
        ("NYX__MEMORY__URL", "nyx:SECRET@localhost:6334"),
        ("NYX__MEMORY__URL", "http://nyx:SECRET@127.0.0.1:1"),
        ("NYX__MEMORY__URL", "http://127.0.0.1:1?api_key=SECRET"),
        ("NYX__MEMORY__URL", "HTTP://nyx:SECRET@127.0.0.1:1"),
        ("NYX__PHOEBE", r#"{"url": "postgres://nyx:SECRET@h/d""#),
        ("NYX__PHOEBE", r#"{"url": ["SECRET"]}"#),
        ("NYX__TABLES__EXTERNAL", "SECRET"),
        ("NYX__TABLES__EXTERNAL", r#"["SECRET"]"#),
        (
            "NYX__TABLES__EXTERNAL",
            r#"[{"table": "t", "description": "d", "url": "mysql://nyx:SECRET@h/d"}]"#,
        ),
        ("NYX__TABLES__EXTERNAL", r#"[{"table": "t", "description": "d", "url": ["SECRET"]}]"#),
        (
            "NYX__TABLES__EXTERNAL",
            r#"[{"table": "t", "description": ["SECRET"], "url": "postgres://h/d"}]"#,
        ),
    ];
    for (name, value) in variables {
        let value = value.replace("SECRET", SESAME);
        let ran = Program::new().with(name, &value).run(&["doctor", "--log", "trace"]);
        refused(&format!("{name}={value}"), &ran);
        let section = name.trim_start_matches("NYX__").to_lowercase().replace("__", ".");
        assert!(
            ran.stderr.contains(section.split('.').next().unwrap()),
            "{name}={value}: {}",
            ran.stderr
        );
    }
    let files = [
        "[http]\nadmin_key = \"SECRET",
        "[http]\nadmin_key = SECRET",
        "[http]\nadmin_key = \"SECRET\" trailing",
        "[http]\nadmin_key = [\"SECRET\"]",
        "[http]\napi_keys = \"SECRET\"",
        "[http]\napi_keys = [SECRET]",
        "[http]\napi_keys = [{ key = \"SECRET\" }]",
        "[http]\napi_keys = [\"SECRET\"]\nadmin_key = \"SECRET\"",
        "[http]\nhost = \"0.0.0.0\"\napi_keys = [\"SECRET\"]",
        "[memory]\napi_key = SECRET",
        "[memory]\napi_key = { value = \"SECRET\" }",
        "[phoebe]\nurl = \"mysql://nyx:SECRET@h/d\"",
        "[phoebe]\nurl = postgres://nyx:SECRET@h/d",
        "[[tables.external]]\ntable = \"t\"\nurl = \"postgres://nyx:SECRET@h/d\"",
        "[[tables.external]]\ntable = \"t\"\ndescription = \"d\"\nurl = \"x://nyx:SECRET@h/d\"",
    ];
    for text in files {
        let text = text.replace("SECRET", SESAME);
        let program = Program::new();
        let path = program.dir.path().join("nyx.toml");
        write(&path, &text);
        let ran = program.run(&["doctor", "--log", "trace"]);
        refused(&text, &ran);
        let named = ["nyx.toml", "http.api_keys", "http.admin_key", "tables.external"]
            .iter()
            .any(|name| ran.stderr.contains(name));
        assert!(named, "{text}: {}", ran.stderr);
    }
}

#[test]
fn a_server_at_work_shows_no_secret_at_any_level() {
    let postgres = Postgres::start();
    let url = postgres.url().replace("nyx@", &format!("nyx:{SESAME}@"));
    let source = json!([{"table": "t", "description": "d", "url": format!("postgres://nyx:{SESAME}@127.0.0.1:1/nyx")}]);
    let program = Program::new()
        .with("NYX__PHOEBE__URL", format!("{url}?passwd={SESAME}&application_name=nyx"))
        .with("NYX__TABLES__EXTERNAL", source.to_string())
        .with("NYX__HTTP__API_KEYS", format!("{SESAME}-caller"))
        .with("NYX__HTTP__ADMIN_KEY", format!("{SESAME}-admin"))
        .with("NYX__TELEMETRY__LOG", "trace,nyx_engine=debug");
    let serving = program.serve();
    let caller = format!("Authorization: Bearer {SESAME}-caller");
    let admin = format!("Authorization: Bearer {SESAME}-admin");
    let mut printed = Vec::new();
    for (method, path, key, body) in [
        (
            "POST",
            "/infer",
            &caller,
            json!({"prompt": "Hello?", "specialist": "eleos", "max_tokens": 2}).to_string(),
        ),
        ("POST", "/v1/memories", &caller, json!({"text": "The harbour is deep."}).to_string()),
        ("GET", "/v1/tables", &caller, String::new()),
        ("GET", "/v1/decisions", &caller, String::new()),
        ("GET", "/admin/actors", &admin, String::new()),
        ("GET", "/admin/traits", &admin, String::new()),
        ("GET", "/admin/artifacts", &admin, String::new()),
        ("GET", "/health/ready", &caller, String::new()),
        ("GET", "/metrics", &caller, String::new()),
    ] {
        let reply = serving.send(method, path, &[JSON, key], body.as_bytes());
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        printed.push(format!("{path}: {} {}", reply.head, reply.body));
    }
    assert_eq!(
        serving.send("GET", "/admin/actors", &[&caller], b"").status,
        401,
        "a caller is no admin"
    );
    let ran = serving.interrupt();
    assert!(
        ran.status.success() && ran.stderr.contains("TRACE"),
        "{}",
        ran.stderr.chars().take(2_000).collect::<String>()
    );
    printed.extend([ran.stdout, ran.stderr]);
    hidden("the server", &printed.iter().map(String::as_str).collect::<Vec<_>>());
}
