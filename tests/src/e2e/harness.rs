//! Starts the real binaries in a folder of their own, on any free port, and stops them again.

mod look;
pub(crate) mod usage;

pub(crate) use look::pid;
use serde_json::Value;
use std::fmt::Debug;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A wait that takes longer than this is a failure. It is long, since it bounds whole jobs on machines that do other
/// things besides.
pub(crate) const DEADLINE: Duration = Duration::from_secs(600);

/// The repository; where the tests were carried to another machine, what of it was carried along.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let compiled = || Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    ROOT.get_or_init(|| env("PTV2_TEST_ROOT").map_or_else(compiled, PathBuf::from))
}

/// The tiny random BERT of the goldens: 2 layers of 32, 80 positions.
pub(crate) fn tiny() -> PathBuf {
    root().join("tests/goldens/bert-tiny/backbone")
}

/// A copy of it that a test may spoil.
pub(crate) fn copy_tiny(to: &Path) {
    copy_backbone("backbone", to);
}

/// The same of a golden backbone of this name.
pub(crate) fn copy_backbone(name: &str, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in tiny().with_file_name(name).read_dir().unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A real small backbone, fetched once.
pub(crate) fn minilm() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = Command::new("bash").arg(root().join("scripts/backbone.sh")).output().unwrap();
        let said = String::from_utf8_lossy(&script.stdout);
        assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
        let line = said.lines().last().unwrap();
        let folder = line.strip_prefix("backbone: ").unwrap().split(' ').next().unwrap();
        folder.into()
    })
}

/// The real SuperGLUE, or nothing, which the test then says. Where `PTV2_REQUIRE_SUPERGLUE` is set,
/// its absence is a failure.
pub(crate) fn superglue() -> Option<PathBuf> {
    if let Some(data) = env("PTV2_TEST_DATA") {
        return Some(data.into());
    }
    let folder = root().join("../shared/superglue");
    if let Ok(folder) = folder.canonicalize() {
        return Some(folder);
    }
    let required = env("PTV2_REQUIRE_SUPERGLUE").is_some();
    assert!(!required, "{} is missing, and PTV2_REQUIRE_SUPERGLUE is set", folder.display());
    println!("skipped: {} is missing", folder.display());
    None
}

#[expect(clippy::disallowed_methods, reason = "a test's configuration")]
pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The libraries of a PyTorch with CUDA, where this machine has one.
pub(crate) fn cuda_pytorch() -> Option<PathBuf> {
    let named = env("PTV2_LIBTORCH_CUDA").map(PathBuf::from);
    let venv = || {
        let lib = Path::new(&env("HOME")?).join(".cache/ptv2/venv/lib");
        let packages = |entry: std::fs::DirEntry| entry.path().join("site-packages/torch/lib");
        std::fs::read_dir(lib).ok()?.flatten().map(packages).find(|lib| lib.is_dir())
    };
    let made = env("LIBTORCH").map(|libtorch| Path::new(&libtorch).join("lib/cuda"));
    let mut all = named.into_iter().chain(made).chain(venv());
    let found = all.find(|lib| lib.join("libtorch_cuda.so").is_file());
    if found.is_none() {
        println!(
            "skipped: no PyTorch with CUDA (`make venv`, `make libtorch CUDA=1`, or PTV2_LIBTORCH_CUDA)"
        );
    }
    found
}

/// What workers of the tests compute on, unless a test says otherwise: the same on every machine.
pub(crate) fn device() -> String {
    env("PTV2_TEST_DEVICE").unwrap_or_else(|| "cpu".into())
}

/// Builds the binaries once and gives the path of one.
pub(crate) fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        if let Some(carried) = env("PTV2_TEST_BIN") {
            return carried.into();
        }
        cargo(&["build", "--workspace", "--bins", "--tests"]);
        // This test program lies in <target>/debug/deps.
        let program = std::env::current_exe().unwrap();
        program.parent().unwrap().parent().unwrap().to_owned()
    });
    folder.join(name)
}

