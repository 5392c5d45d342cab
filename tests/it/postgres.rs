//! A real PostgreSQL of a test's own: a fresh cluster on a free port, gone when dropped. It refuses to run as root, so then it runs as
//! another user.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Postgres {
    server: Child,
    port: u16,
    // dropped after the server has ended
    _dir: TempDir,
}

impl Postgres {
    pub fn start() -> Self {
        let programs = programs();
        let dir = tempfile::Builder::new().prefix("nyx-postgres").tempdir().unwrap();
        let user = other_user();
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let command = |name: &str| {
            let mut command = Command::new(programs.join(name));
            command.current_dir(dir.path()).stdin(Stdio::null()).env("LC_ALL", "C");
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let cluster = dir.path().join("cluster");
        let made = command("initdb").args(["-U", "nyx", "-A", "trust", "-E", "UTF8", "--no-sync", "-D"]).arg(&cluster).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = command("postgres");
        server.arg("-D").arg(&cluster).arg("-k").arg(dir.path()).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        let log = dir.path().join("log");
        let server = server.args(["-c", "fsync=off"]).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        let mut postgres = Self { server, port, _dir: dir };
        postgres.wait(&programs, &log);
        postgres
    }

    /// The URL of the database that every cluster has.
    pub fn url(&self) -> String {
        format!("postgres://nyx@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops every process of the server where it stands, as on a machine that hangs, until the answer is dropped.
    #[allow(dead_code, reason = "not every crate that has this file stops the server")]
    pub fn freeze(&self) -> Frozen {
        let mut frozen = Frozen(Vec::new());
        frozen.stop(self.server.id());
        // no further ones come now
        for pid in children(self.server.id()) {
            frozen.stop(pid);
        }
        frozen
    }

    fn wait(&mut self, programs: &Path, log: &Path) {
        let deadline = Instant::now() + PATIENCE;
        let port = self.port.to_string();
        loop {
            let ready = Command::new(programs.join("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap();
            if ready.success() {
                return;
            }
            let ended = self.server.try_wait().unwrap();
            let said = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "PostgreSQL did not come up: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Processes that stand still; they go on when this is dropped.
#[allow(dead_code, reason = "not every crate that has this file stops the server")]
pub struct Frozen(Vec<u32>);

#[allow(dead_code, reason = "not every crate that has this file stops the server")]
impl Frozen {
    fn stop(&mut self, pid: u32) {
        // one may have ended meanwhile
        let _ = Command::new("kill").args(["-STOP", &pid.to_string()]).stderr(Stdio::null()).status();
        self.0.push(pid);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = Command::new("kill").args(["-CONT", &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

/// The processes that a process has started, as `/proc` has them: the fourth field of `stat`, the second behind the name in parentheses.
#[allow(dead_code, reason = "not every crate that has this file stops the server")]
fn children(of: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid) == Some(of)).collect()
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // an immediate shutdown: it ends its own processes first
        let _ = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
}

/// The folder of `initdb`: the newest of Debian's, else where the PATH has it.
fn programs() -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut debian: Vec<PathBuf> = debian.filter(|folder| folder.join("initdb").is_file()).collect();
    debian.sort();
    let on_path = || std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file());
    debian.pop().or_else(on_path).expect("PostgreSQL's server is not installed: run `make deps`")
}

/// Whom to run as: nobody else unless this is root.
fn other_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap())
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    let user = |name: &str| Some((id(&["-u", name])?, id(&["-g", name])?));
    Some(user("postgres").or_else(|| user("nobody")).expect("a user `postgres` or `nobody` to run PostgreSQL as"))
}
