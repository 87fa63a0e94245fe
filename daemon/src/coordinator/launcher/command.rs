//! Commands of other programs, with an end in sight.

use ptv2_common::error::Explained;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// A command may take this long.
const ENDING: Duration = Duration::from_secs(30);
/// What it prints may be so long, in bytes.
const LONGEST_OUTPUT: u64 = 16 << 20;
/// Of what it complains, so many characters are shown.
const SHOWN: usize = 500;

/// Why a command gave nothing.
#[derive(Debug)]
pub(super) enum CommandError {
    /// It was not started, or refused.
    Refused(Explained),
    /// It may have done what it was told: it did not end in time.
    Unknown(Explained),
}

impl From<CommandError> for Explained {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Refused(error) | CommandError::Unknown(error) => error,
        }
    }
}

/// Runs a command with an input to its end; what it printed.
///
/// # Errors
/// When there is no such program, it refuses, or it does not end in time.
pub(super) async fn run(mut command: Command, input: &str) -> Result<String, CommandError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = tokio::time::timeout(ENDING, to_the_end(command, input)).await;
    let Ok(ended) = ended else {
        let waited = humantime::format_duration(ENDING);
        let error = Explained::new(format!("`{program}` did not end within {waited}"))
            .hint("see whether Slurm's controller answers: `scontrol ping`");
        return Err(CommandError::Unknown(error));
    };
    let (well, printed, complained) = ended.map_err(|error| {
        let hint = "install Slurm's commands on the coordinator's machine, and see its PATH";
        let error = Explained::new(format!("`{program}` cannot be run: {error}")).hint(hint);
        CommandError::Refused(error)
    })?;
    if well {
        return Ok(printed);
    }
    let said: String = complained.trim().replace('\n', "; ").chars().take(SHOWN).collect();
    Err(CommandError::Refused(Explained::new(format!("`{program}` refuses: {said}"))))
}

async fn to_the_end(mut command: Command, input: &str) -> std::io::Result<(bool, String, String)> {
    let mut child = command.spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that refuses early does not read it.
            drop(stdin.write_all(input.as_bytes()).await);
        }
    };
    let (mut printed, mut complained) = (Vec::new(), Vec::new());
    let read = async {
        if let Some(stdout) = stdout {
            stdout.take(LONGEST_OUTPUT).read_to_end(&mut printed).await?;
        }
        std::io::Result::Ok(())
    };
    let read_complaints = async {
        if let Some(stderr) = stderr {
            stderr.take(LONGEST_OUTPUT).read_to_end(&mut complained).await?;
        }
        std::io::Result::Ok(())
    };
    let ((), read, read_complaints) = tokio::join!(write, read, read_complaints);
    read.and(read_complaints)?;
    let status = child.wait().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((status.success(), text(&printed), text(&complained)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_complains_of_is_shown() {
        let error = run(Command::new("/no/sbatch"), "").await.unwrap_err();
        let error = Explained::from(error);
        assert!(error.what.contains("/no/sbatch") && error.hint.unwrap().contains("PATH"));
        let mut command = Command::new("sh");
        command.args(["-c", "cat >&2; exit 1"]);
        let error = Explained::from(run(command, "no such\npartition\n").await.unwrap_err());
        assert_eq!(error.what, "`sh` refuses: no such; partition");
        let printed = run(Command::new("cat"), "12;cluster\n").await.unwrap();
        assert_eq!(printed, "12;cluster\n");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_end_is_given_up() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let error = run(command, "").await.unwrap_err();
        assert!(matches!(error, CommandError::Unknown(error) if error.what.contains("30s")));
    }
}
