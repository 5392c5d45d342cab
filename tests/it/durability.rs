//! Acknowledged writes are recorded exactly once, after kill -9 and with a full disk, under mixed
//! load.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, Database, DbBackend, Statement};
use serde_json::{Value, json};

use crate::program::{Program, Serving};

/// Number of concurrent clients.
const CLIENTS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

/// Number of rounds: the variable NYX_ROUNDS, or 3.
fn rounds() -> usize {
    std::env::var("NYX_ROUNDS").map_or(3, |text| {
        text.parse().unwrap_or_else(|_| panic!("NYX_ROUNDS is {text:?}, expected a number"))
    })
}

/// Writes that the server acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    decisions: BTreeSet<String>,
    /// Feedback by its idempotency keys.
    feedback: BTreeSet<String>,
    memories: BTreeSet<String>,
}

impl Acknowledged {
    fn len(&self) -> usize {
        self.decisions.len() + self.feedback.len() + self.memories.len()
    }
}

/// Clients that send questions, feedback and memories until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(
        address: &str,
        acknowledged: &Arc<Mutex<Acknowledged>>,
        numbers: &Arc<AtomicUsize>,
    ) -> Self {
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = (0..CLIENTS).map(|_| {
            let (address, acknowledged, numbers) = (address.to_owned(), Arc::clone(acknowledged), Arc::clone(numbers));
            let (stop, refused) = (Arc::clone(&stop), Arc::clone(&refused));
            std::thread::spawn(move || {
                let mut rated: Option<String> = None;
                while !stop.load(Ordering::SeqCst) {
                    let n = numbers.fetch_add(1, Ordering::SeqCst);
                    let (path, body) = match (n % 4, &rated) {
                        (0 | 1, Some(id)) => {
                            ("/v1/feedback", json!({"decision_id": id, "value": f64::from(n as u32 % 9) / 9.0, "key": format!("k-{n}")}))
                        }
                        (2, _) => ("/v1/memories", json!({"text": format!("Box {n} is on the shelf.")})),
                        _ => {
                            let said = json!([{"role": "user", "content": format!("Say {n}.")}]);
                            ("/v1/chat/completions", json!({"model": "nyx/base", "max_tokens": 1, "messages": said}))
                        }
                    };
                    match call(&address, "POST", path, &body.to_string()) {
                        Some((200, answer)) => {
                            let mut reply = acknowledged.lock().unwrap();
                            match path {
                                "/v1/feedback" => reply.feedback.insert(format!("k-{n}")),
                                "/v1/memories" => reply.memories.insert(answer["id"].as_str().unwrap().to_owned()),
                                _ => {
                                    let id = answer["id"].as_str().unwrap().trim_start_matches("chatcmpl-").to_owned();
                                    rated = Some(id.clone());
                                    reply.decisions.insert(id)
                                }
                            };
                        }
                        Some((503, _)) => {
                            refused.fetch_add(1, Ordering::SeqCst);
                        }
                        // a request above the limit is not an error
                        Some((429, _)) | None => {}
                        Some((status, answer)) => panic!("{path} {body}: {status} {answer}"),
                    }
                }
            })
        });
        let clients = clients.collect();
        Self { stop, refused, clients }
    }

    fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().unwrap();
        }
    }
}

/// Sends a request; `None` if no complete response arrived.
fn call(address: &str, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
}

