//! The real coordinator's process: started, asked, looked at from outside, and killed.

use super::worker::Dial;
use crate::e2e::harness::usage::{Usage, usage};
use crate::e2e::harness::{coordinator_file, tiny};
use ptv2_common::api::{JobStatus, WorkerStatus};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// A wait that takes longer than this is a failure.
const DEADLINE: Duration = Duration::from_secs(300);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A coordinator in a folder of its own.
pub(super) struct Coordinator {
    program: PathBuf,
    folder: TempDir,
    process: Option<Child>,
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Coordinator {
    /// Starts one on any free port. All of its limits are the defaults.
    pub(super) async fn start(program: &Path, data: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        ptv2_common::tls::install_provider();
        let mut coordinator = Self {
            program: program.to_owned(),
            folder,
            process: None,
            client: reqwest::Client::new(),
            url: String::new(),
            token: String::new(),
        };
        coordinator.configure("127.0.0.1:0", data);
        coordinator.spawn();
        let address = coordinator.folder.path().join("state/address");
        let listens =
            async || std::fs::read_to_string(&address).ok().filter(|url| url.ends_with('\n'));
        coordinator.url = until("the coordinator", listens).await.trim().to_owned();
        coordinator.token = coordinator.secret("token");
        let listen = coordinator.url.trim_start_matches("http://").to_owned();
        coordinator.configure(&listen, data);
        coordinator
    }

    fn configure(&self, listen: &str, data: &Path) {
        let folder = self.folder.path();
        let places = (&*folder.join("state"), &*folder.join("store"));
        let config = coordinator_file(listen, places, data, "");
        std::fs::write(folder.join("coordinator.toml"), config).unwrap();
    }

    /// Starts the process, again where it was killed.
    pub(super) fn spawn(&mut self) {
        let log = self.folder.path().join("coordinator.log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(&self.program);
        command.args(["--log-format", "json", "coordinator", "--config"]);
        command.arg(self.folder.path().join("coordinator.toml")).stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// How workers reach it.
    pub(super) fn dial(&self) -> Dial {
        let coordinator: SocketAddr = self.url.trim_start_matches("http://").parse().unwrap();
        Dial { coordinator, token: self.secret("worker-token") }
    }

    fn secret(&self, name: &str) -> String {
        let path = self.folder.path().join("state").join(name);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// What its process has used.
    pub(super) fn usage(&self) -> Usage {
        self.process.as_ref().and_then(|process| usage(process.id())).unwrap_or_default()
    }

    /// Submits a job; its id.
    pub(super) async fn submit(&self, spec: &Value) -> String {
        let body = serde_json::json!({ "spec": spec });
        let request = self.client.post(format!("{}/v1/jobs", self.url)).bearer_auth(&self.token);
        let answer = request.json(&body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str::<JobStatus>(&text).unwrap().id
    }

    /// A job's status; nothing while nobody answers.
    pub(super) async fn job(&self, id: &str) -> Option<JobStatus> {
        self.get(&format!("jobs/{id}")).await
    }

    /// All jobs.
    pub(super) async fn jobs(&self) -> Option<Vec<JobStatus>> {
        self.get("jobs").await
    }

    /// All workers.
    pub(super) async fn workers(&self) -> Option<Vec<WorkerStatus>> {
        self.get("workers").await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Option<T> {
        let request = self.client.get(format!("{}/v1/{path}", self.url)).bearer_auth(&self.token);
        let answer = request.send().await.ok()?.error_for_status().ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    /// Bytes of the journal's files.
    pub(super) fn journal_bytes(&self) -> u64 {
        let files = std::fs::read_dir(self.folder.path().join("state")).unwrap().flatten();
        let journal = files.filter(|file| file.file_name().to_string_lossy().contains("journal"));
        journal.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            println!("what it logged and wrote down: {}", self.folder.path().display());
        }
    }
}

/// A job on the tiny backbone. Nobody computes it: only its header is read, and its rows are staged.
pub(super) fn job(data: &Path, task: &str, rows: usize, batch: usize, workers: &str) -> Value {
    serde_json::json!({
        "task": task,
        "backbone": { "path": tiny() },
        "data": {
            "root": data, "max_seq_length": 48, "max_train_rows": rows, "max_val_rows": 32,
        },
        "method": { "pre_seq_len": 5 },
        "training": {
            "max_steps": 10_000_000, "batch_size": batch, "slices": batch, "learning_rate": 1e-2,
        },
        "resources": { "workers": workers },
    })
}

/// Looks again and again, until something is there.
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "waited too long for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Lets this process, and the coordinator that it starts, open as many files as the system allows.
#[expect(unsafe_code, reason = "limits of a process have no safe form in the standard library")]
pub(super) fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one struct, which lives until it returns.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(read, 0);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: setrlimit reads one struct, which lives until it returns.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0);
}
