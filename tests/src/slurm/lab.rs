//! The Slurm that the tests run in, jobs in it, and the table of what happened.

use crate::chaos::clock::now;
use crate::e2e::harness::{Cluster, binary, env, hash, minilm, poll, root, superglue, text};
use crate::e2e::real_data;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Who is gone within this time went by itself: the lab's `KillWait` is longer. How long it took stands in the table.
pub(crate) const OVER: Duration = Duration::from_secs(20);

/// Steps of the real job: enough to be met on the way.
pub(crate) const STEPS: u64 = 30;

/// The lab's configuration, by which its processes are told from others'.
fn conf() -> String {
    env("SLURM_CONF").expect("run it by `make test-slurm`")
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What stands in a process's file below `/proc`; nothing when it has ended.
fn proc(pid: u32, file: &str) -> String {
    text(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default())
}

fn has_variable(pid: u32, variable: &str) -> bool {
    proc(pid, "environ").split('\0').any(|one| one == variable)
}

/// A process's command line.
fn line(pid: u32) -> String {
    proc(pid, "cmdline").trim_end_matches('\0').replace('\0', " ")
}

/// A process's name.
pub(crate) fn name(pid: u32) -> String {
    proc(pid, "comm").trim().to_owned()
}

/// A process's parent.
pub(crate) fn parent(pid: u32) -> u32 {
    let stat = proc(pid, "stat");
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
    fields.and_then(|fields| fields.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
}

/// Slurm's own processes of this lab with such a command line.
pub(crate) fn daemons(is_it: impl Fn(&str) -> bool) -> Vec<u32> {
    let folder = Path::new(&conf()).parent().unwrap().display().to_string();
    let own = format!("SLURM_CONF={}", conf());
    let of_lab = |pid: u32| line(pid).contains(&folder) || has_variable(pid, &own);
    let slurms = pids().filter(|pid| name(*pid).starts_with("slurm"));
    slurms.filter(|pid| of_lab(*pid) && is_it(&line(*pid))).collect()
}

/// Adds a line to the table of events.
pub(crate) fn note(event: &str, happened: &str, took: Duration) {
    let line = format!("| {event} | {happened} | {:.1} s |", took.as_secs_f64());
    println!("{line}");
    let path = root().join("target/slurm.txt");
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// A `PATH` whose programs are those of this build.
pub(crate) fn path() -> String {
    let programs = binary("ptv2d").parent().unwrap().display().to_string();
    format!("{programs}:{}", env("PATH").unwrap())
}

/// A command whose programs are those of this build.
pub(crate) fn command(program: &str) -> Command {
    conf();
    let mut command = Command::new(program);
    command.env("PATH", path());
    command
}

/// Runs a command of Slurm, which must succeed; what it prints.
pub(crate) fn slurm(program: &str, args: &[&str]) -> String {
    let run = command(program).args(args).output().unwrap();
    assert!(run.status.success(), "{program} {args:?}: {}", text(&run.stderr));
    text(&run.stdout).trim().to_owned()
}

/// Starts a requeued job. Slurm kills one that starts in the very second in which its former start was revoked.
fn start_soon(id: &str) {
    slurm("scontrol", &["update", &format!("jobid={id}"), "StartTime=now+2"]);
}

/// A template.
pub(crate) fn template(name: &str) -> PathBuf {
    root().join("configs/slurm").join(name)
}

/// A real CB job of [`STEPS`] steps, that keeps a checkpoint every few.
pub(crate) fn cb(data: &Path) -> String {
    let training =
        format!("max_steps = {STEPS}, batch_size = 16, learning_rate = 3e-2, slices = 4");
    let job = real_data::job("cb", data, &training);
    job.replace("workers = \"2\"", "workers = \"1..2\"") + "checkpoint.every = 3\n"
}

/// The hash of that job when nothing disturbs it, by `ptv2d local`.
pub(crate) fn calm(data: &Path) -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| hash(&Cluster::start(2, 1).run(&cb(data), &[])))
}

/// A folder that all nodes see, and the data.
pub(crate) struct Lab {
    pub(crate) folder: TempDir,
    pub(crate) data: PathBuf,
}

impl Lab {
    /// A new folder with the real job in `cb.toml`; nothing where there is no data.
    pub(crate) fn new() -> Option<Self> {
        let data = superglue()?;
        let lab = Self { folder: tempfile::tempdir().unwrap(), data };
        lab.write("cb.toml", &cb(&lab.data));
        Some(lab)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// `sbatch` with these options, settings and arguments.
    pub(crate) fn sbatch(
        &self,
        options: &[&str],
        settings: &[(&str, &str)],
        script: &Path,
        args: &[&str],
    ) -> Batch<'_> {
        let roots = [root(), &self.data, minilm()].map(|path| path.display().to_string());
        let run = command("sbatch")
            .args(["--parsable"])
            .args(options)
            .arg(script)
            .args(args)
            .env("PTV2_DATA", roots.join(":"))
            .envs(settings.iter().copied())
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", text(&run.stderr));
        Batch { lab: self, id: text(&run.stdout).trim().to_owned() }
    }

    /// The real job by `ptv2.sbatch` on both nodes.
    pub(crate) fn submit(&self, options: &[&str], settings: &[(&str, &str)]) -> Batch<'_> {
        let both = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"];
        let options = [both.as_slice(), options].concat();
        self.sbatch(&options, settings, &template("ptv2.sbatch"), &["cb.toml"])
    }
}

