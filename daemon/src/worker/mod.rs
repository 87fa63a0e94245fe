//! A worker: an async side that talks ([`session`]) and a device thread that computes ([`engine`]).
//!
//! The device thread never waits for the coordinator inside a step: orders reach it through
//! [`orders`], and what it has to say goes through a bounded [`outbox`]. What follows from an order, a
//! peer's standing or a vote is decided in [`crate::protocol`].

mod agreement;
mod backbones;
mod data;
mod engine;
mod evaluate;
mod fingerprint;
mod generation;
mod health;
mod held;
mod inputs;
mod join;
mod keeper;
mod lost;
mod orders;
mod outbox;
mod pulse;
mod reach;
mod retry;
mod score;
mod session;
mod told;
mod transport;

use crate::clock;
use crate::collective::tcp::Listener;
use crate::config::WorkerConfig;
use crate::device::Gpu;
use orders::Orders;
use outbox::Outbox;
use ptv2_common::error::Explained;
use ptv2_common::ids::WorkerId;
use ptv2_common::secret::Secret;
use ptv2_common::session::{Hello, PROTOCOL};
use ptv2_common::storage::StoreAddress;
use pulse::Pulse;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What libraries read from the environment before `main`, and why it is set.
const ENVIRONMENT: [(&str, &str); 2] = [
    // A compute thread computes alone; see the module on the pool.
    ("OMP_NUM_THREADS", "1"),
    // oneDNN compiles a kernel for each new shape. A job has more shapes than the default of 1024.
    ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384"),
];

/// The same for a worker that may compute on a GPU.
const GPU_ENVIRONMENT: [(&str, &str); 1] = [
    // cuBLAS cuts long sums alike each time only within memory of a fixed size.
    ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
];

/// Readies the process for computing: its environment, and an end with a message when any thread
/// panics, since a missing compute thread would be waited for without end. `may_be_gpu`: whether it may come to
/// compute on one.
///
/// # Errors
/// When the program cannot start itself again.
#[expect(clippy::disallowed_methods, reason = "the libraries' own settings, not ours")]
pub fn prepare_process(may_be_gpu: bool) -> Result<(), Explained> {
    use std::os::unix::process::CommandExt;
    let of_gpu: &[_] = if may_be_gpu { &GPU_ENVIRONMENT } else { &[] };
    let environment = [&ENVIRONMENT, of_gpu].concat();
    let set = |(name, value): &(&str, &str)| std::env::var(name).is_ok_and(|found| found == *value);
    if !environment.iter().all(set) {
        // Too late to set in this process: the libraries have read it.
        let program = std::env::current_exe().map_err(|error| Explained::from_error(&error))?;
        let error = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .envs(environment)
            .exec();
        return Err(Explained::new(format!("the worker cannot start itself again: {error}")));
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        hook(panic);
        std::process::abort();
    }));
    tch::set_num_threads(1);
    Ok(())
}

/// Ends the process without the destructors of torch's libraries: they would take the memory away from under a device
/// thread that gave up its step and is still in the midst of an operator, and the worker would end by a segmentation
/// fault.
#[expect(unsafe_code, reason = "Rust's own exit runs the destructors of all libraries")]
pub fn leave(code: i32) -> ! {
    // SAFETY: it ends the process, and runs nothing of it before.
    unsafe { libc::_exit(code) }
}

/// A device thread that is to end may take this long, once the session is over.
const ENDING: Duration = Duration::from_millis(100);

/// What both sides of a worker share.
struct Shared {
    config: WorkerConfig,
    hello: Hello,
    /// Proves to the coordinator, at each connection, that this is still the process that joined.
    session: Secret,
    orders: Orders,
    outbox: Outbox,
    pulse: Pulse,
    listener: Listener,
    /// The artifact store, as the coordinator says it.
    store: OnceLock<StoreAddress>,
    /// Whoever is silent for this long is lost, in milliseconds, as the coordinator says it.
    timeout_ms: AtomicU64,
    /// Cancelled when the device thread has ended.
    over: CancellationToken,
    /// Cancelled when the worker is to end.
    ends: CancellationToken,
    /// Why this process can compute no more.
    lost: OnceLock<Explained>,
}

impl Shared {
    fn heard_within(&self, timeout: Duration) {
        self.timeout_ms.store(clock::millis(timeout), Ordering::Relaxed);
    }

