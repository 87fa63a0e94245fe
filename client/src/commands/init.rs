//! `ptv2ctl init`.

use crate::cli::InitArgs;
use crate::failure::{Failure, Outcome};
use crate::render;
use ptv2_common::error::Explained;
use ptv2_common::spec;
use std::fs::File;
use std::io::{ErrorKind, Write};

/// Prints a job file to begin with, or writes it.
pub(crate) fn run(args: &InitArgs) -> Result<Outcome, Failure> {
    let text = spec::job_file(&args.task)?;
    let Some(target) = &args.to else {
        render::data(text.trim_end())?;
        return Ok(Outcome::Done);
    };
    let opened = if args.force { File::create(target) } else { File::create_new(target) };
    let mut file = match opened {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let error = Explained::new("the file exists")
                .at(target.display().to_string())
                .hint("name another, or replace it with --force");
            return Err(Failure::refused(error));
        }
        opened => opened.map_err(|error| Failure::local("no file can be made", target, &error))?,
    };
    file.write_all(text.as_bytes())
        .map_err(|error| Failure::local("the file cannot be written", target, &error))?;
    render::data(&target.display().to_string())?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn init(task: &str, to: &Path, force: bool) -> Result<Outcome, Failure> {
        run(&InitArgs { task: task.into(), to: Some(to.to_owned()), force })
    }

    #[test]
    fn a_file_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("job.toml");
        init("rte", &file, false).unwrap();
        let first = std::fs::read_to_string(&file).unwrap();
        let again = init("cb", &file, false).unwrap_err();
        assert!(again.message().contains("--force"), "{}", again.message());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
        init("cb", &file, true).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().contains("superglue/cb"));
    }

    #[test]
    fn an_unknown_task_is_wrong_usage() {
        let folder = tempfile::tempdir().unwrap();
        let failure = init("ner", &folder.path().join("job.toml"), false).unwrap_err();
        assert_eq!(failure.kind.exit_code(), 2);
        assert!(failure.message().contains("`superglue/rte`"), "{}", failure.message());
    }
}
