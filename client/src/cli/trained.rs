//! Arguments of the commands that apply trained values, and report on them.

use super::{Assignment, NewJobArgs};
use clap::Args;
use ptv2_common::manifest::Which;
use std::path::PathBuf;
use std::time::Duration;

/// Trained values, and what they are to be applied to.
#[derive(Debug, Args)]
pub(crate) struct TrainedArgs {
    /// A job, or the folder of an adapter: a PEFT adapter, or a checkpoint pulled in native form. What
    /// holds a `/`, as `./adapter`, is a folder.
    #[arg(value_name = "JOB|ADAPTER")]
    pub(crate) source: String,
    /// Of a job, which checkpoint: `best`, `last` or a step.
    #[arg(long, default_value = "best", value_name = "best|last|STEP")]
    pub(crate) checkpoint: Which,
    /// Of a job with several seeds, the run with this one [default: of all].
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,
    /// Another task that the values are of use for: superglue/axb and superglue/axg for those of RTE. For
    /// a PEFT adapter, its task.
    #[arg(long)]
    pub(crate) task: Option<String>,
    /// The folder that holds the task's folder [default: the job's own].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The backbone [default: the one that the values were trained on].
    #[arg(long, value_name = "DIR")]
    pub(crate) backbone: Option<String>,
    /// Sets a key of the job, for example `data.max_seq_length=256`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<Assignment>,
    #[command(flatten)]
    pub(crate) new: NewJobArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) trained: TrainedArgs,
    /// The split, whose rows must have labels.
    #[arg(long, default_value = "val")]
    pub(crate) split: String,
    /// Waits until the job is final, then prints what was measured.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Waits no longer than this, for example `90s` or `2h`.
    #[arg(long, requires = "wait", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    #[command(flatten)]
    pub(crate) trained: TrainedArgs,
    /// The split; its rows need no labels.
    #[arg(long, default_value = "test")]
    pub(crate) split: String,
    /// The file to make, or a folder, in which it gets the leaderboard's name, as BoolQ.jsonl.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Replaces the file if it exists.
    #[arg(long)]
    pub(crate) force: bool,
    /// Waits no longer than this, for example `90s` or `2h`; JOB may then be the new job's id.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// As for submit; a prediction is always waited for.
    #[arg(long, hide = true)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The jobs.
    #[arg(required = true, value_name = "JOB")]
    pub(crate) jobs: Vec<String>,
    /// The folder for report.md and report.json [default: stdout, as --output says].
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SuperglueArgs {
    /// What to train, and where; see configs/superglue.toml.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The folder for submission.zip, report.md and report.json [default: the configuration's `to`].
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
}
