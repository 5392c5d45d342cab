//! A database that hangs: requests end at their deadlines, nothing unrecorded is acknowledged, and
//! the server resumes when the database does.

use std::time::{Duration, Instant};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use serde_json::{Value, json};

use crate::postgres::Postgres;
use crate::program::{JSON, Program, Serving};

const DEADLINE_MS: u64 = 3_000;
/// Allowance for the time between the deadline and the client.
const SLACK: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends one request; returns its status and response.
type Asked<'a> = Box<dyn Fn(&Serving) -> (u16, String) + Send + Sync + 'a>;

fn program() -> Program {
    let deadline = DEADLINE_MS.to_string();
    // little computation is done here: the tests mostly wait
    Program::new()
        .with("NYX__REQUESTS__DEFAULT_DEADLINE_MS", deadline)
        .with("NYX__HTTP__SHUTDOWN_TIMEOUT_S", "3")
}

/// A kind of request: its name and a function that sends it.
type Request<'a> = (&'static str, Asked<'a>);

fn posted<'a>(name: &'static str, path: &'static str, body: Value) -> Request<'a> {
    (name, Box::new(move |serving| whole(serving, "POST", path, body.to_string().as_bytes())))
}

fn whole(serving: &Serving, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let reply = serving.send(method, path, &[JSON], body);
    (reply.status, reply.body)
}

const QUESTIONS: [&str; 4] =
    ["Who was asked first?", "Who was chosen?", "Who chatted?", "Who streamed?"];

/// Every request that uses the record.
fn requests(decision: &str) -> Vec<Request<'static>> {
    let [first, chosen, chatted, streamed] = QUESTIONS;
    let chat = |question: &str, stream: bool| {
        json!({"model": "nyx/eleos", "messages": [{"role": "user", "content": question}], "max_tokens": 4, "stream": stream,
            "deadline_ms": DEADLINE_MS})
    };
    vec![
        posted(
            "infer",
            "/infer",
            json!({"prompt": first, "specialist": "eleos", "max_tokens": 4, "remember": true, "deadline_ms": DEADLINE_MS}),
        ),
        posted(
            "routed",
            "/infer",
            json!({"prompt": chosen, "max_tokens": 4, "deadline_ms": DEADLINE_MS}),
        ),
        posted("chat", "/v1/chat/completions", chat(chatted, false)),
        posted("stream", "/v1/chat/completions", chat(streamed, true)),
        posted("memory", "/v1/memories", json!({"text": "The lighthouse keeper is called Marit."})),
        posted("feedback", "/v1/feedback", json!({"decision_id": decision, "thumbs": "up"})),
        ("decisions", Box::new(|serving| whole(serving, "GET", "/v1/decisions", b""))),
    ]
}