/// Builds, once, the daemon that has faults on demand, unless a folder with programs was named; its name.
pub(crate) fn faulty() -> &'static str {
    static BUILT: OnceLock<()> = OnceLock::new();
    let name = "ptv2d-faulty";
    if env("PTV2_TEST_BIN").is_some() {
        return name;
    }
    let features = ["--features", "ptv2-daemon/faults"];
    BUILT.get_or_init(|| {
        cargo(&[&["build", "--workspace", "--bin", name], features.as_slice()].concat());
    });
    name
}

/// Runs cargo in the repository.
fn cargo(args: &[&str]) {
    let cargo = env("CARGO").unwrap_or_else(|| "cargo".into());
    let run = outside(&mut Command::new(cargo)).args(args).current_dir(root()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// Takes from a command what cargo tells its tests of their own crate: build scripts look at that, and half of
/// all crates would be built anew, by this call and by the next one of a person.
pub(crate) fn outside(command: &mut Command) -> &mut Command {
    let of_this_crate = |name: &str| {
        name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_") || name == "OUT_DIR"
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_this_crate) {
            command.env_remove(name);
        }
    }
    command
}

#[expect(clippy::disallowed_methods, reason = "polling with a deadline reads the clock and pauses")]
pub(crate) fn poll<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Holds a time, or a share of one, to a bound. Others who use the machine may hold it up, so it is measured three
/// times at most.
pub(crate) fn takes_less_than<T: PartialOrd + Debug>(bound: T, mut measure: impl FnMut() -> T) {
    for tried in 1..=3 {
        let took = measure();
        if took < bound {
            return;
        }
        assert!(tried < 3, "{took:?}, expected less than {bound:?}");
        println!("{took:?}: once more");
    }
}

/// Runs a command that ends by itself, within the deadline.
pub(crate) fn ends(command: &mut Command) -> Output {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process(piped.spawn().unwrap());
    let status = poll("the command's end", || process.0.try_wait().unwrap());
    let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    process.0.stdout.take().unwrap().read_to_end(&mut output.stdout).unwrap();
    process.0.stderr.take().unwrap().read_to_end(&mut output.stderr).unwrap();
    output
}

/// A process that is killed when the test is over.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a command, which writes what it prints into a file.
    pub(crate) fn printing(command: &mut Command, to: &Path) -> Self {
        let file = std::fs::File::create(to).unwrap();
        Self(command.stdout(file).stderr(Stdio::null()).spawn().unwrap())
    }

    /// The same of what it says to people.
    pub(crate) fn telling(command: &mut Command, to: &Path) -> Self {
        let file = std::fs::File::create(to).unwrap();
        Self(command.stdout(Stdio::null()).stderr(file).spawn().unwrap())
    }

    /// Its exit code, once it has ended; as a shell says it, 128 and the signal where one ended it.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = self.0.try_wait().unwrap()?;
        status.code().or_else(|| Some(128 + status.signal()?))
    }

    /// Whether it has ended, however.
    pub(crate) fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A coordinator with its workers, in a folder that goes with it.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) daemon: Option<Process>,
    pub(crate) workers: Vec<Process>,
    program: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Cluster {
    /// Starts `ptv2d local` with workers that it looks after.
    pub(crate) fn start(workers: u32, threads: u32) -> Self {
        let mut cluster = Self::new("ptv2d");
        cluster.serve(workers, threads, "127.0.0.1:0");
        cluster.has_workers(workers as usize);
        cluster
    }

    /// A coordinator and workers of a build of the daemon that has faults on demand: one worker for each
    /// of these wishes, in this order.
    pub(crate) fn faulty(wishes: &[&str]) -> Self {
        let mut cluster = Self::new(faulty());
        cluster.serve(0, 1, "127.0.0.1:0");
        for faults in wishes {
            cluster.set("PTV2_FAULTS", faults.into());
            cluster.worker(1, &[]);
        }
        cluster.set("PTV2_FAULTS", "".into());
        cluster
    }

    /// A folder for a cluster, of which nothing runs yet.
    pub(crate) fn new(program: &str) -> Self {
        ptv2_common::tls::install_provider();
        Self {
            folder: tempfile::tempdir().unwrap(),
            daemon: None,
            workers: Vec::new(),
            program: binary(program),
            // Long enough that a busy machine makes nobody seem lost. Those that die are noticed at once all the same.
            environment: vec![("PTV2_LIMITS__HEARTBEAT_TIMEOUT", "15s".into())],
        }
    }

    /// Sets a variable for every daemon that is started from now on.
    pub(crate) fn set(&mut self, name: &'static str, value: PathBuf) {
        self.environment.push((name, value));
    }

    /// Starts the coordinator's process, again where it was killed.
    pub(crate) fn serve(&mut self, workers: u32, threads: u32, listen: &str) {
        self.serve_with(workers, threads, listen, &[]);
    }

    /// The same with more options.
    pub(crate) fn serve_with(&mut self, workers: u32, threads: u32, listen: &str, more: &[&str]) {
        self.forget_address();
        let child = self.local(workers, threads, listen).args(more).spawn().unwrap();
        self.daemon = Some(Process(child));
        self.listens();
    }

    /// The command that starts `ptv2d local`.
    pub(crate) fn local(&self, workers: u32, threads: u32, listen: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(["local", "--workers", &workers.to_string(), "--threads", &threads.to_string()])
            .args(["--listen", listen, "--device", &device()])
            .arg("--state")
            .arg(self.state())
            .arg("--allow")
            .arg(root())
            .arg("--allow")
            .arg(minilm())
            .current_dir(self.folder.path())
            .stderr(self.log("daemon.log"));
        if let Some(data) = superglue() {
            command.arg("--allow").arg(data);
        }
        drop(std::fs::remove_file(self.state().join("address")));
        command
    }

    /// One that was killed leaves its address behind, and the next does not listen there yet.
    fn forget_address(&self) {
        drop(std::fs::remove_file(self.state().join("address")));
    }

    fn listens(&self) {
        let place = self.state().join("address");
        poll("the coordinator", || {
            std::fs::read_to_string(&place).ok().filter(|url| url.ends_with('\n'))
        });
    }

    /// A coordinator alone, by its configuration file.
    pub(crate) fn by_file(data: &Path) -> Self {
        let mut cluster = Self::new("ptv2d");
        cluster.serve_by_file(data);
        cluster
    }

    /// Starts a coordinator alone, by a configuration file, with its store beside its state.
    pub(crate) fn serve_by_file(&mut self, data: &Path) {
        let limits = "growth_delay = \"100ms\"\n";
        let config = coordinator_file("127.0.0.1:0", (&self.state(), &self.store()), data, limits);
        self.serve_by(&config);
    }

    /// The same by this configuration.
    pub(crate) fn serve_by(&mut self, config: &str) {
        let file = self.file("coordinator.toml", config);
        self.forget_address();
        let child = Command::new(&self.program)
            .args(["--log-format", "json", "coordinator", "--config", &file])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stderr(self.log("daemon.log"))
            .spawn()
            .unwrap();
        self.daemon = Some(Process(child));
        self.listens();
    }

    /// Starts one worker beside the coordinator.
    pub(crate) fn worker(&mut self, threads: u32, more: &[&str]) {
        self.start_worker(threads, more);
        self.has_workers(self.workers.len());
    }

    /// The same without waiting for it: it may die at once.
    pub(crate) fn start_worker(&mut self, threads: u32, more: &[&str]) {
        let number = self.workers.len();
        let own = device();
        let device: &[&str] = if more.contains(&"--device") { &[] } else { &["--device", &own] };
        let child = Command::new(&self.program)
            .args(["worker", "--threads", &threads.to_string(), "--coordinator", &self.url()])
            .arg("--token-file")
            .arg(self.state().join("worker-token"))
            .args(device)
            .args(more)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stderr(self.log(&format!("worker-{number}.log")))
            .spawn()
            .unwrap();
        self.workers.push(Process(child));
    }

    /// A worker was asked to end: waits for that, and takes it from the list.
    pub(crate) fn worker_ends(&mut self, number: usize) -> i32 {
        let code = poll("the worker's end", || self.workers[number].ended());
        drop(self.workers.remove(number));
        code
    }

    /// Checks that a job's metrics have each step once, and none is missing.
    pub(crate) fn check_steps(&self, id: &str, steps: u64) {
        let metrics = self.json(&["metrics", id]);
        let rows = metrics.as_array().unwrap().iter().filter(|row| row.get("split").is_none());
        let found: Vec<u64> = rows.map(|row| row["step"].as_u64().unwrap()).collect();
        assert!(found.iter().copied().eq(1..=steps), "{found:?}");
    }

    fn log(&self, name: &str) -> Stdio {
        let path = self.folder.path().join(name);
        std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().into()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The store of a coordinator that was started by a file.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("elsewhere")
    }

    pub(crate) fn url(&self) -> String {
        std::fs::read_to_string(self.state().join("address")).unwrap().trim().to_owned()
    }

    /// The address alone, for a coordinator that is started again in this one's place.
    pub(crate) fn listen(&self) -> String {
        self.url().split_once("://").unwrap().1.to_owned()
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.state().join("token")).unwrap().trim().to_owned()
    }

    /// `ptv2ctl` set up for this coordinator.
    pub(crate) fn client(&self) -> Command {
        let mut command = Command::new(binary("ptv2ctl"));
        command
            .env("PTV2_COORDINATOR", self.url())
            .env("PTV2_TOKEN_FILE", self.state().join("token"))
            .current_dir(self.folder.path());
        command
    }

    /// Runs the client.
    pub(crate) fn ctl(&self, args: &[&str]) -> Output {
        self.client().args(args).output().unwrap()
    }

    /// Runs the client, which must succeed, and reads the JSON it prints.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let run = self.client().args(["--output", "json"]).args(args).output().unwrap();
        assert!(run.status.success(), "{args:?}: {}\n{}", text(&run.stderr), self.logs());
        serde_json::from_slice(&run.stdout).unwrap()
    }

    /// Everything that the daemons logged, for the message of a failure.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                all += &std::fs::read_to_string(entry.path()).unwrap_or_default();
            }
        }
        all
    }

    /// Writes a job file.
    pub(crate) fn file(&self, name: &str, job: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, job).unwrap();
        path.display().to_string()
    }

    /// Submits a job and gives its id.
    pub(crate) fn submit(&self, job: &str, more: &[&str]) -> String {
        let file = self.file("job.toml", job);
        let run = self.ctl(&[&["submit", &file], more].concat());
        assert!(run.status.success(), "{}\n{}", text(&run.stderr), self.logs());
        text(&run.stdout).trim().to_owned()
    }

    /// Waits for a job that must succeed; its status.
    pub(crate) fn done(&self, id: &str) -> Value {
        let run = self.ctl(&["wait", id, "--timeout", "590s"]);
        let status = self.json(&["status", id]);
        assert!(run.status.success(), "{status:#}\n{}\n{}", text(&run.stderr), self.logs());
        status
    }

    /// Submits a job that must succeed; its status.
    pub(crate) fn run(&self, job: &str, more: &[&str]) -> Value {
        let id = self.submit(job, more);
        self.done(&id)
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A CB job on the tiny backbone: 37 rows, a slice count that is no power of two, and a last batch
/// that is partial (one row in five slices).
pub(crate) fn tiny_cb(data: &Path, more: &str) -> String {
    format!(
        "task = \"superglue/cb\"\n\
         backbone.path = \"{}\"\n\
         data = {{ root = \"{}\", max_seq_length = 48, max_train_rows = 37, max_val_rows = 21 }}\n\
         method.pre_seq_len = 5\n\
         training = {{ epochs = 2, batch_size = 12, learning_rate = 1e-2, slices = 5 }}\n\
         {more}\n",
        tiny().display(),
        data.display()
    )
}

/// A coordinator's configuration: where it listens, its state and its store, the tests' data and backbones
/// as its roots, and these limits.
pub(crate) fn coordinator_file(
    listen: &str,
    (state, store): (&Path, &Path),
    data: &Path,
    limits: &str,
) -> String {
    format!(
        "listen = {listen:?}\nstate = {state:?}\nstore = \"file://{}\"\n\
         roots = [{data:?}, {:?}]\n[limits]\n{limits}",
        store.display(),
        root()
    )
}

pub(crate) fn hash(status: &Value) -> String {
    status["tuned_sha256"].as_str().unwrap().to_owned()
}
