//! The units for systemd say what the programs and systemd understand.

use super::harness::{binary, root, text};
use std::path::PathBuf;
use std::process::Command;

/// The units, with their text.
fn units() -> Vec<(PathBuf, String)> {
    let folder = root().join("configs/systemd").read_dir().unwrap().flatten();
    let paths = folder.map(|entry| entry.path());
    paths.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The values of a key, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let value = |line: &'a str| line.strip_prefix(key)?.strip_prefix('=');
    unit.lines().filter_map(value).collect()
}

#[test]
fn what_units_start_takes_the_options_that_it_is_given() {
    let units = units();
    assert_eq!(units.len(), 2);
    for (path, unit) in &units {
        let [start] = values(unit, "ExecStart")[..] else { panic!("{}", path.display()) };
        let mut words = start.split_whitespace();
        assert_eq!(words.next(), Some("/usr/local/bin/ptv2d"), "where `make install` puts it");
        let command = words.next().unwrap();
        let help = Command::new(binary("ptv2d")).args([command, "--help"]).output().unwrap();
        assert!(help.status.success(), "{command}: {}", text(&help.stderr));
        let help = text(&help.stdout);
        for option in words.filter(|word| word.starts_with('-')) {
            assert!(help.contains(&format!("{option} <")), "{}: {option}", path.display());
        }
        // What is said by the environment is listened to.
        for variable in unit.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if variable.starts_with("PTV2_") {
                assert!(help.contains(variable), "{}: {variable}", path.display());
            }
        }
        for (key, value) in [("Restart", "on-failure"), ("NoNewPrivileges", "yes")] {
            assert_eq!(values(unit, key), [value], "{}: {key}", path.display());
        }
        assert!(!unit.contains("--token "), "a token in a command line can be read by everybody");
    }
}

/// Of ten, the less the better. What is left is the network, which they are for.
#[test]
fn units_are_as_closed_as_they_were() {
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).output();
    if analyze(&["--version"]).is_err() {
        return println!("skipped: there is no systemd-analyze");
    }
    for (path, _) in units() {
        let path = path.to_str().unwrap();
        let run = analyze(&["security", "--offline=yes", "--threshold=25", path]).unwrap();
        let said = text(&run.stdout) + &text(&run.stderr);
        assert!(run.status.success(), "{said}");
        println!("{}", said.lines().last().unwrap_or_default());
    }
}
