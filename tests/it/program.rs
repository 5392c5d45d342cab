//! Runs the real binary as a user does, in temporary folders.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Maximum duration of a command or a start, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The folder of models.
pub fn models() -> PathBuf {
    let cache = || {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
    };
    let root = std::env::var_os("NYX_MODELS")
        .map(PathBuf::from)
        .or_else(|| Some(cache()?.join("nyx/models")))
        .expect("HOME is set");
    for path in [root.join("smollm2-135m-instruct"), root.join("all-minilm-l6-v2")] {
        assert!(path.is_dir(), "there is no {}: run `make models`", path.display());
    }
    root
}

/// Nyx with its own data folder, home and working directory.
pub struct Program {
    pub dir: Arc<TempDir>,
    variables: Vec<(String, String)>,
}

/// Result of a command.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn new() -> Self {
        Self { dir: Arc::new(tempfile::tempdir().unwrap()), variables: Vec::new() }
    }

    /// Sets an environment variable for every run.
    pub fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.variables.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nyx"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("NYX_") || name.starts_with("XDG_") || name == "RUST_LOG" {
                command.env_remove(&name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .stdin(Stdio::null());
        // errors must be one line even with backtraces
        command.env("RUST_BACKTRACE", "1");
        command.env("NYX_MODELS", models()).env("NYX__DATA_DIR", self.data_dir());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command and waits for its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Ran {
        let mut child =
            self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) =
            (reader(child.stdout.take().unwrap()), reader(child.stderr.take().unwrap()));
        let status = wait(
            &mut child,
            &format!(
                "nyx {:?}",
                arguments.iter().map(|argument| argument.as_ref().to_owned()).collect::<Vec<_>>()
            ),
        );
        Ran { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }

    /// Starts a command in a process group of its own.
    pub fn spawn<A: AsRef<OsStr>>(&self, arguments: &[A], variables: &[(&str, &str)]) -> Group {
        let mut command = self.command(arguments);
        command
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Group(command.spawn().unwrap())
    }

    /// Starts `nyx serve` on a free port and waits until it listens.
    pub fn serve(&self) -> Serving {
        let mut child = self
            .command(&["serve", "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = reader(child.stderr.take().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let Some(address) = first.trim().strip_prefix("listening on http://") else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("nyx serve said {first:?} and {}", stderr.join().unwrap());
        };
        // keep reading: a full pipe would block Nyx
        let stdout = reader(lines);
        Serving {
            address: address.to_owned(),
            child,
            stdout: Some(stdout),
            stderr: Some(stderr),
            _dir: Arc::clone(&self.dir),
        }
    }
}

fn reader(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, what: &str) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    panic!("{what} did not end in {PATIENCE:?}");
}

impl Ran {
    /// Asserts exit code 1 and one line on stderr that begins with `error:`. Returns the line.
    pub fn refusal(&self) -> &str {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let errors: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{}", self.stderr);
        assert_eq!(
            self.stderr.lines().last(),
            errors.last().copied(),
            "the error is the last line: {}",
            self.stderr
        );
        errors[0]
    }

    pub fn success(self) -> Self {
        assert!(self.status.success(), "{self:?}");
        self
    }

    pub fn json(self) -> Value {
        let ran = self.success();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
    }
}

/// A command with its child processes; killed when dropped.
pub struct Group(Child);

impl Group {
    pub fn kill_group(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.0.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.kill_group();
        }
    }
}

/// A running server; killed when dropped.
pub struct Serving {
    pub address: String,
    child: Child,
    stdout: Option<std::thread::JoinHandle<String>>,
    stderr: Option<std::thread::JoinHandle<String>>,
    /// Keeps the folders as long as the server runs, also if its [`Program`] was a temporary.
    _dir: Arc<TempDir>,
}

impl Serving {
    /// Sends a request; returns the response's status and JSON.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, &[JSON], body.to_string().as_bytes()).json()
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, &[], b"").json()
    }

    /// Sends a request with headers `Name: value` and any bytes; returns the whole response.
    pub fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        let mut reply = self.open(method, path, headers, body);
        let mut bytes = Vec::new();
        reply.0.read_to_end(&mut bytes).unwrap();
        let answer = String::from_utf8(bytes).unwrap();
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// Sends a request and does not wait for its response.
    pub fn begin(&self, path: &str, body: &Value) -> Streaming {
        self.open("POST", path, &[JSON], body.to_string().as_bytes())
    }

    /// Sends a request whose response streams.
    pub fn stream(&self, path: &str, body: &Value) -> Streaming {
        let mut streaming = self.open("POST", path, &[JSON], body.to_string().as_bytes());
        let mut line = String::new();
        streaming.0.read_line(&mut line).unwrap();
        if line.split(' ').nth(1) != Some("200") {
            streaming.0.read_to_string(&mut line).unwrap();
            panic!("{path} {body}: {line}");
        }
        while !line.trim().is_empty() {
            line.clear();
            streaming.0.read_line(&mut line).unwrap();
        }
        streaming
    }

    /// HTTP/1.0, so that the body is not chunked and ends with the connection.
    fn open(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Streaming {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Length: {length}\r\n{headers}\r\n",
            self.address
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        Streaming(BufReader::new(stream))
    }

    /// Kills the server with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGINT; returns the exit status and the output.
    pub fn interrupt(mut self) -> Ran {
        let sent =
            Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let status = wait(&mut self.child, "nyx serve, after SIGINT,");
        let said = |thread: &mut Option<std::thread::JoinHandle<String>>| {
            thread.take().unwrap().join().unwrap()
        };
        Ran { status, stdout: said(&mut self.stdout), stderr: said(&mut self.stderr) }
    }
}

/// The content type of most requests.
pub const JSON: &str = "Content-Type: application/json";

/// A complete response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(self) -> (u16, Value) {
        (
            self.status,
            serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}")),
        )
    }
}

/// A response in progress. Closes its connection when dropped.
pub struct Streaming(BufReader<TcpStream>);

impl Streaming {
    /// The next event: its name (empty when it has none) and data. `None` at the end.
    pub fn event(&mut self) -> Option<(String, String)> {
        let (mut name, mut data) = (String::new(), None);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("data", value)) => data = Some(value.to_owned()),
                _ if data.is_some() && line.trim().is_empty() => {
                    return data.map(|data| (name, data));
                }
                _ => {}
            }
        }
    }

    /// All remaining events, until the connection closes.
    pub fn rest(mut self) -> Vec<(String, String)> {
        std::iter::from_fn(|| self.event()).collect()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a file, and creates its parent folders.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}
