//! Progress of a download: lines and bars on stderr, or nothing.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

/// The output of progress.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    silent: bool,
}

impl Progress {
    /// Lines, and bars if stderr is a terminal.
    pub fn stderr() -> Self {
        Self { silent: false }
    }

    pub fn silent() -> Self {
        Self { silent: true }
    }

    /// Prints one line.
    pub fn say(&self, text: &str) {
        if !self.silent {
            // a closed stderr is no reason to fail
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// Whether a subprocess may draw on the terminal.
    pub(super) fn is_terminal(&self) -> bool {
        !self.silent && std::io::stderr().is_terminal()
    }

    /// A progress bar of `bytes`; indicatif hides it if stderr is not a terminal.
    pub(super) fn bar(&self, what: &str, bytes: u64) -> ProgressBar {
        if self.silent {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(bytes).with_message(what.to_owned());
        let style = ProgressStyle::with_template(
            "{msg:32} {bar:32} {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12} {eta:>4}",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }
}
