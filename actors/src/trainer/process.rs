//! Identification of the training process: an interrupted run is marked failed at the next start on
//! the same machine since its boot and, for containers, in the same process namespace. The state of
//! other machines' processes is unknown.

use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Value, json};
use uuid::Uuid;

/// Distinguishes this process from an earlier one with the same number, as in containers.
static INSTANCE: LazyLock<String> = LazyLock::new(|| Uuid::new_v4().to_string());

/// The namespace, number and instance of this process.
pub(super) fn this() -> Value {
    json!({ "among": among(), "pid": std::process::id(), "instance": INSTANCE.as_str() })
}

/// The boot id and process namespace; empty where the system does not provide them.
fn among() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let space = std::fs::read_link("/proc/self/ns/pid");
    boot.ok()
        .zip(space.ok())
        .map_or_else(String::new, |(boot, space)| format!("{} {}", boot.trim(), space.display()))
}

/// Whether a process has ended; false if that is unknown, as for other machines.
pub(super) fn has_ended(process: &Value) -> bool {
    let (Some(among_then), Some(pid)) = (process["among"].as_str(), process["pid"].as_u64()) else {
        return false;
    };
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
