//! What Slurm's commands print.

use super::scale::At;
use ptv2_common::error::Explained;

/// Columns of squeue's lines: number, state, reason, name. The name comes last, since the jobs of the same user
/// that are not ours may have any.
pub(super) const FORMAT: &str = "%i|%T|%r|%j";

/// A job of this user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) number: String,
    pub(super) state: String,
    pub(super) reason: String,
    pub(super) name: String,
}

/// Reads squeue's lines.
///
/// # Errors
/// Shows a line that is none.
pub(super) fn jobs(printed: &str) -> Result<Vec<Job>, Explained> {
    // Where several clusters are asked, each begins with a line of its own.
    let lines = printed.lines().filter(|line| !line.is_empty() && !line.starts_with("CLUSTER: "));
    lines.map(|line| job(line).ok_or_else(|| not_understood("squeue", line, FORMAT))).collect()
}

fn job(line: &str) -> Option<Job> {
    let mut columns = line.splitn(4, '|');
    let mut next = || columns.next().map(|column| column.trim().to_owned());
    let job = Job { number: next()?, state: next()?, reason: next()?, name: next()? };
    let is_state = !job.state.is_empty()
        && job.state.chars().all(|c| c == '_' || c.is_ascii_uppercase() || c.is_ascii_digit());
    let is_number = job.number.starts_with(|c: char| c.is_ascii_digit());
    (is_state && is_number).then_some(job)
}

/// Reads what `sbatch --parsable` prints: the job's number, and the cluster's name where there are several.
///
/// # Errors
/// Shows what is no number.
pub(super) fn submitted(printed: &str) -> Result<String, Explained> {
    // Warnings of a site's own scripts may come before it.
    let line = printed.lines().last().unwrap_or_default().trim();
    let number = line.split(';').next().unwrap_or_default();
    if !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()) {
        return Ok(number.to_owned());
    }
    Err(not_understood("sbatch", printed, "the number of a job"))
}

fn not_understood(program: &str, said: &str, expected: &str) -> Explained {
    let said: String = said.chars().take(200).collect();
    Explained::new(format!("what `{program}` prints is not understood: `{}`", said.escape_debug()))
        .expected(expected)
        .hint("see that no wrapper or alias stands before Slurm's own command")
}

impl Job {
    /// How far the launch is that this job is.
    pub(super) fn at(&self) -> At {
        let Self { number, state, reason, .. } = self;
        match state.as_str() {
            "RUNNING" | "COMPLETING" | "SIGNALING" | "STAGE_OUT" | "STOPPED" => At::Running,
            "BOOT_FAIL" | "CANCELLED" | "COMPLETED" | "DEADLINE" | "FAILED" | "LAUNCH_FAILED"
            | "NODE_FAIL" | "OUT_OF_MEMORY" | "PREEMPTED" | "REVOKED" | "TIMEOUT" => At::Ended {
                well: state == "COMPLETED",
                how: Explained::new(format!("Slurm job {number} ended: {state} ({reason})"))
                    .hint("its reason stands in the job's output, and in `scontrol show job`"),
            },
            // Among them what later versions may have: people see its name.
            _ => At::Pending { state: state.clone(), reason: reason.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Recorded from Slurm 22.05 with this format and `--states=all`.
    const PRINTED: &str = "\
        12|PENDING|Resources|ptv2-c0a1-l01\n\
        11|RUNNING|None|ptv2-c0a1-l02\n\
        10|COMPLETED|None|ptv2-c0a1-l03\n\
        9|FAILED|NonZeroExitCode|ptv2-c0a1-l04\n\
        8_3|PENDING|ReqNodeNotAvail, UnavailableNodes:n[0-1]|another's | job\n";

    #[test]
    fn lines_of_squeue_are_read() {
        let found = jobs(PRINTED).unwrap();
        assert_eq!(found.len(), 5);
        assert_eq!(found[4].name, "another's | job");
        assert_eq!(found[4].reason, "ReqNodeNotAvail, UnavailableNodes:n[0-1]");
        let (state, reason) = ("PENDING".to_owned(), "Resources".to_owned());
        assert_eq!(found[0].at(), At::Pending { state, reason });
        assert_eq!(found[1].at(), At::Running);
        assert!(matches!(found[2].at(), At::Ended { well: true, .. }));
        let At::Ended { well: false, how } = found[3].at() else { panic!("{:?}", found[3]) };
        assert_eq!(how.what, "Slurm job 9 ended: FAILED (NonZeroExitCode)");
        assert!(jobs("").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_line_of_squeue_is_shown() {
        for line in [
            "12|PENDING",
            "slurm_load_jobs error: Unable to contact",
            "x|RUNNING|None|n",
            "1|run|N|n",
        ] {
            let error = jobs(line).unwrap_err();
            assert!(error.what.contains(line), "{error}");
        }
    }

    #[test]
    fn a_submitted_job_has_a_number() {
        assert_eq!(submitted("123\n").unwrap(), "123");
        assert_eq!(submitted("123;tier1\n").unwrap(), "123");
        assert_eq!(submitted("welcome to tier1\n123\n").unwrap(), "123");
        for printed in ["", "Submitted batch job 123", "12 3", "-1"] {
            assert!(submitted(printed).is_err(), "{printed}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_printed_brings_it_down(printed in ".{0,200}") {
            if let Ok(found) = jobs(&printed) {
                found.iter().for_each(|job| drop(job.at()));
            }
            drop(submitted(&printed));
        }
    }
}
