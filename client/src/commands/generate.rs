//! `ptv2ctl completions` and `ptv2ctl man`: files that are made from the command line's own words.

use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::failure::{Failure, Outcome};
use crate::render;
use clap::CommandFactory;

/// Prints the completions for a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<Outcome, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ptv2ctl", &mut script);
    render::data(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Outcome::Done)
}

/// Writes a page for the program and one for each command.
pub(crate) fn man(args: &ManArgs) -> Result<Outcome, Failure> {
    std::fs::create_dir_all(&args.to)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.to))
        .map_err(|error| Failure::local("the manual cannot be written", &args.to, &error))?;
    render::data(&args.to.display().to_string())?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_a_page_for_each_command_and_the_exit_codes() {
        let folder = tempfile::tempdir().unwrap();
        man(&ManArgs { to: folder.path().join("man1") }).unwrap();
        let page = |name: &str| std::fs::read_to_string(folder.path().join("man1").join(name));
        let first = page("ptv2ctl.1").unwrap();
        assert!(first.contains("7  the time\\-out passed and the job goes on"), "{first}");
        assert!(page("ptv2ctl-submit.1").unwrap().contains("idempotency"));
        assert!(page("ptv2ctl-status.1").is_ok());
    }
}
