//! What is told to a person when something cannot be done: the cause in one line, and the fix.

use std::fmt;
use std::path::Path;

/// A cause and what to do about it; where a program's own words help, the last lines of its log come first.
#[derive(Debug)]
pub struct Failure {
    pub cause: String,
    pub fix: String,
    pub log: Option<String>,
}

impl Failure {
    pub fn new(cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { cause: cause.into(), fix: fix.into(), log: None }
    }

    /// Adds the last lines of a log file.
    #[must_use]
    pub fn with_log(mut self, file: &Path) -> Self {
        let text = last_lines(file, 15);
        self.log = (!text.is_empty()).then_some(text);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(log) = &self.log {
            writeln!(f, "{log}")?;
        }
        write!(f, "{}; {}", self.cause, self.fix)
    }
}

impl std::error::Error for Failure {}

/// The last lines of a text file, or nothing when it cannot be read.
pub fn last_lines(file: &Path, count: usize) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_and_fix_share_the_last_line() {
        let failure = Failure {
            log: Some("first\nsecond".to_owned()),
            ..Failure::new("port 18003 is in use", "choose another PORT_BASE")
        };
        assert_eq!(failure.to_string().lines().last(), Some("port 18003 is in use; choose another PORT_BASE"));
    }
}
