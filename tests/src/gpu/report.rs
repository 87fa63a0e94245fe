//! The report: a line of a Markdown table for each check, in the order in which they end.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

/// Runs a check, which gives its figures or panics, and notes how it went.
#[expect(clippy::disallowed_methods, reason = "a test measures how long it takes")]
pub(super) fn check(name: &str, body: impl FnOnce() -> String) {
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(body));
    let seconds = began.elapsed().as_secs_f64();
    let (word, said) = match &result {
        Ok(figures) => ("PASS", figures.clone()),
        Err(panic) => ("FAIL", words(panic.as_ref())),
    };
    note(&format!("| {name} | {word} | {} | {seconds:.1} s |", one_line(&said)));
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// Notes a check that cannot be run here.
pub(super) fn skipped(name: &str, why: &str) {
    note(&format!("| {name} | not run | {why} | |"));
}

/// What a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// A cell of a table: no more than a few words of what may be a log.
fn one_line(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    flat.chars().take(300).collect()
}

#[expect(clippy::disallowed_methods, reason = "a test's configuration")]
fn note(line: &str) {
    println!("{line}");
    let Ok(path) = std::env::var("PTV2_TEST_REPORT") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    writeln!(file.unwrap(), "{line}").unwrap();
}

#[test]
fn a_cell_has_one_line() {
    assert_eq!(one_line("a |b\n  c"), "a /b c");
    assert_eq!(one_line(&"x".repeat(400)).len(), 300);
}
