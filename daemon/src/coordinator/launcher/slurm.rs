//! Workers as jobs of Slurm, one each.
//!
//! A job is known by its name, `ptv2-COORDINATOR-LAUNCH`, so a coordinator that starts again finds those of its
//! earlier life. Before Slurm is asked for one, a file of the launch's name is left in the state folder: a
//! coordinator that is killed while it asks counts it until it is known whether Slurm has it, and so never asks
//! for one too many.

use super::command::{self, CommandError};
use super::scale::{At, Seen};
use super::squeue::{self, FORMAT};
use super::{CA_FINGERPRINT, Told, new_id, read};
use crate::config::{CoordinatorConfig, HubConfig, LauncherConfig};
use ptv2_common::error::Explained;
use ptv2_common::launch::LAUNCH_VARIABLE;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// The batch script of a worker's job, unless told otherwise.
const TEMPLATE: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/slurm/launched-worker.sbatch"));
/// A job that was asked for may be in Slurm's queue this much later.
const DOUBT: Duration = Duration::from_secs(45);

/// Workers as jobs of Slurm.
pub(super) struct Slurm {
    config: LauncherConfig,
    told: Told,
    hub: HubConfig,
    /// Beginning of the jobs' names.
    prefix: String,
    /// Holds a file for each launch.
    folder: PathBuf,
    launches: BTreeMap<String, Launch>,
    /// When Slurm was asked last.
    looked_at: Option<Duration>,
}

struct Launch {
    /// Slurm's number of its job, once it is known.
    job: Option<String>,
    /// Until when it may turn up although Slurm does not know it.
    doubted_until: Duration,
    at: At,
}

impl Slurm {
    /// Reads what an earlier life has left. Nothing is asked of Slurm yet.
    pub(super) fn open(
        config: &CoordinatorConfig,
        told: Told,
        now: Duration,
    ) -> Result<Self, Explained> {
        if let Some(template) = &config.launcher.template {
            read(template, "launcher.template")?;
        }
        let folder = config.state.join("launches");
        let coordinator = coordinator_id(&config.state.join("launcher-id"))?;
        let launches = left_behind(&folder, now).map_err(|error| {
            Explained::from_error(&error)
                .at(folder.display().to_string())
                .hint("see that the state folder is this user's own")
        })?;
        Ok(Self {
            config: config.launcher.clone(),
            told,
            hub: config.hub.clone(),
            prefix: format!("ptv2-{coordinator}-"),
            folder,
            launches,
            looked_at: None,
        })
    }

    /// All launches, each end once. Slurm is asked now and then, and at the first time.
    pub(super) async fn look(&mut self, now: Duration) -> Result<Vec<Seen>, Explained> {
        let is_due = match self.looked_at {
            None => true,
            Some(at) => !self.launches.is_empty() && now.saturating_sub(at) >= self.config.poll,
        };
        if is_due {
            let mut ask = Command::new("squeue");
            ask.args(["--noheader", "--me", "--states=all"]).arg(format!("--format={FORMAT}"));
            let found = squeue::jobs(&command::run(clean(ask), "").await?)?;
            self.looked_at = Some(now);
            self.take(now, &found);
        }
        let all = self.launches.iter().map(|(id, launch)| Seen {
            id: id.clone(),
            slurm_job: launch.job.clone(),
            at: launch.at.clone(),
        });
        let all: Vec<Seen> = all.collect();
        for seen in &all {
            if matches!(seen.at, At::Ended { .. }) {
                self.forget(&seen.id);
            }
        }
        Ok(all)
    }