/// Sends all of them concurrently; returns each response with its duration.
fn at_once(
    serving: &Serving,
    requests: &[Request<'_>],
) -> Vec<(&'static str, u16, String, Duration)> {
    std::thread::scope(|scope| {
        let ask = |(name, request): &(&'static str, _)| {
            let (name, request): (_, &Asked<'_>) = (*name, request);
            let begun = Instant::now();
            let (status, body) = request(serving);
            (name, status, body, begun.elapsed())
        };
        let asking: Vec<_> =
            requests.iter().map(|request| scope.spawn(move || ask(request))).collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    })
}

/// Each fails by its deadline with an error; a stream that has begun ends with an error event.
/// `unhindered` requests succeed as usual.
fn fail_in_time(serving: &Serving, decision: &str, unhindered: &[&str]) {
    for (name, status, body, took) in at_once(serving, &requests(decision)) {
        let limit = Duration::from_millis(DEADLINE_MS) + SLACK;
        assert!(took <= limit, "{name} took {took:?}: {status} {body}");
        if unhindered.contains(&name) {
            assert_eq!(status, 200, "{name}: {body}");
        } else if name == "stream" && status == 200 {
            let last = body.lines().rfind(|line| line.starts_with("data: ")).unwrap_or_default();
            assert!(last.contains("\"deadline_exceeded\"") && !body.contains("[DONE]"), "{body}");
        } else {
            let error: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (status, &error["error"]["code"]),
                (504, &json!("deadline_exceeded")),
                "{name}: {body}"
            );
        }
    }
}

/// Waits until a request succeeds again.
fn until_served(serving: &Serving, (name, request): &Request<'_>) -> String {
    let begun = Instant::now();
    loop {
        let (status, body) = request(serving);
        if status == 200 {
            return body;
        }
        assert!(begun.elapsed() < PATIENCE, "{name} is not served again: {status} {body}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Records a decision, and loads everything that is loaded once.
fn warmed(serving: &Serving) -> String {
    let request = posted(
        "warm",
        "/infer",
        json!({"prompt": "Hello?", "max_tokens": 4, "deadline_ms": 60_000}),
    );
    let answer: Value = serde_json::from_str(&until_served(serving, &request)).unwrap();
    until_served(
        serving,
        &posted("memory", "/v1/memories", json!({"text": "The harbour is deep."})),
    );
    answer["decision_id"].as_str().unwrap().to_owned()
}

fn hangs_and_goes_on<T>(
    serving: &Serving,
    stop: impl FnOnce() -> T,
    go_on: impl FnOnce(T),
    unhindered: &[&str],
) {
    let decision = warmed(serving);
    let stopped = stop();
    fail_in_time(serving, &decision, unhindered);
    go_on(stopped);
    // decisions whose responses failed are recorded, since the database resumed in time
    let begun = Instant::now();
    loop {
        let (status, reply) = whole(serving, "GET", "/v1/decisions", b"");
        let missing: Vec<&str> =
            QUESTIONS.into_iter().filter(|question| !reply.contains(question)).collect();
        if status == 200 && missing.is_empty() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{missing:?} are not on record: {status} {reply}");
        std::thread::sleep(Duration::from_millis(100));
    }
    for request in requests(&decision) {
        let body = until_served(serving, &request);
        assert!(request.0 != "stream" || body.contains("[DONE]"), "{body}");
    }
}

#[test]
fn deadlines_hold_while_postgresql_stands_still() {
    let postgres = Postgres::start();
    let serving = program().with("NYX__PHOEBE__URL", postgres.url()).serve();
    hangs_and_goes_on(&serving, || postgres.freeze(), drop, &[]);
    assert!(serving.interrupt().status.success());
}

#[test]
fn shutting_down_does_not_wait_for_postgresql_that_stands_still() {
    let postgres = Postgres::start();
    let serving = program().with("NYX__PHOEBE__URL", postgres.url()).serve();
    let decision = warmed(&serving);
    let _frozen = postgres.freeze();
    let asked = posted(
        "infer",
        "/infer",
        json!({"prompt": "Hello?", "specialist": "eleos", "max_tokens": 4, "deadline_ms": 1000}),
    );
    assert_eq!(asked.1(&serving).0, 504);
    assert_eq!(
        posted("feedback", "/v1/feedback", json!({"decision_id": decision, "thumbs": "up"})).1(
            &serving
        )
        .0,
        504
    );
    let begun = Instant::now();
    let ended = serving.interrupt();
    assert!(ended.status.success(), "{ended:?}");
    // the grace period for running work, as much again for cancelled work, and the connections
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}: {}", begun.elapsed(), ended.stderr);
}

/// Another program that holds an exclusive lock on the database.
struct Locked {
    runtime: actix_rt::SystemRunner,
    connection: DatabaseConnection,
}

impl Locked {
    fn new(path: &std::path::Path) -> Self {
        let runtime = actix_rt::System::new();
        let connection = runtime.block_on(async {
            let mut options = ConnectOptions::new(format!("sqlite://{}", path.display()));
            options.max_connections(1).min_connections(1).sqlx_logging(false);
            let connection = Database::connect(options).await.unwrap();
            connection.execute_unprepared("BEGIN EXCLUSIVE").await.unwrap();
            connection
        });
        Self { runtime, connection }
    }

    fn unlock(self) {
        self.runtime.block_on(async {
            self.connection.execute_unprepared("COMMIT").await.unwrap();
            self.connection.close().await.unwrap();
        });
    }
}

#[test]
fn deadlines_hold_while_another_program_has_sqlite_to_itself() {
    let program = program();
    let serving = program.serve();
    let path = program.data_dir().join("phoebe.db");
    // reads work while another process writes
    hangs_and_goes_on(&serving, || Locked::new(&path), Locked::unlock, &["decisions"]);
    let decision = warmed(&serving);
    let locked = Locked::new(&path);
    assert_eq!(
        posted("feedback", "/v1/feedback", json!({"decision_id": decision, "thumbs": "down"})).1(
            &serving
        )
        .0,
        504
    );
    let begun = Instant::now();
    let ended = serving.interrupt();
    assert!(
        ended.status.success() && begun.elapsed() < Duration::from_secs(15),
        "{:?}: {ended:?}",
        begun.elapsed()
    );
    locked.unlock();
}
