//! The only place that prints: data to stdout, everything else to stderr.

use crate::cli::Output;
use crate::failure::{Failure, Kind};
use crate::paint;
use ptv2_common::error::Explained;
use ptv2_common::text;
use serde::Serialize;
use std::io::{ErrorKind, Write};
use unicode_width::UnicodeWidthStr;

/// Between two columns.
const GAP: &str = "  ";

/// Prints lines of data.
pub(crate) fn data(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| {
        let gone = error.kind() == ErrorKind::BrokenPipe;
        let kind = if gone { Kind::OutputClosed } else { Kind::Refused };
        Failure::new(kind, Explained::new(format!("stdout cannot be written: {error}")))
    })
}

/// Prints a value as JSON over several lines.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    data(&clean_json(&serde_json::to_string_pretty(value).map_err(|error| not_json(&error))?))
}

/// Prints a value as JSON on one line.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    data(&clean_json(&serde_json::to_string(value).map_err(|error| not_json(&error))?))
}

/// Prints a value as JSON, or as the table that is made of it.
pub(crate) fn either<T: Serialize + ?Sized>(
    output: Output,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    match output {
        Output::Json => json(&value),
        Output::Table => data(&table(value)),
    }
}

/// Tells a person something.
#[expect(clippy::print_stderr, reason = "the one place for it")]
pub(crate) fn note(text: &str) {
    let text = clean(text);
    let colors = paint::is_wanted(&std::io::stderr());
    eprintln!("{}", if colors { paint::labels(&text) } else { text });
}

/// Tells a person why the command failed. Returns the exit code.
pub(crate) fn failure(failure: &Failure) -> u8 {
    let message = failure.message();
    if !message.is_empty() {
        note(&message);
    }
    failure.kind.exit_code()
}

/// A table with a head. Job states are painted where stdout is a terminal.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut lines = vec![head.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>()];
    let one_line = |cell: &String| clean(cell).replace(['\n', '\t'], " ");
    lines.extend(rows.iter().map(|row| row.iter().map(one_line).collect()));
    let state = head.iter().position(|name| *name == "state");
    let painted = state.filter(|_| paint::is_wanted(&std::io::stdout()));
    columns(&lines, |_, column| Some(column) == painted)
}

/// A table of names and values, of which those without a value are left out.
pub(crate) fn pairs(rows: Vec<(&str, Option<String>)>) -> String {
    let mut lines = Vec::new();
    for (name, value) in rows {
        let value = value.map(|value| clean(&value).replace('\t', " "));
        // What follows a line feed stands under the value.
        for (number, part) in value.iter().flat_map(|value| value.lines().enumerate()) {
            let name = if number == 0 { name } else { "" };
            lines.push(vec![name.to_owned(), part.to_owned()]);
        }
    }
    let colors = paint::is_wanted(&std::io::stdout());
    columns(&lines, |line, column| colors && column == 1 && line[0] == "state")
}

/// Lines of cells, each column as wide as its widest cell.
fn columns(lines: &[Vec<String>], is_painted: impl Fn(&[String], usize) -> bool) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.width().max(*width);
        }
    }
    let text = |line: &Vec<String>| -> String {
        let cell = |(column, cell): (usize, &String)| {
            // Padded here, because an escape has characters and no width.
            let padding = " ".repeat(widths[column] - cell.width());
            let painted = is_painted(line, column);
            format!("{}{padding}", if painted { paint::state(cell) } else { cell.clone() })
        };
        line.iter().enumerate().map(cell).collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    lines.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// What stands for no value.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// Text that cannot steer a terminal: names and messages come from elsewhere.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if text::steers(c) && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

/// JSON that cannot steer a terminal: some control characters need no escape in JSON, and get one here.
fn clean_json(json: &str) -> String {
    let mut clean = String::with_capacity(json.len());
    for c in json.chars() {
        // All of these have four hexadecimal digits at most.
        if c != '\n' && text::steers(c) {
            clean.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            clean.push(c);
        }
    }
    clean
}

/// The time, for ages.
#[expect(clippy::disallowed_methods, reason = "the edge: an age is shown to a person")]
pub(crate) fn now_unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// A number of bytes in the unit that suits it.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A number of seconds in words, to the tenth below a minute.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    match std::time::Duration::try_from_secs_f64(seconds.round()) {
        Ok(time) => humantime::format_duration(time).to_string(),
        Err(_) => "-".into(),
    }
}

/// A time of day in UTC.
pub(crate) fn time(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(unix_ms));
    // humantime writes years of four digits and panics beyond them.
    match time {
        Some(time) if unix_ms < 253_402_300_800_000 => {
            humantime::format_rfc3339_seconds(time).to_string()
        }
        Some(_) | None => "-".into(),
    }
}

fn not_json(error: &serde_json::Error) -> Failure {
    Failure::new(Kind::BadAnswer, Explained::new(format!("the answer is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_neither_margins_nor_lines() {
        let text = table(&["id", "name"], vec![vec!["j1".into(), "rte".into()]]);
        assert_eq!(text, "ID  NAME\nj1  rte");
    }

    #[test]
    fn columns_are_as_wide_as_they_look() {
        let line = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let lines = [line(["a", "running"]), line(["\u{4e00}\u{4e00}", "b"])];
        let plain = columns(&lines, |_, _| false);
        assert_eq!(plain, "a     running\n\u{4e00}\u{4e00}  b");
        let painted = columns(&lines, |_, column| column == 1);
        assert_eq!(painted.replace("\u{1b}[1m\u{1b}[36m", "").replace("\u{1b}[0m", ""), plain);
        assert_ne!(painted, plain);
    }

    #[test]
    fn a_value_of_several_lines_stays_in_its_column() {
        assert_eq!(pairs(vec![("why", Some("one\ntwo".into()))]), "why  one\n     two");
    }

    #[test]
    fn pairs_leave_out_what_is_not_known() {
        assert_eq!(pairs(vec![("a", Some("1".into())), ("b", None)]), "a  1");
    }

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
        let json =
            serde_json::to_string_pretty(&["\u{1b}[2J\n", "\u{9b}31m\u{7f}\u{202e}"]).unwrap();
        let printed = clean_json(&json);
        assert!(printed.chars().all(|c| c == '\n' || !text::steers(c)), "{printed}");
        let read: Vec<String> = serde_json::from_str(&printed).unwrap();
        assert_eq!(read, ["\u{1b}[2J\n", "\u{9b}31m\u{7f}\u{202e}"], "the value is the same");
    }

    #[test]
    fn times_are_readable() {
        assert_eq!(seconds(1.25), "1.2s");
        assert_eq!(seconds(3661.0), "1h 1m 1s");
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "-");
    }
}
