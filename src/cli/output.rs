//! Output of commands: results on stdout, errors on stderr. A closed pipe (`nyx ask ... | head -1`)
//! does not panic.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};

/// Writes to stdout and flushes.
pub(super) fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes a line to stdout and flushes.
pub(super) fn line(text: &str) -> io::Result<()> {
    write(&format!("{text}\n"))
}

/// Writes a line to stderr.
pub(super) fn note(text: &str) {
    // a closed stderr is no reason to fail
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints the error and its causes on one line. A cause that the message already contains is
/// omitted.
pub(super) fn complain(error: &(dyn Error + 'static)) {
    note(&format!("error: {}", error_text(error)));
}

pub(super) fn error_text(error: &(dyn Error + 'static)) -> String {
    let mut text = one_line(error);
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = one_line(inner);
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = inner.source();
    }
    text
}

/// A message on one line, without the backtrace that candle appends to its own under
/// `RUST_BACKTRACE=1`.
pub(super) fn one_line(message: impl Display) -> String {
    let message = message.to_string();
    let lines = message.lines().take_while(|line| !line.trim_start().starts_with("0: "));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("inner\n  trouble")]
    struct Inner;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("outer: {0}")]
        Told(#[source] Inner),
        #[error("outer")]
        Silent(#[source] Inner),
    }

    #[test]
    fn an_error_is_one_line_with_each_cause_once() {
        assert_eq!(error_text(&Outer::Told(Inner)), "outer: inner trouble");
        assert_eq!(error_text(&Outer::Silent(Inner)), "outer: inner trouble");
        assert_eq!(one_line("bad file\n   0: main\n             at main.rs:1\n"), "bad file");
    }
}