/// Every acknowledged write is in the file, exactly once.
fn assert_recorded(file: &Path, acknowledged: &Acknowledged) {
    let url = format!("sqlite://{}", file.display());
    let texts = async |sql: &str| -> Vec<String> {
        let connection = Database::connect(&url).await.unwrap();
        let rows =
            connection.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql)).await.unwrap();
        let texts = rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap()).collect();
        connection.close().await.unwrap();
        texts
    };
    actix_rt::System::new().block_on(async {
        for (what, sql, reply) in [
            ("decisions", "SELECT id FROM nyx_synthetic_specialist_queries", &acknowledged.decisions),
            // feedback equal to the current one is recorded by its key alone
            ("feedback", "SELECT key FROM nyx_feedback UNION ALL SELECT key FROM nyx_feedback_keys", &acknowledged.feedback),
            ("memories", "SELECT id FROM nyx_subjective_memory", &acknowledged.memories),
        ] {
            let found = texts(sql).await;
            let once: BTreeSet<String> = found.iter().cloned().collect();
            assert_eq!(found.len(), once.len(), "{what}: some are there twice");
            let lost: Vec<&String> = reply.difference(&once).collect();
            assert!(lost.is_empty(), "{what}: {} of {} acknowledged are not on record: {lost:?}", lost.len(), reply.len());
        }
        // each request has a number
        for sql in [
            "SELECT question FROM nyx_synthetic_specialist_queries GROUP BY question HAVING count(*) > 1",
            "SELECT text FROM nyx_subjective_memory GROUP BY text HAVING count(*) > 1",
            "SELECT decision FROM nyx_rewards GROUP BY decision, at, rule HAVING count(*) > 1",
        ] {
            assert_eq!(texts(sql).await, Vec::<String>::new(), "{sql}");
        }
        assert_eq!(texts("PRAGMA integrity_check").await, ["ok"]);
    });
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_was_acknowledged_under_load_survives_every_kill_9() {
    let program = Program::new();
    let (acknowledged, numbers) = (Arc::<Mutex<Acknowledged>>::default(), Arc::default());
    for round in 0..rounds() {
        let serving = program.serve();
        let before = acknowledged.lock().unwrap().len();
        let load = Load::start(&serving.address, &acknowledged, &numbers);
        until("ten more requests", || acknowledged.lock().unwrap().len() >= before + 10);
        // vary the moment of the kill within a request
        std::thread::sleep(Duration::from_millis(37 * (round as u64 % 11)));
        serving.kill();
        load.end();
        let acknowledged = acknowledged.lock().unwrap();
        assert_recorded(&program.data_dir().join("phoebe.db"), &acknowledged);
    }
    let reply = acknowledged.lock().unwrap();
    println!(
        "{} rounds of kill -9: {} decisions, {} feedback, {} memories",
        rounds(),
        reply.decisions.len(),
        reply.feedback.len(),
        reply.memories.len()
    );
    assert!(
        !reply.decisions.is_empty() && !reply.feedback.is_empty() && !reply.memories.is_empty()
    );
}

/// A small file system, unmounted when dropped.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` if this user cannot mount one.
    fn mount() -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("nyx-disk").tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(dir.path())
            .output()
            .ok()?;
        mounted.status.success().then_some(Self { dir })
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }

    fn fill(&self) {
        let mut ballast = std::fs::File::create(self.ballast()).unwrap();
        for piece in [1 << 16, 1 << 12, 1] {
            while ballast.write_all(&vec![0; piece]).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // lazily: a server left by a failing test may still hold its file
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

fn ready(serving: &Serving) -> (u16, Value) {
    serving.get("/health/ready")
}

#[test]
fn a_full_disk_is_reported_and_loses_nothing_that_was_acknowledged() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped 1 test: no tmpfs can be mounted here (root can)");
        return;
    };
    let file = disk.dir.path().join("phoebe.db");
    let program = Program::new().with("NYX__PHOEBE__URL", format!("sqlite://{}", file.display()));
    let serving = program.serve();
    let (acknowledged, numbers) = (Arc::<Mutex<Acknowledged>>::default(), Arc::default());
    let recorded = || acknowledged.lock().unwrap().len();
    for _ in 0..rounds() {
        let load = Load::start(&serving.address, &acknowledged, &numbers);
        let before = recorded();
        until("ten more requests", || recorded() >= before + 10);
        disk.fill();
        until("three requests refused", || load.refused() >= 3);
        until("readiness tells of the full disk", || {
            let (status, parts) = ready(&serving);
            status == 503
                && parts["parts"]["database"]
                    .as_str()
                    .is_some_and(|why| why.contains("full") || why.contains("disk I/O"))
        });
        std::fs::remove_file(disk.ballast()).unwrap();
        let before = recorded();
        until("ten more requests, with room again", || recorded() >= before + 10);
        until("readiness sees the room", || ready(&serving).0 == 200);
        load.end();
    }
    serving.kill();
    let reply = acknowledged.lock().unwrap();
    println!("{} rounds of a full disk: {} acknowledged", rounds(), reply.len());
    assert_recorded(&file, &reply);
}

#[test]
fn a_database_that_was_removed_makes_the_server_not_ready() {
    let program = Program::new();
    let serving = program.serve();
    assert_eq!(ready(&serving).0, 200);
    std::fs::rename(program.data_dir(), program.dir.path().join("elsewhere")).unwrap();
    let asked = json!({"model": "nyx/base", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello?"}]});
    let (status, refused) = serving.post("/v1/chat/completions", &asked);
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("database_error")), "{refused}");
    assert!(refused.to_string().contains("was removed"), "{refused}");
    until("readiness tells of it", || {
        let (status, parts) = ready(&serving);
        status == 503
            && parts["parts"]["database"].as_str().is_some_and(|why| why.contains("was removed"))
    });
    std::fs::rename(program.dir.path().join("elsewhere"), program.data_dir()).unwrap();
    until("readiness sees it again", || ready(&serving).0 == 200);
    assert_eq!(serving.post("/v1/chat/completions", &asked).0, 200);
}
