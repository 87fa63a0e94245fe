//! How a job that waits for workers is explained where the coordinator starts them itself.

use ptv2_common::api::{JobStatus, Reason};
use ptv2_common::error::Explained;
use ptv2_common::launch::{LaunchStage, LaunchStatus, LaunchTrouble, LauncherKind, LauncherStatus};

/// Tells a job that needs workers of those that are on their way, or why none are.
pub fn explain(mut status: JobStatus, launcher: &LauncherStatus) -> JobStatus {
    let needed = match &status.reason {
        Some(Reason::TooFewWorkers { needed, .. } | Reason::LostWorkers { needed }) => *needed,
        Some(
            Reason::Staging
            | Reason::AwaitingLaunches { .. }
            | Reason::BehindOthers { .. }
            | Reason::Forming { .. }
            | Reason::Preempted { .. }
            | Reason::StoreUnavailable { .. }
            | Reason::Succeeded
            | Reason::Failed { .. }
            | Reason::CancelledByUser,
        )
        | None => return status,
    };
    if launcher.kind == LauncherKind::None {
        return status;
    }
    let coming = launcher.launches.iter().filter(|launch| launch.is_coming());
    let launches: Vec<LaunchStatus> = coming.cloned().collect();
    let trouble = launcher.trouble.clone();
    if launches.is_empty() && trouble.is_none() {
        if needed > launcher.max {
            status.remedy = Some(format!(
                "at most {} workers are launched (`launcher.max`): raise it, or start others \
                 (`ptv2d worker`)",
                launcher.max
            ));
        }
        return status;
    }
    status.reason_text = Some(words(needed, &launches, trouble.as_ref()));
    status.remedy = Some(remedy(&launches, trouble.as_ref()));
    status.reason = Some(Reason::AwaitingLaunches { needed, launches, trouble });
    status
}

/// What is waited for, in words.
pub(super) fn words(
    needed: u32,
    launches: &[LaunchStatus],
    trouble: Option<&LaunchTrouble>,
) -> String {
    // What waits in Slurm's queue tells more than what is on its way already.
    let is_pending = |launch: &&LaunchStatus| matches!(launch.stage, LaunchStage::Pending { .. });
    let told = launches.iter().find(is_pending).or_else(|| launches.first());
    let waits = told.map(|told| match launches.len() {
        1 => format!("waiting for {told}"),
        number => format!("waiting for {told}, and for {} more", number - 1),
    });
    let failed = trouble.map(|LaunchTrouble { failures, error, .. }| {
        let times = if *failures == 1 { String::new() } else { format!(", {failures} times now") };
        format!("workers cannot be started{times}: {error}")
    });
    let text = [failed, waits].into_iter().flatten().collect::<Vec<_>>().join("; ");
    if text.is_empty() {
        format!("it needs {needed} workers, which are being started")
    } else {
        text
    }
}

/// What would change it, in words.
pub(super) fn remedy(launches: &[LaunchStatus], trouble: Option<&LaunchTrouble>) -> String {
    if let Some(LaunchTrouble { error: Explained { hint, .. }, .. }) = trouble {
        let hint = hint.as_ref().map(|hint| format!("{hint}; ")).unwrap_or_default();
        return format!("{hint}it is tried again by itself, less and less often");
    }
    match launches.iter().find_map(|launch| launch.slurm_job.as_ref()) {
        Some(job) => format!("nothing to do; `squeue --job={job} --start` may say when"),
        None => "nothing to do: it begins when they have connected".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(job: &str, stage: LaunchStage) -> LaunchStatus {
        LaunchStatus { id: "l".into(), slurm_job: Some(job.into()), stage, since_unix_ms: 0 }
    }

    fn pending(reason: &str) -> LaunchStage {
        LaunchStage::Pending { state: "PENDING".into(), reason: reason.into() }
    }

    #[test]
    fn a_slurm_job_is_told_with_its_state_and_reason() {
        let one = [launch("123", pending("Resources"))];
        assert_eq!(words(1, &one, None), "waiting for Slurm job 123: PENDING (Resources)");
        assert!(remedy(&one, None).contains("--job=123"));
        let two = [launch("7", LaunchStage::Starting), launch("8", pending("Priority"))];
        let expected = "waiting for Slurm job 8: PENDING (Priority), and for 1 more";
        assert_eq!(words(2, &two, None), expected);
    }

    #[test]
    fn a_failure_is_told_with_what_helps() {
        let error = Explained::new("sbatch refuses: no such partition").hint("mend `options`");
        let trouble = LaunchTrouble { failures: 3, error, again_unix_ms: 1 };
        let expected = "workers cannot be started, 3 times now: sbatch refuses: no such partition";
        assert_eq!(words(1, &[], Some(&trouble)), expected);
        assert!(remedy(&[], Some(&trouble)).starts_with("mend `options`; it is tried again"));
    }
}
