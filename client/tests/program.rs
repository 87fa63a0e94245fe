//! The program itself: how fast it starts, and what it says where there is neither a coordinator nor
//! a terminal.

#![expect(clippy::unwrap_used, reason = "all of this is tests")]

use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// So many are tried at most.
const STARTS: u32 = 500;
const START_MAX: Duration = Duration::from_millis(20);

/// Runs the client for a coordinator that is not there: nobody listens on port 9.
fn ptv2ctl(args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    Command::new(env!("CARGO_BIN_EXE_ptv2ctl"))
        .args(args)
        .env("PTV2_COORDINATOR", "http://127.0.0.1:9")
        .env("PTV2_TOKEN_FILE", token)
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .output()
        .unwrap()
}

/// The first start that is fast enough, or the fastest of all: what the others took longer is the machine's doing.
#[expect(clippy::disallowed_methods, reason = "the time of a start is what is tested")]
fn fastest_start(args: &[&str], code: i32) -> Duration {
    let start = || {
        let begin = Instant::now();
        let run = ptv2ctl(args);
        let took = begin.elapsed();
        assert_eq!(run.status.code(), Some(code), "{}", String::from_utf8_lossy(&run.stderr));
        took
    };
    let mut fastest = Duration::MAX;
    for _ in 0..STARTS {
        fastest = fastest.min(start());
        if fastest < START_MAX {
            break;
        }
    }
    fastest
}

#[test]
fn it_starts_at_once() {
    for (args, code) in [(["--version"], 0), (["status"], 3)] {
        let took = fastest_start(&args, code);
        println!("{args:?}: {took:?}");
        assert!(took < START_MAX, "{args:?} took {took:?}, expected less than {START_MAX:?}");
    }
}

#[test]
fn what_is_piped_has_no_colors() {
    for args in [
        &["status"][..],
        &["--help"],
        &["init", "rte"],
        &["init", "nothing"],
        &["submit", "nowhere.toml"],
        &["submit"],
    ] {
        let run = ptv2ctl(args);
        assert!(!run.stdout.is_empty() || !run.stderr.is_empty(), "{args:?}");
        assert!(![run.stdout, run.stderr].concat().contains(&0x1b), "{args:?}");
    }
}

#[test]
fn a_wrong_job_is_refused_without_a_coordinator() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.toml").display().to_string();
    assert_eq!(ptv2ctl(&["init", "rte", "--to", &file]).status.code(), Some(0));
    for command in ["submit", "plan"] {
        let run = ptv2ctl(&[command, &file, "--set", "training.seed=abc"]);
        assert_eq!(run.status.code(), Some(2));
        let said = String::from_utf8(run.stderr).unwrap();
        assert!(said.contains("(--set training.seed=abc)"), "{said}");
        let run = ptv2ctl(&[command, &file]);
        assert_eq!(run.status.code(), Some(3), "a right one needs a coordinator");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = ptv2ctl(&["completions", shell]);
        assert!(String::from_utf8(run.stdout).unwrap().contains("checkpoints"), "{shell}");
    }
}
