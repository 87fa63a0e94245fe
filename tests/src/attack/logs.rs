//! What a log must be whatever was asked: one record a line, and nothing in it that steers a terminal.

/// Of which form a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Text,
}

/// Checks each line.
pub(super) fn check(log: &str, format: Format) {
    assert!(!log.is_empty());
    for line in log.lines() {
        let shown: String = line.chars().take(300).collect();
        let steers = |c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c);
        assert!(!line.contains(steers), "{shown:?}");
        let is_record = match format {
            Format::Json => serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|record| record["timestamp"].is_string() && record["level"].is_string()),
            // 2026-11-25T16:00:00.000000Z  INFO …
            Format::Text => {
                let mut words = line.split_whitespace();
                let time =
                    words.next().is_some_and(|time| time.contains('T') && time.ends_with('Z'));
                time && words.next().is_some_and(|level| level.chars().all(char::is_uppercase))
            }
        };
        assert!(is_record, "no record: {shown:?}");
    }
}