    /// Takes in what Slurm says of our jobs.
    fn take(&mut self, now: Duration, found: &[squeue::Job]) {
        let own = |job: &squeue::Job| job.name.strip_prefix(&self.prefix).map(str::to_owned);
        let own: BTreeMap<String, &squeue::Job> =
            found.iter().filter_map(|job| Some((own(job)?, job))).collect();
        for (id, job) in &own {
            let at = job.at();
            let is_over = matches!(at, At::Ended { .. });
            if let Some(launch) = self.launches.get_mut(id) {
                launch.job = Some(job.number.clone());
                launch.at = at;
            } else if !is_over {
                tracing::info!(launch = id, slurm_job = job.number, "found again in Slurm");
                let launch = Launch { job: Some(job.number.clone()), doubted_until: now, at };
                self.launches.insert(id.clone(), launch);
            }
        }
        let mut unheard = Vec::new();
        for (id, launch) in self.launches.iter_mut().filter(|(id, _)| !own.contains_key(*id)) {
            match &launch.job {
                // One that was asked for just now may be missing from what was printed before.
                _ if now < launch.doubted_until => {}
                Some(job) => {
                    let how = format!("Slurm job {job} has ended; Slurm does not know it any more");
                    launch.at = At::Ended { well: false, how: Explained::new(how) };
                }
                None => unheard.push(id.clone()),
            }
        }
        for id in unheard {
            tracing::info!(launch = id, "Slurm never took it");
            self.forget(&id);
        }
    }

    /// Asks Slurm for one more.
    pub(super) async fn start(&mut self, now: Duration) -> Result<(), Explained> {
        let id = new_id()?;
        let script = match &self.config.template {
            Some(template) => read(template, "launcher.template")?,
            None => TEMPLATE.to_owned(),
        };
        let submit = self.submit(&id);
        let file = self.folder.join(&id);
        std::fs::write(&file, "").map_err(|error| {
            Explained::new(format!("a launch cannot be written down: {error}"))
                .at(file.display().to_string())
        })?;
        let at = At::Submitting;
        self.launches.insert(id.clone(), Launch { job: None, doubted_until: now + DOUBT, at });
        let printed = match command::run(submit, &script).await {
            Ok(printed) => printed,
            // It may be in the queue all the same.
            Err(CommandError::Unknown(error)) => return Err(error),
            Err(CommandError::Refused(error)) => {
                self.forget(&id);
                let hint = "see `launcher.options` and the batch script (`launcher.template`)";
                return Err(if error.hint.is_some() { error } else { error.hint(hint) });
            }
        };
        let job = squeue::submitted(&printed)?;
        tracing::info!(launch = id, slurm_job = job, "a worker is asked of Slurm");
        // Without it the launch is found by its name.
        drop(std::fs::write(&file, &job));
        if let Some(launch) = self.launches.get_mut(&id) {
            launch.job = Some(job);
            let (state, reason) = ("PENDING".to_owned(), "None".to_owned());
            launch.at = At::Pending { state, reason };
        }
        // It may run in a moment.
        self.looked_at = None;
        Ok(())
    }

    /// The command that asks for one. What it says of the worker goes by the environment: a command line can
    /// be read by everybody on the machine.
    fn submit(&self, id: &str) -> Command {
        let Told { program, coordinator, token_file, threads, ca_fingerprint } = &self.told;
        let HubConfig { endpoint, cache, token_file: hub_token, .. } = &self.hub;
        let threads = threads.to_string();
        let path = |path: &Path| path.as_os_str().to_owned();
        let said: [(&str, Option<OsString>); 9] = [
            ("PTV2D", Some(path(program))),
            ("PTV2_COORDINATOR", Some(coordinator.into())),
            ("PTV2_WORKER_TOKEN_FILE", Some(path(token_file))),
            ("PTV2_THREADS", Some((&threads).into())),
            (LAUNCH_VARIABLE, Some(id.into())),
            (CA_FINGERPRINT, ca_fingerprint.as_ref().map(Into::into)),
            ("HF_ENDPOINT", endpoint.as_ref().map(Into::into)),
            ("HF_HUB_CACHE", cache.as_deref().map(path)),
            ("HF_TOKEN_PATH", hub_token.as_deref().map(path)),
        ];
        let said: Vec<(&str, OsString)> =
            said.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let names = said.iter().map(|(name, _)| *name);
        let names: Vec<&str> = names.chain(self.config.export.iter().map(String::as_str)).collect();
        let mut submit = Command::new("sbatch");
        submit
            .arg("--parsable")
            .arg(format!("--job-name={}{id}", self.prefix))
            .arg(format!("--cpus-per-task={threads}"))
            .arg(format!("--export={}", names.join(",")))
            .args(&self.config.options);
        let mut submit = clean(submit);
        submit.envs(said);
        submit
    }

