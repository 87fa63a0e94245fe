//! Slurm as a process of it sees it: where a task stands, and lists of nodes.

mod nodes;

pub use nodes::{NODES_MAX, hostnames};

use serde::{Deserialize, Serialize};

/// Where a process stands in Slurm, by the variables that Slurm sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Placement {
    /// The job's id.
    pub job: String,
    /// How often the job was started again, after a requeue.
    #[serde(default)]
    pub restarts: u32,
    /// The node's name. It need not be a name that anyone can resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The task, where the process is one: it was started by `srun`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}

/// A task of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Task {
    /// The step's id within the job.
    pub step: String,
    /// The task's number within the step.
    pub rank: u32,
    /// The task's number among those of its step on its node.
    pub local_rank: u32,
}

impl Placement {
    /// Reads it from the environment; nothing outside Slurm.
    ///
    /// `SLURM_PROCID` is set in a batch script, too, so it does not make a task: the step's id does.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let text = |name: &str| variable(name).filter(|value| !value.is_empty());
        let number = |name: &str| text(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let task = text("SLURM_STEP_ID").map(|step| Task {
            step,
            rank: number("SLURM_PROCID"),
            local_rank: number("SLURM_LOCALID"),
        });
        Some(Self {
            job: text("SLURM_JOB_ID")?,
            restarts: number("SLURM_RESTART_COUNT"),
            node: text("SLURMD_NODENAME"),
            task,
        })
    }
}

impl std::fmt::Display for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slurm job {}", self.job)?;
        if let Some(Task { step, rank, local_rank }) = &self.task {
            write!(f, ", step {step}, task {rank} (local {local_rank})")?;
        }
        if let Some(node) = &self.node {
            write!(f, ", node {node}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<Placement> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name);
        Placement::of(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_task_stands_in_a_step() {
        let batch = [
            ("SLURM_JOB_ID", "7"),
            ("SLURMD_NODENAME", "n0"),
            ("SLURM_PROCID", "0"),
            ("SLURM_LOCALID", "0"),
        ];
        let script = of(&batch).unwrap();
        assert_eq!((script.task.as_ref(), script.restarts), (None, 0));
        assert_eq!(script.to_string(), "Slurm job 7, node n0");
        let step = [
            ("SLURM_STEP_ID", "1"),
            ("SLURM_PROCID", "3"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_JOB_ID", "7"),
            ("SLURM_RESTART_COUNT", "2"),
        ];
        let task = of(&step).unwrap();
        assert_eq!(task.task, Some(Task { step: "1".into(), rank: 3, local_rank: 1 }));
        assert_eq!(task.restarts, 2);
        assert_eq!(task.to_string(), "Slurm job 7, step 1, task 3 (local 1)");
        let json = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<Placement>(&json).unwrap(), task);
    }

    #[test]
    fn outside_slurm_there_is_none() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("SLURM_JOB_ID", ""), ("SLURM_STEP_ID", "0")]), None);
    }
}
