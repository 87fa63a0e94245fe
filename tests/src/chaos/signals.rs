//! Signals to a process, and when a stopped one has really stopped.

use super::clock::within;
use std::time::Duration;

/// Sends a signal. The process must be one that the test has started and not yet waited for.
#[expect(unsafe_code, reason = "a signal has no safe form in the standard library")]
pub(crate) fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).unwrap();
    // SAFETY: kill takes two integers and touches no memory of this process.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "signal {signal} to process {pid}");
}

/// Waits until every thread of a process that was sent SIGSTOP stands still.
pub(crate) fn is_stopped(pid: u32) {
    let stands = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let mut stats =
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        // The state is the first word after the name, which stands in brackets.
        let is_still =
            |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        stats.all(is_still).then_some(())
    };
    within(Duration::from_secs(10), stands)
        .unwrap_or_else(|| panic!("process {pid} does not stop"));
}