    /// Cancels a launch's job.
    pub(super) async fn end(&mut self, launch: &str) -> Result<(), Explained> {
        match self.launches.get(launch) {
            Some(Launch { job: Some(job), .. }) => cancel(std::slice::from_ref(job)).await,
            Some(Launch { job: None, .. }) => self.cancel_by_name(launch).await,
            None => Ok(()),
        }?;
        self.looked_at = None;
        Ok(())
    }

    async fn cancel_by_name(&self, launch: &str) -> Result<(), Explained> {
        let mut command = Command::new("scancel");
        command.args(["--quiet", "--me"]).arg(format!("--name={}{launch}", self.prefix));
        command::run(clean(command), "").await?;
        Ok(())
    }

    /// The coordinator stops: its jobs are cancelled, or go on.
    pub(super) async fn stop(&mut self) {
        if self.config.keep_on_stop || self.launches.is_empty() {
            return;
        }
        let jobs: Vec<String> =
            self.launches.values().filter_map(|launch| launch.job.clone()).collect();
        tracing::info!(jobs = jobs.join(","), "jobs of Slurm are cancelled");
        let mut outcome = if jobs.is_empty() { Ok(()) } else { cancel(&jobs).await };
        for (id, _) in self.launches.iter().filter(|(_, launch)| launch.job.is_none()) {
            outcome = outcome.and(self.cancel_by_name(id).await);
        }
        match outcome {
            Ok(()) => {
                for id in self.launches.keys().cloned().collect::<Vec<_>>() {
                    self.forget(&id);
                }
            }
            Err(error) => {
                tracing::error!(%error, "jobs of Slurm are left behind; the next start finds them");
            }
        }
    }

    fn forget(&mut self, launch: &str) {
        self.launches.remove(launch);
        let file = self.folder.join(launch);
        if let Err(error) = std::fs::remove_file(&file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(file = %file.display(), %error, "a launch cannot be forgotten");
        }
    }
}

async fn cancel(jobs: &[String]) -> Result<(), Explained> {
    let mut command = Command::new("scancel");
    command.arg("--quiet").args(jobs);
    command::run(clean(command), "").await?;
    Ok(())
}

/// Takes what the coordinator's own job and this user's settings would change out of a command's environment.
fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_slurms = ["SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if is_slurms && text != "SLURM_CONF" {
            command.env_remove(&name);
        }
    }
    command.env("LC_ALL", "C");
    command
}

/// What jobs of this coordinator are named after: made once, and kept in its state folder.
fn coordinator_id(path: &Path) -> Result<String, Explained> {
    let at =
        |error: &dyn std::error::Error| Explained::from_error(error).at(path.display().to_string());
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let id = text.trim();
            if id.len() == 11
                && id.starts_with('c')
                && id[1..].chars().all(|c| c.is_ascii_hexdigit())
            {
                return Ok(id.to_owned());
            }
            return Err(Explained::new("this is no name that jobs could be told by")
                .at(path.display().to_string())
                .expected("`c` and ten hexadecimal digits")
                .hint("cancel jobs named ptv2-… by hand, then remove the file"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(&error)),
    }
    let mut random = [0; 5];
    getrandom::fill(&mut random).map_err(|error| at(&error))?;
    let id = format!("c{}", hex::encode(random));
    std::fs::write(path, format!("{id}\n")).map_err(|error| at(&error))?;
    Ok(id)
}