    /// Peers notice a silent one before the coordinator does, which then hears of it from them.
    fn silence(&self) -> Duration {
        #[cfg(feature = "faults")]
        if crate::faults::reduction_alone() {
            return Duration::from_secs(3600);
        }
        match self.timeout_ms.load(Ordering::Relaxed) {
            0 => self.config.waits.silence,
            timeout => Duration::from_millis(timeout) * 2 / 3,
        }
    }
}

/// Runs a worker until it is drained or asked to stop.
///
/// # Errors
/// When it is refused, was without a coordinator for too long, or its device is lost.
pub async fn run(config: WorkerConfig, shutdown: CancellationToken) -> Result<(), Explained> {
    let Some(listener) = listen(&config, &shutdown).await? else { return Ok(()) };
    let mut random = [0; 5];
    getrandom::fill(&mut random).map_err(|error| Explained::from_error(&error))?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| Explained::from_error(&error))?;
    let hello = Hello {
        protocol: PROTOCOL,
        worker: WorkerId::from_random(random),
        host: fingerprint::host(),
        version: ptv2_common::VERSION.into(),
        fingerprint: fingerprint::of(config.gpu.as_ref()),
        device: config.compute.to_string(),
        slurm: config.slurm.clone(),
        visible_device: config.device.gpu.clone(),
        threads: config.threads,
        reduce_address: config.reduce_advertise.unwrap_or_else(|| listener.address()),
        launch: config.launch.clone(),
        attached: None,
    };
    introduce(&hello, &config);
    let pulse = Pulse::new(config.pulse_file.as_deref())?;
    if config.exit_with_parent {
        end_with_parent(shutdown.clone())?;
    }
    let shared = Arc::new(Shared {
        config,
        hello,
        session: Secret::new(hex::encode(secret)),
        orders: Orders::default(),
        outbox: Outbox::default(),
        pulse,
        listener,
        store: OnceLock::new(),
        timeout_ms: AtomicU64::new(0),
        over: CancellationToken::new(),
        ends: shutdown.clone(),
        lost: OnceLock::new(),
    });
    let device = engine::start(Arc::clone(&shared), tokio::runtime::Handle::current())?;
    let result = session::run(&shared, shutdown).await;
    shared.orders.end();
    // It has ended, but for a worker that was refused or gave up its step, which ends with the process.
    drop(tokio::time::timeout(ENDING, tokio::task::spawn_blocking(move || device.join())).await);
    shared.lost.get().cloned().map_or(result, Err)
}

/// Listens for peers: where it was told to, else by the interface that leads to the coordinator. Nothing
/// when the worker is to end meanwhile.
async fn listen(
    config: &WorkerConfig,
    shutdown: &CancellationToken,
) -> Result<Option<Listener>, Explained> {
    // One that can never be dialled is not looked for on the network.
    ptv2_common::tls::coordinator_url(&config.coordinator, config.insecure_http)?;
    let own = match config.reduce_listen {
        Some(address) => Some(address),
        None => reach::own_address(&config.coordinator, config.orphan_limit, shutdown).await?,
    };
    let Some(address) = own else { return Ok(None) };
    let listener = Listener::bind(address).map_err(|error| {
        Explained::new(format!("{address} cannot be listened on: {error}"))
            .at("--reduce-listen")
            .hint("give an address of this machine that is free, or port 0")
    })?;
    Ok(Some(listener))
}

/// Says where the worker is and what it computes on.
fn introduce(hello: &Hello, config: &WorkerConfig) {
    let Hello { host, threads, reduce_address, device, .. } = hello;
    let why = &config.device.why;
    if let Some(Gpu { name, uuid, bus, driver, libtorch, .. }) = &config.gpu {
        tracing::info!(
            host, threads, %reduce_address, uuid, bus, driver, libtorch,
            "computes on {device}: {name} ({why})"
        );
    } else {
        let gpu = hello.visible_device.as_ref().map(|gpu| gpu.name.as_str()).unwrap_or("none");
        tracing::info!(host, threads, %reduce_address, "computes on the CPU; GPU: {gpu} ({why})");
    }
    if let Some(slurm) = &hello.slurm {
        tracing::info!("{slurm}");
    }
}

/// Stops the worker when standard input ends: a parent's pipe closes however the parent dies.
fn end_with_parent(shutdown: CancellationToken) -> Result<(), Explained> {
    let wait = move || {
        // Nothing is ever written; both an end and an error mean that the parent is gone.
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        shutdown.cancel();
    };
    std::thread::Builder::new()
        .name("parent".into())
        .spawn(wait)
        .map(drop)
        .map_err(|error| Explained::from_error(&error))
}
