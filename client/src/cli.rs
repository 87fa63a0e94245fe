//! What can be typed: commands, options and the environment variables behind them.

mod access;
mod trained;
mod upkeep;

pub(crate) use access::{AuditArgs, TokenCommand, TokenCreateArgs};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ptv2_common::manifest::Which;
use ptv2_common::spec::WorkerRange;
use ptv2_common::tls::Fingerprint;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
pub(crate) use trained::{EvalArgs, PredictArgs, ReportArgs, SuperglueArgs, TrainedArgs};
pub(crate) use upkeep::{GcArgs, JobsArgs, JobsCommand, RecoverArgs};

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  the job failed
    2  wrong usage, a refused spec, or a local file that cannot be read or written
    3  the coordinator is unreachable, or its answer is of no use
    4  no such job (or checkpoint, or worker), or several jobs of that name
    5  the job was cancelled
    6  not permitted: no token, a wrong one, or one whose scope is too small
    7  the time-out passed and the job goes on
  130  Ctrl-C: while following, the job goes on

Data goes to stdout, everything else to stderr. JOB is an id, its beginning, or a unique name.
The token is read from PTV2_TOKEN_FILE, else from .ptv2/token in the current folder.";

/// Client of ptv2, the P-tuning v2 prefix training daemon.
#[derive(Debug, Parser)]
#[command(name = "ptv2ctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The coordinator's address.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "PTV2_COORDINATOR",
        default_value = "http://127.0.0.1:7341"
    )]
    pub(crate) coordinator: String,
    /// How data is printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// File that holds the token [default: .ptv2/token].
    #[arg(long, global = true, value_name = "FILE", env = "PTV2_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File of authorities that may vouch for the coordinator [default: ca.pem beside the token's file,
    /// else the system's].
    #[arg(long, global = true, value_name = "FILE", env = "PTV2_CA_FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Fingerprint of the authority that must vouch for the coordinator; goes before --ca-file.
    #[arg(long, global = true, value_name = "sha256:HEX", env = "PTV2_CA_FINGERPRINT")]
    pub(crate) ca_fingerprint: Option<Fingerprint>,
    /// Sends the token to another machine in the clear.
    #[arg(long, global = true, env = "PTV2_INSECURE_HTTP")]
    pub(crate) insecure_http: bool,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs; the schema is stable.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prints a commented job file for a task, to begin with. Needs no coordinator.
    Init(InitArgs),
    /// Submits a job and prints its id.
    Submit(SubmitArgs),
    /// Says what submit would do: rows, steps, trained parameters, bytes, limits.
    Plan(PlanArgs),
    /// Shows a job, or lists jobs.
    Status(StatusArgs),
    /// Waits until jobs are final; the exit code is the worst one's.
    Wait(WaitArgs),
    /// Prints a job's log.
    Logs(FollowArgs),
    /// Prints what a job's steps and evaluations measured.
    Metrics(JobArgs),
    /// Prints what happened to a job.
    Events(FollowArgs),
    /// Lists a job's checkpoints.
    Checkpoints(JobArgs),
    /// Cancels a job.
    Cancel(JobArgs),
    /// Tries a failed or cancelled job again, from its last checkpoint.
    Retry(JobArgs),
    /// Fetches a checkpoint into a folder and prints the folder.
    Pull(PullArgs),
    /// Submits a job that evaluates trained values on a split; prints its id, with --wait the metrics.
    Eval(EvalArgs),
    /// Predicts a split with trained values and writes the leaderboard's file.
    Predict(PredictArgs),
    /// Prints a report of jobs: scores over seeds, settings, sizes, versions.
    Report(ReportArgs),
    /// Trains all SuperGLUE tasks, predicts their test splits, writes submission and report.
    Superglue(SuperglueArgs),
    /// Lists workers.
    Workers,
    /// Lets a worker finish its step, leave its group and end.
    Drain(DrainArgs),
    /// Makes, lists and revokes tokens: who may do what.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Lists who did what, and who was refused, newest first.
    Audit(AuditArgs),
    /// Deletes what nobody needs any more in the artifact store. Works beside running jobs.
    Gc(GcArgs),
    /// Takes up jobs that a store holds.
    Jobs(JobsArgs),
    /// Prints the completions for a shell. Needs no coordinator.
    Completions(CompletionsArgs),
    /// Writes the manual pages of ptv2ctl and of each of its commands. Needs no coordinator.
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The task: boolq, cb, copa, multirc, record, rte, wic or wsc, or its full name.
    pub(crate) task: String,
    /// The file to make [default: stdout].
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// Replaces the file if it exists.
    #[arg(long, requires = "to")]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder to write them to; it is made where there is none.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
}