/// The launches of an earlier life. Of those that Slurm had not taken yet it is not known whether it has.
fn left_behind(folder: &Path, now: Duration) -> std::io::Result<BTreeMap<String, Launch>> {
    std::fs::create_dir_all(folder)?;
    let mut launches = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let job = std::fs::read_to_string(entry.path())?;
        let job = Some(job).filter(|job| !job.is_empty());
        let doubted_until = if job.is_some() { now } else { now + DOUBT };
        let id = entry.file_name().to_string_lossy().into_owned();
        launches.insert(id, Launch { job, doubted_until, at: At::Submitting });
    }
    Ok(launches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(state: &Path) -> Slurm {
        let config = CoordinatorConfig { state: state.to_owned(), ..CoordinatorConfig::default() };
        let told = Told {
            program: "/opt/ptv2d".into(),
            coordinator: "http://10.0.0.1:7341".into(),
            token_file: "/shared/worker-token".into(),
            threads: 4,
            ca_fingerprint: None,
        };
        Slurm::open(&config, told, Duration::ZERO).unwrap()
    }

    fn job(slurm: &Slurm, number: &str, launch: &str, state: &str) -> squeue::Job {
        squeue::Job {
            number: number.into(),
            state: state.into(),
            reason: "None".into(),
            name: format!("{}{launch}", slurm.prefix),
        }
    }

    fn pending() -> At {
        At::Pending { state: "PENDING".into(), reason: "None".into() }
    }

    #[test]
    fn an_earlier_life_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path());
        let prefix = first.prefix.clone();
        drop(first);
        let left = folder.path().join("launches");
        // Killed while it asked; asked, and ended since; asked, and known.
        for (id, job) in [("asked", ""), ("ended", "7"), ("known", "8")] {
            std::fs::write(left.join(id), job).unwrap();
        }
        let mut slurm = open(folder.path());
        assert_eq!(slurm.prefix, prefix, "jobs are found again by it");
        // One that is not in the folder is found by its name; another coordinator's is not ours.
        let other =
            squeue::Job { name: "ptv2-c0000000000-x".into(), ..job(&slurm, "10", "x", "RUNNING") };
        let found =
            [job(&slurm, "8", "known", "PENDING"), job(&slurm, "9", "lost", "RUNNING"), other];
        slurm.take(DOUBT / 2, &found);
        let at = |slurm: &Slurm, id: &str| slurm.launches.get(id).map(|launch| launch.at.clone());
        assert_eq!(at(&slurm, "asked"), Some(At::Submitting), "it counts while it is in doubt");
        assert!(matches!(at(&slurm, "ended"), Some(At::Ended { .. })));
        assert_eq!(at(&slurm, "known"), Some(pending()));
        assert_eq!(at(&slurm, "lost"), Some(At::Running));
        assert_eq!(slurm.launches.len(), 4);
        slurm.take(DOUBT, &found);
        assert_eq!(at(&slurm, "asked"), None);
        assert!(!left.join("asked").exists(), "nothing is left behind");
        // It turns up as one that was in doubt.
        std::fs::write(left.join("late"), "").unwrap();
        let mut slurm = open(folder.path());
        slurm.take(Duration::ZERO, &[job(&slurm, "11", "late", "PENDING")]);
        assert_eq!(slurm.launches["late"].job.as_deref(), Some("11"));
    }

    #[test]
    fn a_token_is_in_no_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let slurm = open(folder.path());
        let submit = slurm.submit("l1");
        let args: Vec<String> =
            submit.as_std().get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert_eq!(args[0], "--parsable");
        assert_eq!(args[1], format!("--job-name={}l1", slurm.prefix));
        assert_eq!(args[2], "--cpus-per-task=4");
        let export = args[3].strip_prefix("--export=").unwrap();
        let names: Vec<&str> = export.split(',').collect();
        assert!(names.contains(&"PTV2_WORKER_TOKEN_FILE") && names.contains(&"PATH"), "{export}");
        assert!(!args.iter().any(|arg| arg.contains("worker-token")), "{args:?}");
    }

    #[test]
    fn a_spoilt_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("launcher-id");
        std::fs::write(&path, "c0ffee; rm -rf\n").unwrap();
        assert!(coordinator_id(&path).unwrap_err().hint.unwrap().contains("remove the file"));
    }
}
