//! Logging to stderr, filtered by `RUST_LOG` or the settings.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, TelemetrySettings};

/// Starts logging. `level` overrides the settings' filter; `RUST_LOG` overrides both.
pub fn init(settings: &TelemetrySettings, level: Option<&str>) {
    let named = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let named = named.filter(|filter| EnvFilter::try_new(filter).is_ok());
    let filter = EnvFilter::new(named.as_deref().or(level).unwrap_or(&settings.log));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // an error means that a subscriber is already set, which is kept
    let _ = match settings.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}
