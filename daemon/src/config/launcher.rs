//! How the coordinator starts workers itself.

use ptv2_common::error::Explained;
use ptv2_common::launch::LauncherKind;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Workers that one coordinator starts at most.
const MOST: u32 = 10_000;
/// What the launcher says to sbatch itself: an option that says it, too, would win, and be lost track of.
const OWN_OPTIONS: [&str; 9] = [
    "--parsable",
    "--job-name",
    "-J",
    "--export",
    "--export-file",
    "--array",
    "-a",
    "--wrap",
    "--wait",
];

/// How the coordinator starts workers itself: so many as its queue can use, between two bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LauncherConfig {
    /// `none`; `local`, processes beside the coordinator; or `slurm`, one job a worker.
    pub kind: LauncherKind,
    /// So many are kept although there is no work. More begin at once with the next job, and hold their
    /// devices meanwhile.
    pub min: u32,
    /// More are never started.
    pub max: u32,
    /// A worker that is not needed and had no work for this long is let go. Longer saves loading the
    /// backbone anew for the next job, and holds a device for as long.
    #[serde(with = "super::duration")]
    pub idle: Duration,
    /// Compute threads of each. With Slurm as many processors are asked for.
    pub threads: u32,
    /// A worker that runs and is not connected for this long is ended, and counts as failed.
    #[serde(with = "super::duration")]
    pub start_timeout: Duration,
    /// So many are started at once, at most. After a failure it is one.
    pub at_once: u32,
    /// Pause before more are started. After failures in a row it grows up to five minutes.
    #[serde(with = "super::duration")]
    pub every: Duration,
    /// URL that workers are told of the coordinator. Off: the address that it listens on.
    pub coordinator: Option<String>,
    /// File with the workers' token, where they find it. Off: `worker-token` in the state folder.
    pub token_file: Option<PathBuf>,
    /// The program that workers run. Off: this one, by its path.
    pub program: Option<PathBuf>,
    /// The batch script of a worker's job. Off: the one that this program holds, which is
    /// `configs/slurm/launched-worker.sbatch`.
    pub template: Option<PathBuf>,
    /// Options of `sbatch` besides, each as one text: `--partition=gpu`.
    pub options: Vec<String>,
    /// Variables of the coordinator's environment that a job gets. Nothing else of it is passed on.
    pub export: Vec<String>,
    /// How often Slurm is asked how far the jobs are.
    #[serde(with = "super::duration")]
    pub poll: Duration,
    /// Whether jobs of Slurm go on when the coordinator is stopped. Off, they are cancelled: whoever stops
    /// it wants no allocation to be held for nobody. One that is killed, or crashes, cancels nothing.
    pub keep_on_stop: bool,
}

impl Default for LauncherConfig {
    fn default() -> Self {
        Self {
            kind: LauncherKind::None,
            min: 0,
            max: 8,
            idle: Duration::from_secs(300),
            threads: 1,
            start_timeout: Duration::from_secs(300),
            at_once: 8,
            every: Duration::from_secs(2),
            coordinator: None,
            token_file: None,
            program: None,
            template: None,
            options: Vec::new(),
            export: ["HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "USER"].map(str::to_owned).into(),
            poll: Duration::from_secs(5),
            keep_on_stop: false,
        }
    }
}

impl LauncherConfig {
    /// Refuses bounds that contradict each other, options that the launcher says itself, and an address that
    /// workers cannot be sent to: of a coordinator whose certificate `is_named` for others, its own is none.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self, listen: SocketAddr, is_named: bool) -> Result<(), Explained> {
        let refuse = |key: &str, value: &dyn std::fmt::Display, expected: &str| {
            let key = format!("launcher.{key}");
            Err(Explained::new(format!("`{key}` is {value}")).at(key).expected(expected))
        };
        if self.kind == LauncherKind::None {
            return Ok(());
        }
        if self.max == 0 || self.max > MOST {
            return refuse("max", &self.max, "1 to 10000");
        }
        if self.min > self.max {
            let expected = format!("at most `launcher.max`, which is {}", self.max);
            return refuse("min", &self.min, &expected);
        }
        if !(1..=1024).contains(&self.threads) {
            return refuse("threads", &self.threads, "1 to 1024");
        }
        if self.at_once == 0 {
            return refuse("at_once", &self.at_once, "1 or more");
        }
        for (key, value) in [("start_timeout", self.start_timeout), ("poll", self.poll)] {
            if value < Duration::from_millis(100) {
                return refuse(key, &humantime::format_duration(value), "100ms or more");
            }
        }
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if let Some(url) = self.coordinator.as_ref().filter(|url| !is_url(url)) {
            return refuse("coordinator", &format!("`{url}`"), "http://host:port or https://…");
        }
        if let Some(name) = self.export.iter().find(|name| !is_variable(name)) {
            return refuse("export", &format!("`{name}`"), "names of variables");
        }
        if self.coordinator.is_none() && is_named {
            return Err(Explained::new("workers cannot know what this certificate is for")
                .at("launcher.coordinator")
                .expected("the coordinator's URL, with a name of `tls.certificate`"));
        }
        if self.kind == LauncherKind::Slurm {
            self.check_slurm(listen)?;
        }
        Ok(())
    }

