//! Text of others: made fit for a log or a terminal, and measured before it is parsed.

use std::borrow::Cow;

/// The text on one line, with escapes in place of characters that would steer a terminal, begin a line of
/// their own, or turn the reading order round.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// The same, and not longer than this many characters.
pub fn escaped_to(text: &str, longest: usize) -> String {
    let cut: String = text.chars().take(longest).collect();
    let more = if text.chars().nth(longest).is_some() { "…" } else { "" };
    format!("{}{more}", escaped(&cut))
}

/// Whether a character is a control character, a line separator, or an override of the reading order.
pub fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Commas and opening brackets of a JSON text, counted without parsing it: it has one value more at most, and
/// each takes dozens of bytes once it is parsed.
pub fn commas_and_brackets(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        let check = |text: &str, expected: &str| assert_eq!(escaped(text), expected);
        check("plain — ü", "plain — ü");
        check("a\u{1b}[2Jb", "a\\u{1b}[2Jb");
        check("one\ntwo\r\tthree", "one\\ntwo\\r\\tthree");
        check("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}");
        check("\u{202e}txt\u{2028}", "\\u{202e}txt\\u{2028}");
        assert_eq!(escaped_to("abc\n", 3), "abc…");
        assert_eq!(escaped_to("a\n", 3), "a\\n");
    }

    #[test]
    fn values_are_no_more_than_commas_and_brackets_and_one() {
        let check = |json: &str, expected: usize| {
            assert_eq!(commas_and_brackets(json.as_bytes()), expected, "{json}");
        };
        check("1", 0);
        check("[]", 1);
        check("[1, 2, {\"a\": []}]", 5);
    }
}
