//! The trace of a decision as JSON.

use nyx_domain::Trace;
use serde_json::{Map, Value};

/// The parts that took part, by name; documented in [`Trace`].
pub fn trace_object(trace: &Trace) -> Map<String, Value> {
    match serde_json::to_value(trace) {
        Ok(Value::Object(parts)) => parts,
        _ => Map::new(),
    }
}
