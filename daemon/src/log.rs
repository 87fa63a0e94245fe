//! The text form of the log: one line an event, whatever is in its fields.
//!
//! Names and messages of jobs, workers and requests come from elsewhere. A line feed in one would begin a
//! line that looks like another event, and an escape sequence would steer the terminal of whoever reads the
//! log. The JSON form escapes both itself, but not what steers without being ASCII.

use ptv2_common::text::{escaped, steers};
use std::borrow::Cow;
use std::fmt::{Debug, Result};
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// Fields as `name=value`, after the message.
pub fn fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| -> Result {
        let value = format!("{value:?}");
        let value = escaped(&value);
        if field.name() == "message" {
            return write!(writer, "{value}");
        }
        write!(writer, "{}={value}", field.name())
    };
    debug_fn(field).delimited(" ")
}

/// A record in JSON, with escapes in place of what JSON lets stand: controls of eight bits, and what turns the
/// reading order.
pub fn in_json(record: &str) -> Cow<'_, str> {
    let stays = |c: char| c < '\u{7f}' || !steers(c);
    if record.chars().all(stays) {
        return Cow::Borrowed(record);
    }
    let mut safe = String::with_capacity(record.len() + 16);
    for c in record.chars() {
        // Each of them has four digits.
        if stays(c) { safe.push(c) } else { safe.push_str(&format!("\\u{:04x}", u32::from(c))) }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_record_in_json_says_the_same_without_what_steers() {
        let said = "ü \u{9b}2J\u{202e}\u{7f}\u{2028}";
        let record = serde_json::json!({"message": said}).to_string();
        let safe = in_json(&record);
        assert_eq!(safe, r#"{"message":"ü \u009b2J\u202e\u007f\u2028"}"#);
        let read: serde_json::Value = serde_json::from_str(&safe).unwrap();
        assert_eq!(read["message"], said);
        assert!(matches!(in_json("{\"a\":\"ü\"}"), Cow::Borrowed(_)));
    }

    #[test]
    fn an_event_stays_one_line_and_steers_nothing() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .fmt_fields(fields())
            .finish();
        tracing::subscriber::with_default(log, || {
            let foreign = "a\nINFO forged\u{1b}[2J\u{9b}1m";
            tracing::info!(job = %foreign, worker = foreign, count = 3, "said {foreign}");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let line = text.strip_suffix('\n').unwrap();
        assert!(line.chars().all(|c| !ptv2_common::text::steers(c)), "{line:?}");
        let foreign = r"a\nINFO forged\u{1b}[2J\u{9b}1m";
        let quoted = format!("{foreign:?}").replace(r"\\", r"\");
        let expected = format!(" INFO said {foreign} job={foreign} worker={quoted} count=3");
        assert_eq!(line, expected);
    }
}
