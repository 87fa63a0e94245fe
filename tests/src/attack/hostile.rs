//! Names that have misled programs before.

/// A trick's name and its text.
pub(super) type Trick = (&'static str, String);

/// All tricks. None of them is the name of anything that there is.
pub(super) fn tricks() -> Vec<Trick> {
    let short = [
        ("parent", ".."),
        ("climbs", "../../../../../../etc/passwd"),
        ("climbs to the canary", "../canary.txt"),
        ("climbs, encoded", "%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
        ("climbs, encoded twice", "%252e%252e%252fetc%252fpasswd"),
        ("climbs, overlong UTF-8", "%c0%ae%c0%ae%c0%afetc"),
        ("climbs, fullwidth", "\u{ff0e}\u{ff0e}\u{ff0f}etc"),
        ("absolute", "/etc/passwd"),
        ("a URL of a file", "file:///etc/passwd"),
        ("a URL of metadata", "http://169.254.169.254/latest/meta-data"),
        ("a home", "~/.ssh/id_rsa"),
        ("backslashes", "..\\..\\etc\\passwd"),
        ("NUL", "best\0.json"),
        ("line feed", "one\nroot: two"),
        ("a header", "one\r\nx-injected: 1\r\n\r\n<b>"),
        ("an escape sequence", "\u{1b}[2J\u{1b}]0;title\u{7}"),
        ("a control of eight bits", "\u{9b}2J"),
        ("a turned direction", "\u{202e}gpj.exe\u{2028}x"),
        ("a parameter", "best;rm -rf x"),
        ("a command", "$(touch canary.txt)`id`|id"),
        ("SQL", "' OR 1=1; --"),
        ("a wildcard", "*"),
        ("a percent", "100%"),
        ("a format", "%s%n{}{0}"),
        ("a space", " "),
        ("combining letters", "e\u{301}\u{301}\u{301}"),
        ("astral", "\u{1f4a9}"),
        ("a minus", "--help"),
        ("a number", "-1"),
        ("a large number", "99999999999999999999999999"),
        ("no number", "NaN"),
    ];
    let mut all: Vec<Trick> =
        short.into_iter().map(|(name, text)| (name, text.to_owned())).collect();
    all.push(("a hundred thousand letters", "a".repeat(100_000)));
    all.push(("ten thousand parents", "../".repeat(10_000)));
    all
}