/// A job file and what is changed in it.
#[derive(Debug, Args)]
pub(crate) struct JobFileArgs {
    /// A job in TOML or JSON; `-` reads stdin. Relative paths in it start at its folder.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Sets a key, for example `training.seed=3`. Relative paths start at the current folder.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<Assignment>,
}

/// What is said of a job that is submitted.
#[derive(Debug, Default, Args)]
pub(crate) struct NewJobArgs {
    /// The job's name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Number of workers, `N` or `MIN..MAX`.
    #[arg(long, value_name = "N|MIN..MAX")]
    pub(crate) workers: Option<WorkerRange>,
    /// A repeated submit with the same key returns the first job.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) job_file: JobFileArgs,
    #[command(flatten)]
    pub(crate) new: NewJobArgs,
    /// Shows progress until the job is final, then its result.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) follow: bool,
    /// Waits in silence until the job is final, then prints its status.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Waits no longer than this, for example `90s` or `2h`.
    #[arg(long, requires = "wait", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) job_file: JobFileArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The job; without it, jobs are listed, newest first.
    #[arg(conflicts_with_all = ["state", "task", "limit"])]
    pub(crate) job: Option<String>,
    /// Lists only jobs in this state.
    #[arg(long, value_parser = ["staging", "queued", "running", "succeeded", "failed", "cancelled"])]
    pub(crate) state: Option<String>,
    /// Lists only jobs of this task.
    #[arg(long)]
    pub(crate) task: Option<String>,
    /// Lists no more than this many [default: 50].
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The jobs.
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// Waits no longer than this, for example `90s` or `2h`.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct FollowArgs {
    /// The job.
    pub(crate) job: String,
    /// Goes on until the job is final.
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job.
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The job.
    pub(crate) job: String,
    /// Which checkpoint: `best`, `last` or a step.
    #[arg(long, default_value = "best", value_name = "best|last|STEP")]
    pub(crate) checkpoint: Which,
    /// Of the run with this seed, where the job has several [default: of all].
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,
    /// What is written: a PEFT adapter, or ptv2's own files.
    #[arg(long, value_enum, default_value_t = Format::Peft)]
    pub(crate) format: Format,
    /// The folder to make [default: ./<job name>-<checkpoint>, and the seed if one is given].
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// Replaces the folder if it exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// Reads the artifact store itself, not through the coordinator.
    #[arg(long)]
    pub(crate) direct: bool,
    /// The artifact store. No coordinator is asked then; JOB must be the full id.
    #[arg(long, value_name = "URL", requires = "direct")]
    pub(crate) store: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The worker.
    pub(crate) worker: String,
}

/// What `pull` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// ptv2's own files, with the optimizer's state.
    Native,
    /// An adapter that PEFT loads.
    Peft,
}

/// A `--set`: where, and the text that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// The key's parts, at least one, none empty.
    pub(crate) path: Vec<String>,
    /// What stands behind the first `=`.
    pub(crate) text: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected `key=value`, for example `training.seed=3`";
        let (key, value) = text.split_once('=').ok_or(expected)?;
        let path: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(format!("`{key}` is no key; {expected}"));
        }
        Ok(Self { path, text: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_documents_the_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("7  the time-out passed and the job goes on"), "{help}");
    }

    #[test]
    fn the_help_of_init_names_the_tasks() {
        let mut cli = Cli::command();
        let help = cli.find_subcommand_mut("init").unwrap().render_help().to_string();
        for task in ptv2_common::spec::known_tasks() {
            assert!(help.contains(task.rsplit('/').next().unwrap()), "{task}: {help}");
        }
    }

    #[test]
    fn a_set_is_split_at_its_first_equals_sign() {
        let set: Assignment = "a.b=c=d".parse().unwrap();
        assert_eq!((set.path, set.text.as_str()), (vec!["a".into(), "b".into()], "c=d"));
        assert!("no-value".parse::<Assignment>().is_err());
        assert!("a..b=1".parse::<Assignment>().is_err());
    }

    #[test]
    fn a_store_is_only_read_directly() {
        assert!(Cli::try_parse_from(["ptv2ctl", "pull", "j1", "--store", "/a"]).is_err());
        assert!(Cli::try_parse_from(["ptv2ctl", "submit", "-", "--timeout", "3s"]).is_err());
    }
}
