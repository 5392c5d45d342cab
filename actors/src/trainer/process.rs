//! Which process trains: a run whose process ended before it did is told as failed by whoever starts next beside it, on that machine since it was
//! started and, of containers, in the same one. Of others' processes nobody can tell.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use uuid::Uuid;

/// Tells this process from an earlier one of the same number, as containers have them.
static INSTANCE: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().to_string());

/// Among which processes this one is, its number, and which of that number it is.
pub(super) fn this() -> Value {
    json!({ "among": among(), "pid": std::process::id(), "instance": INSTANCE.as_str() })
}

/// The start of this machine and its space of process numbers; empty where the system does not say.
fn among() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let space = std::fs::read_link("/proc/self/ns/pid");
    boot.ok().zip(space.ok()).map_or_else(String::new, |(boot, space)| format!("{} {}", boot.trim(), space.display()))
}

/// Whether a process has ended; of another machine's, and where processes cannot be looked at, nobody can tell.
pub(super) fn has_ended(process: &Value) -> bool {
    let (Some(among_then), Some(pid)) = (process["among"].as_str(), process["pid"].as_u64()) else { return false };
    let here = !among_then.is_empty() && among_then == among();
    let ended = if pid == u64::from(std::process::id()) {
        process["instance"].as_str() != Some(INSTANCE.as_str())
    } else {
        !Path::new("/proc").join(pid.to_string()).exists()
    };
    here && ended
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_has_ended_and_this_one_has_not() {
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let pid = child.id();
        child.wait().expect("its end");
        assert!(has_ended(&json!({ "among": among(), "pid": pid })));
        assert!(!has_ended(&this()));
        let before = json!({ "among": among(), "pid": std::process::id(), "instance": "another" });
        assert!(has_ended(&before), "an earlier one of the same number");
        assert!(!has_ended(&json!({ "among": "others", "pid": pid })), "nobody can tell");
        assert!(!has_ended(&Value::Null));
    }
}
