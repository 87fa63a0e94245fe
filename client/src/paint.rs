//! Colors, where a person reads at a terminal, and nowhere else.

use anstyle::{AnsiColor, Style};
use std::ffi::OsStr;
use std::io::IsTerminal;

/// Words at the beginning of a line that say what the line is.
const LABELS: [(&str, AnsiColor); 3] =
    [("error:", AnsiColor::Red), ("expected:", AnsiColor::Yellow), ("hint:", AnsiColor::Cyan)];

/// Whether what goes to this stream may have colors.
pub(crate) fn is_wanted(stream: &impl IsTerminal) -> bool {
    let [no_color, term] = ["NO_COLOR", "TERM"].map(std::env::var_os);
    is_allowed(stream.is_terminal(), no_color.as_deref(), term.as_deref())
}

/// Paints the labels of a message.
pub(crate) fn labels(text: &str) -> String {
    text.lines().map(label).collect::<Vec<_>>().join("\n")
}

/// Paints a job's state; another word is left as it is.
pub(crate) fn state(word: &str) -> String {
    let color = match word {
        "staging" | "queued" => AnsiColor::Yellow,
        "running" => AnsiColor::Cyan,
        "succeeded" => AnsiColor::Green,
        "failed" => AnsiColor::Red,
        "cancelled" => AnsiColor::Magenta,
        _ => return word.to_owned(),
    };
    painted(word, color)
}

fn label(line: &str) -> String {
    let text = line.trim_start();
    let margin = &line[..line.len() - text.len()];
    for (word, color) in LABELS {
        if let Some(rest) = text.strip_prefix(word) {
            return format!("{margin}{}{rest}", painted(word, color));
        }
    }
    line.to_owned()
}

fn painted(word: &str, color: AnsiColor) -> String {
    let style = Style::new().bold().fg_color(Some(color.into()));
    format!("{style}{word}{style:#}")
}

/// As no-color.org has it: a variable that is set to nothing is not set.
fn is_allowed(is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    is_terminal
        && no_color.is_none_or(OsStr::is_empty)
        && term.is_none_or(|term| term != OsStr::new("dumb"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_for_a_terminal_that_shows_them() {
        let check = |is_terminal, no_color: Option<&str>, term: Option<&str>, expected| {
            let allowed = is_allowed(is_terminal, no_color.map(OsStr::new), term.map(OsStr::new));
            assert_eq!(allowed, expected, "{is_terminal} {no_color:?} {term:?}");
        };
        check(true, None, Some("xterm"), true);
        check(true, Some(""), None, true);
        check(true, Some("1"), Some("xterm"), false);
        check(true, None, Some("dumb"), false);
        check(false, None, Some("xterm"), false);
    }

    #[test]
    fn only_the_label_of_a_line_is_painted() {
        let text = labels("error: `hint:` is 3\n  expected: 4\n\nplain");
        let red = "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m `hint:` is 3\n";
        assert!(text.starts_with(red), "{text:?}");
        assert!(text.contains("\n  \u{1b}[1m\u{1b}[33mexpected:\u{1b}[0m 4"), "{text:?}");
        assert!(text.ends_with("\n\nplain"), "{text:?}");
    }

    #[test]
    fn a_state_is_painted_and_no_other_word() {
        assert!(state("failed").contains("\u{1b}[31mfailed"));
        assert_eq!(state("idle"), "idle");
    }
}
