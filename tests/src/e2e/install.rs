//! Installed programs find the libraries that were installed with them.

use super::harness::{binary, outside, root, text};
use std::process::Command;

#[test]
fn installed_programs_run_from_their_folder() {
    binary("ptv2d"); // What `make install` installs is then built already.
    let prefix = tempfile::tempdir().unwrap();
    let place = prefix.path().canonicalize().unwrap();
    let run = outside(&mut Command::new("make"))
        .args(["install", "PROFILE=dev", &format!("PREFIX={}", place.display())])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}{}", text(&run.stdout), text(&run.stderr));
    for program in ["ptv2d", "ptv2ctl"] {
        let run = Command::new(place.join("bin").join(program)).arg("--version").output().unwrap();
        assert!(text(&run.stdout).starts_with(program), "{}", text(&run.stderr));
    }
    for file in [
        "man/man1/ptv2ctl.1",
        "man/man1/ptv2ctl-submit.1",
        "bash-completion/completions/ptv2ctl",
        "zsh/site-functions/_ptv2ctl",
        "fish/vendor_completions.d/ptv2ctl.fish",
    ] {
        let text = std::fs::read_to_string(place.join("share").join(file)).unwrap();
        assert!(text.contains("ptv2ctl"), "{file}: {text}");
    }
    let needed = Command::new("ldd").arg(place.join("bin/ptv2d")).output().unwrap();
    let needed = text(&needed.stdout);
    let torch = needed.lines().find(|line| line.contains("libtorch_cpu.so")).unwrap();
    assert!(torch.contains(&format!("{}/", place.display())), "{torch}");
}