    fn check_slurm(&self, listen: SocketAddr) -> Result<(), Explained> {
        for option in &self.options {
            if !option.starts_with('-') || option.contains(['\n', '\0']) {
                return Err(Explained::new(format!("`{option}` is no option of sbatch"))
                    .at("launcher.options")
                    .expected("each option as one text, for example \"--partition=gpu\""));
            }
            if let Some(own) = own_option(option) {
                return Err(Explained::new(format!("`{own}` is said by the launcher itself"))
                    .at("launcher.options")
                    .expected("other options of sbatch")
                    .hint(
                        "jobs are told apart by their name; variables go into `launcher.export`",
                    ));
            }
        }
        if self.coordinator.is_none() && listen.ip().is_unspecified() {
            return Err(Explained::new(format!("workers cannot be sent to {listen}"))
                .at("launcher.coordinator")
                .expected("the URL by which the nodes of Slurm reach this coordinator")
                .hint("set `launcher.coordinator`, or `listen` to one address of this machine"));
        }
        Ok(())
    }
}

/// The launcher's own option that this one is, as sbatch reads it: a long one by its beginning, a short one with what
/// follows it at once.
fn own_option(option: &str) -> Option<&'static str> {
    let name = option.split('=').next().unwrap_or_default();
    OWN_OPTIONS.into_iter().find(|own| {
        let is_long = own.starts_with("--");
        if is_long { name.len() > 2 && own.starts_with(name) } else { option.starts_with(own) }
    })
}

fn is_variable(name: &str) -> bool {
    let is_part = |c: char| c == '_' || c.is_ascii_alphanumeric();
    !name.is_empty() && name.chars().all(is_part) && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut LauncherConfig)) -> Option<String> {
        let mut config = LauncherConfig { kind: LauncherKind::Slurm, ..LauncherConfig::default() };
        change(&mut config);
        config.check(([127, 0, 0, 1], 7341).into(), false).err().and_then(|error| error.place)
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_its_key() {
        assert_eq!(refused(|_| {}), None);
        assert_eq!(refused(|it| it.min = 9).as_deref(), Some("launcher.min"));
        assert_eq!(refused(|it| it.max = 0).as_deref(), Some("launcher.max"));
        assert_eq!(refused(|it| it.threads = 0).as_deref(), Some("launcher.threads"));
        assert_eq!(refused(|it| it.at_once = 0).as_deref(), Some("launcher.at_once"));
        assert_eq!(refused(|it| it.poll = Duration::ZERO).as_deref(), Some("launcher.poll"));
        let url = |it: &mut LauncherConfig| it.coordinator = Some("host:1".into());
        assert_eq!(refused(url).as_deref(), Some("launcher.coordinator"));
        for name in ["", "A,B", "1A", "A=b"] {
            let export = |it: &mut LauncherConfig| it.export = vec![name.into()];
            assert_eq!(refused(export).as_deref(), Some("launcher.export"), "{name}");
        }
    }

    #[test]
    fn options_of_sbatch_are_others_than_the_launchers_own() {
        let options = |option: &str| refused(|it| it.options = vec![option.into()]);
        assert_eq!(options("--partition=gpu"), None);
        assert_eq!(options("-pgpu"), None);
        assert_eq!(options("--export-nothing"), None, "sbatch refuses it by itself");
        assert_eq!(options("--acctg-freq=30"), None);
        for option in [
            "gpu",
            "--job-name=x",
            "--export=ALL",
            "-J",
            "-Jx",
            "-a1-3",
            "--arr=1-3",
            "--job",
            "--expo=ALL",
            "--time=1\n2",
        ] {
            assert_eq!(options(option).as_deref(), Some("launcher.options"), "{option}");
        }
    }

    #[test]
    fn nodes_are_not_sent_to_every_address() {
        let config = LauncherConfig { kind: LauncherKind::Slurm, ..LauncherConfig::default() };
        let listen = ([0, 0, 0, 0], 7341).into();
        let error = config.check(listen, false).unwrap_err();
        assert_eq!(error.place.as_deref(), Some("launcher.coordinator"));
        let url = Some("http://10.0.0.1:7341".to_owned());
        let listen_here = ([127, 0, 0, 1], 7341).into();
        let error = config.check(listen_here, true).unwrap_err();
        assert!(error.what.contains("certificate"), "{error}");
        let config = LauncherConfig { coordinator: url, ..config };
        assert!(config.check(listen, false).is_ok() && config.check(listen_here, true).is_ok());
    }
}