/// A batch job, which ends with the test.
pub(crate) struct Batch<'a> {
    lab: &'a Lab,
    pub(crate) id: String,
}

impl Batch<'_> {
    /// One task of an array.
    pub(crate) fn task(&self, number: u32) -> Self {
        Self { lab: self.lab, id: format!("{}_{number}", self.id) }
    }

    /// A field of what Slurm knows of it.
    pub(crate) fn field(&self, name: &str) -> String {
        let shown = slurm("scontrol", &["--oneliner", "show", "job", &self.id]);
        let start = format!("{name}=");
        let found = shown.split_whitespace().find_map(|word| word.strip_prefix(&start));
        found.unwrap_or_else(|| panic!("{name}: {shown}")).to_owned()
    }

    /// Waits until Slurm says that it is in this state.
    pub(crate) fn is(&self, state: &str) {
        poll(&format!("job {} to be {state}\n{}", self.id, self.log()), || {
            (self.field("JobState") == state).then_some(())
        });
    }

    /// Everything that was printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.lab.path(&format!("slurm-{}.out", self.id)))
            .unwrap_or_default()
    }

    /// Waits for so many lines with these words.
    pub(crate) fn says(&self, words: &str, times: usize) {
        poll(&format!("`{words}` in job {}'s log", self.id), || {
            let log = self.log();
            assert!(!log.contains("panicked"), "{log}");
            (log.matches(words).count() >= times).then_some(())
        });
    }

    /// The processes that belong to it, by what their environment says.
    pub(crate) fn processes(&self) -> BTreeSet<u32> {
        let (own, lab) = (format!("SLURM_JOB_ID={}", self.id), format!("SLURM_CONF={}", conf()));
        pids().filter(|pid| has_variable(*pid, &own) && has_variable(*pid, &lab)).collect()
    }

    /// Those of them that have a variable, as `NAME=value`.
    pub(crate) fn with_variable(&self, variable: &str) -> Vec<u32> {
        self.processes().into_iter().filter(|pid| has_variable(*pid, variable)).collect()
    }

    /// Those of them that run this program.
    pub(crate) fn running(&self, words: &str) -> Vec<u32> {
        self.processes().into_iter().filter(|pid| line(*pid).contains(words)).collect()
    }

    /// Those of them that are this program itself, and no `srun` that starts it or has started it.
    pub(crate) fn running_itself(&self, words: &str) -> Vec<u32> {
        let program = words.split(' ').next();
        self.running(words).into_iter().filter(|pid| program == Some(&name(*pid))).collect()
    }

    /// Waits until nothing of it runs any more; how long that took since then.
    pub(crate) fn is_gone(&self, since: Instant) -> Duration {
        poll(&format!("the end of job {}'s processes\n{}", self.id, self.log()), || {
            self.processes().is_empty().then_some(())
        });
        since.elapsed()
    }

    /// Starts it soon where a requeue has put it off.
    pub(crate) fn starts_again(&self) {
        self.is("PENDING");
        start_soon(&self.id);
        self.is("RUNNING");
    }

    /// The state folder of its coordinator.
    pub(crate) fn state(&self) -> PathBuf {
        self.lab.path("ptv2-state").join(&self.id)
    }

    /// `ptv2ctl` for its coordinator.
    pub(crate) fn ctl(&self, args: &[&str]) -> Output {
        let url = std::fs::read_to_string(self.state().join("address")).unwrap_or_default();
        command("ptv2ctl")
            .env("PTV2_COORDINATOR", url.trim())
            .env("PTV2_TOKEN_FILE", self.state().join("token"))
            .args(args)
            .output()
            .unwrap()
    }

    /// The same, read as JSON; nothing while nobody answers.
    pub(crate) fn json(&self, args: &[&str]) -> Option<Value> {
        let run = self.ctl(&[&["--output", "json"], args].concat());
        serde_json::from_slice(&run.stdout).ok()
    }

    /// Its one job's status, once there is one.
    pub(crate) fn status(&self) -> Option<Value> {
        self.json(&["status"])?.as_array()?.first().cloned()
    }

    /// Waits until its one job has applied some steps.
    pub(crate) fn reaches(&self, step: u64) {
        poll(&format!("step {step} of job {}\n{}", self.id, self.log()), || {
            (self.status()?["step"].as_u64()? >= step).then_some(())
        });
    }

    /// Checks that it ended well, to the bits of an undisturbed run, with an adapter.
    pub(crate) fn succeeds(&self) {
        let ends = ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"];
        let state = poll(&format!("the end of job {}", self.id), || {
            let state = self.field("JobState");
            ends.contains(&state.as_str()).then_some(state)
        });
        assert_eq!(state, "COMPLETED", "{}", self.log());
        let said = format!("tuned state {}", calm(&self.lab.data));
        assert!(self.log().contains(&said), "{said}: {}", self.log());
        let adapters = std::fs::read_dir(self.lab.path("adapters")).unwrap().flatten();
        let weights = adapters.map(|entry| entry.path().join("adapter_model.safetensors"));
        assert!(weights.map(|path| path.exists()).eq([true]), "{}", self.log());
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // It may be over; then this is refused.
        drop(command("scancel").arg(&self.id).output());
        let began = now();
        while !self.processes().is_empty() && began.elapsed() < Duration::from_secs(10) {
            crate::chaos::clock::pause(Duration::from_millis(20));
        }
    }
}
