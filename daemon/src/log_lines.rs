//! A log of which each record is one line, whatever names and messages from elsewhere say in it.

use std::io::{Result, Stderr, Write};

/// Standard error, for records of the log. What would begin another line, or steer a terminal, is written
/// as its escape.
pub struct OneLine {
    out: Stderr,
    /// Whether the records have colors, whose escapes are the log's own: what came from elsewhere has none
    /// left by then.
    colors: bool,
}

impl OneLine {
    /// Writes to standard error.
    pub fn new(colors: bool) -> Self {
        Self { out: std::io::stderr(), colors }
    }
}

impl Write for OneLine {
    /// Takes a whole record, as the log gives it.
    fn write(&mut self, record: &[u8]) -> Result<usize> {
        self.out.write_all(one_line(&String::from_utf8_lossy(record), self.colors).as_bytes())?;
        Ok(record.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }
}

/// A record as one line.
fn one_line(record: &str, colors: bool) -> String {
    let (text, end) = record.strip_suffix('\n').map_or((record, ""), |text| (text, "\n"));
    let mut line = String::with_capacity(record.len());
    for letter in text.chars() {
        let is_color = colors && letter == '\u{1b}';
        if (letter.is_control() && !is_color) || is_direction(letter) {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line + end
}

/// Whether a letter ends a line, or turns the direction of writing, for whoever shows the log.
fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_begins_no_line_of_its_own() {
        assert_eq!(one_line("a worker left\n", false), "a worker left\n");
        assert_eq!(one_line("w\n2026 INFO all is well\n", false), "w\\n2026 INFO all is well\n");
        assert_eq!(one_line("\u{1b}[2J\r\u{9b}\u{202e}", false), "\\u{1b}[2J\\r\\u{9b}\\u{202e}");
        assert_eq!(one_line("\u{1b}[32mINFO\u{1b}[0m ü\n", true), "\u{1b}[32mINFO\u{1b}[0m ü\n");
    }

    proptest! {
        #[test]
        fn a_record_is_one_line(text in "\\PC*[\\x00-\\x1f\\u{80}-\\u{9f}\\n]*\\PC*", colors in any::<bool>()) {
            let line = one_line(&format!("{text}\n"), colors);
            prop_assert_eq!(line.matches(char::is_control).filter(|c| *c != "\u{1b}").count(), 1);
            prop_assert!(line.ends_with('\n'));
        }
    }
}
