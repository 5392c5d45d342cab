//! Which process trains: a run whose process ended before it did is told as failed by whoever starts next on that machine.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use uuid::Uuid;

/// Tells this process from an earlier one of the same number, as containers have them.
static INSTANCE: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().to_string());

/// This machine's name, this process' number, and which of that number it is.
pub(super) fn this() -> Value {
    json!({ "host": host(), "pid": std::process::id(), "instance": INSTANCE.as_str() })
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// Whether a process has ended; of another machine's, and where processes cannot be looked at, nobody can tell.
pub(super) fn has_ended(process: &Value) -> bool {
    let (Some(host_then), Some(pid)) = (process["host"].as_str(), process["pid"].as_u64()) else { return false };
    let processes = Path::new("/proc");
    let here = !host_then.is_empty() && host_then == host() && processes.join("self").exists();
    let ended = if pid == u64::from(std::process::id()) {
        process["instance"].as_str() != Some(INSTANCE.as_str())
    } else {
        !processes.join(pid.to_string()).exists()
    };
    here && ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_has_ended_and_this_one_has_not() {
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let pid = child.id();
        child.wait().expect("its end");
        assert!(has_ended(&json!({ "host": host(), "pid": pid })));
        assert!(!has_ended(&this()));
        let before = json!({ "host": host(), "pid": std::process::id(), "instance": "another" });
        assert!(has_ended(&before), "an earlier one of the same number");
        assert!(!has_ended(&json!({ "host": "another", "pid": pid })), "nobody can tell");
        assert!(!has_ended(&Value::Null));
    }
}
