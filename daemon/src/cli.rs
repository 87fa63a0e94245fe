//! `ptv2d`'s commands.

mod config;
mod devices;
mod fetch;
mod log;

use crate::collective::tcp::Waits;
use crate::config::WorkerConfig;
use crate::coordinator::serve::Coordinator;
use crate::device::{self, Settled, THREADS_MAX, Wish};
use crate::local;
use crate::protocol::transport::Transport;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ptv2_common::error::Explained;
use ptv2_common::slurm::{Placement, hostnames};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Coordinator and workers of ptv2: P-tuning v2 on many workers
#[derive(Debug, Parser)]
#[command(
    name = "ptv2d",
    version,
    after_help = "Exit codes: 0 stopped as asked; 1 failed; 2 wrong usage"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged, as tracing-subscriber's filters say it
    #[arg(long, global = true, env = "PTV2_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the coordinator: API, queue, membership, staging, journal
    Coordinator(config::ConfigArgs),
    /// Run one worker for one device
    Worker(WorkerArgs),
    /// Run coordinator and workers on this machine
    Local(LocalArgs),
    /// Show the coordinator's configuration: each key, its value, and where that came from
    CheckConfig(config::ConfigArgs),
    /// Show the GPUs that this machine can compute on, or what they lack
    Devices(devices::DevicesArgs),
    /// Fetch a backbone from a hub of models, as jobs with an hf:// path have it fetched
    Fetch(fetch::FetchArgs),
}

#[derive(Debug, Args)]
struct WorkerArgs {
    /// The coordinator's URL
    #[arg(long, env = "PTV2_COORDINATOR", value_name = "URL")]
    coordinator: String,
    /// File of authorities that may vouch for the coordinator [default: ca.pem beside the token's file, else the
    /// system's]
    #[arg(long, env = "PTV2_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Fingerprint of the authority that must vouch for it; goes before --ca-file
    #[arg(long, env = "PTV2_CA_FINGERPRINT", value_name = "sha256:HEX")]
    ca_fingerprint: Option<ptv2_common::tls::Fingerprint>,
    /// Send the token to another machine in the clear
    #[arg(long, env = "PTV2_INSECURE_HTTP")]
    insecure_http: bool,
    /// File with the workers' token; the coordinator keeps it in its state folder
    #[arg(
        long,
        env = "PTV2_WORKER_TOKEN_FILE",
        value_name = "FILE",
        default_value = ".ptv2/worker-token"
    )]
    token_file: PathBuf,
    /// What computes: auto (a GPU that can be had, else the processor), cpu, cuda or cuda:N. Of several
    /// visible GPUs a task of Slurm takes the one of its local rank
    #[arg(long, default_value_t = Wish::Auto)]
    device: Wish,
    #[command(flatten)]
    cuda: devices::CudaArgs,
    /// Compute threads; each computes whole slices alone [default: 1; in a task of Slurm, its processors]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(THREADS_MAX)))]
    threads: Option<u32>,
    /// Address that other workers reach this one's reduction at; port 0 takes any free one [default: any
    /// free port of the interface by which the coordinator is reached]
    #[arg(long, value_name = "ADDR")]
    reduce_listen: Option<SocketAddr>,
    /// Address that other workers are told, where it differs
    #[arg(long, value_name = "ADDR")]
    reduce_advertise: Option<SocketAddr>,
    /// What GPUs reduce over; on CPUs it is TCP
    #[arg(long, env = "PTV2_TRANSPORT", value_enum, default_value = "auto")]
    transport: Transport,
    /// NCCL's library [default: libnccl.so.2 of the PyTorch that supplies CUDA, else the system's]
    #[arg(long, env = "PTV2_NCCL", value_name = "FILE")]
    nccl: Option<PathBuf>,
    /// Without a coordinator for this long, write a checkpoint and end
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    orphan_limit: Duration,
    /// Asked to end, give up the step after this long [default: 5s; inside Slurm 1.2s, so that all is
    /// over in 2s]
    #[arg(long, env = "PTV2_DRAIN_GRACE", value_name = "TIME", value_parser = humantime::parse_duration)]
    drain_grace: Option<Duration>,
    #[command(flatten)]
    hub: fetch::HubArgs,
    #[command(flatten)]
    inputs: fetch::InputsArgs,
    /// Write what the worker is doing into this file
    #[arg(long, value_name = "FILE", hide = true)]
    pulse_file: Option<PathBuf>,
    /// What the coordinator launched this worker as
    #[arg(long, env = ptv2_common::launch::LAUNCH_VARIABLE, value_name = "ID", hide = true)]
    launch: Option<String>,
    /// End when standard input does
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

#[derive(Debug, Args)]
struct LocalArgs {
    /// Worker processes [default: one; where GPUs compute, one for each]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=1024))]
    workers: Option<u32>,
    /// Compute threads of each worker
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// What computes: auto (GPUs that can be had, else the processor), cpu, cuda or cuda:N
    #[arg(long, default_value_t = Wish::Auto)]
    device: Wish,
    #[command(flatten)]
    cuda: devices::CudaArgs,
    #[command(flatten)]
    config: config::ConfigArgs,
    /// Folder or URL of a store that jobs may read from, besides the current folder (can be repeated)
    #[arg(long, value_name = "PATH_OR_URL")]
    allow: Vec<PathBuf>,
    #[command(flatten)]
    hub: fetch::HubArgs,
}

/// Runs the command line. Errors go to standard error with a hint.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    ptv2_common::tls::install_provider();
    if let Err(error) = start_log(&cli) {
        return fail(&error);
    }
    let result = match cli.command {
        Command::Coordinator(args) => coordinator(&args),
        Command::CheckConfig(args) => args.show(),
        Command::Worker(args) => worker(args),
        Command::Local(args) => run_local(args),
        Command::Devices(args) => args.show(),
        Command::Fetch(args) => fetch::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the place where a person reads why it ended")]
fn fail(error: &Explained) -> ExitCode {
    eprintln!("error: {error}");
    if let Some(expected) = &error.expected {
        eprintln!("  expected: {expected}");
    }
    if let Some(hint) = &error.hint {
        eprintln!("\nhint: {hint}");
    }
    ExitCode::FAILURE
}

fn start_log(cli: &Cli) -> Result<(), Explained> {
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log).map_err(|error| {
        Explained::new(format!("`{}` is no filter: {error}", cli.log))
            .at("--log")
            .expected("for example `info` or `ptv2_daemon=debug`")
    })?;
    let colors = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colors);
    match cli.log_format {
        LogFormat::Text => log.with_target(false).fmt_fields(crate::log::fields()).init(),
        LogFormat::Json => log.json().event_format(log::Flat).init(),
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, Explained> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .map_err(|error| Explained::from_error(&error))
}

/// Cancels `shutdown` when one of these signals comes.
fn stop_on(signals: &[SignalKind], shutdown: &CancellationToken) -> Result<(), Explained> {
    for kind in signals {
        let mut waited = signal(*kind).map_err(|error| Explained::from_error(&error))?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            if waited.recv().await.is_some() {
                shutdown.cancel();
            }
        });
    }
    Ok(())
}

/// A scheduler's notice that the allocation ends soon.
const NOTICE: [SignalKind; 2] = [SignalKind::user_defined1(), SignalKind::user_defined2()];

/// A worker that is asked to end gives up its step after this long.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// The same inside Slurm, which kills what does not end: by default after 30 s, at some sites after 5 s.
const SLURM_DRAIN_GRACE: Duration = Duration::from_millis(1000);

/// A terminal's and a service manager's way to stop a process.
const STOP: [SignalKind; 2] = [SignalKind::interrupt(), SignalKind::terminate()];

fn coordinator(args: &config::ConfigArgs) -> Result<(), Explained> {
    let config = args.layers()?.config()?;
    runtime()?.block_on(async {
        let (shutdown, leaving) = (CancellationToken::new(), CancellationToken::new());
        stop_on(&NOTICE, &leaving)?;
        // In an allocation the workers are told to end in the same moment, or soon; elsewhere they train on.
        let slurm = Placement::of(variable);
        stop_on(&STOP, if slurm.is_some() { &leaving } else { &shutdown })?;
        if let Some(slurm) = slurm {
            let nodes = variable("SLURM_JOB_NODELIST").and_then(|list| hostnames(&list).ok());
            let nodes = nodes.map(|nodes| nodes.len());
            tracing::info!(nodes, restarts = slurm.restarts, "{slurm}");
        }
        let coordinator = Coordinator::open(&config, &shutdown).await?;
        tokio::spawn(coordinator.leaver().wait(leaving, shutdown.clone()));
        coordinator.run().await
    })
}

fn run_local(args: LocalArgs) -> Result<(), Explained> {
    let mut config = args.config.layers()?.config()?;
    config.roots.push(".".into());
    config.roots.extend(args.allow);
    config.hub = args.hub.over(config.hub)?;
    let choice = device::choose(args.device, variable)?;
    let libtorch_cuda = args.cuda.libtorch_cuda;
    let devices = device::for_workers(args.device, choice, args.workers, libtorch_cuda.as_deref())?;
    let workers = local::Workers { devices, threads: args.threads, libtorch_cuda };
    runtime()?.block_on(async {
        let shutdown = CancellationToken::new();
        stop_on(&STOP, &shutdown)?;
        local::run(&config, &workers, &shutdown).await
    })
}

#[cfg(feature = "torch")]
fn worker(args: WorkerArgs) -> Result<(), Explained> {
    let choice = device::choose(args.device, variable)?;
    // What may start this process again comes before what takes time.
    crate::worker::prepare_process(choice.gpu.is_some())?;
    let libtorch_cuda = args.cuda.libtorch_cuda.as_deref();
    let settled = device::of_this_build(args.device, choice, libtorch_cuda)?;
    let config = worker_config(args, settled)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        // Schedulers give notice by the others.
        let notice = [SignalKind::hangup(), NOTICE[0], NOTICE[1]];
        stop_on(&[STOP.as_slice(), &notice].concat(), &shutdown)?;
        crate::worker::run(config, shutdown).await
    });
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            fail(&error);
            1
        }
    };
    crate::worker::leave(code)
}

#[cfg(not(feature = "torch"))]
fn worker(args: WorkerArgs) -> Result<(), Explained> {
    let choice = device::choose(args.device, variable)?;
    let libtorch_cuda = args.cuda.libtorch_cuda.as_deref();
    let settled = device::of_this_build(args.device, choice, libtorch_cuda)?;
    let config = worker_config(args, settled)?;
    Err(Explained::new(format!("this build cannot work for {}", config.coordinator))
        .expected("a build with the feature `torch`, which is on by default"))
}

/// A variable of the environment: what Slurm says of this process.
#[expect(clippy::disallowed_methods, reason = "the edge at which the environment is read")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn worker_config(args: WorkerArgs, device: Settled) -> Result<WorkerConfig, Explained> {
    let slurm = Placement::of(variable);
    let drain_grace = if slurm.is_some() { SLURM_DRAIN_GRACE } else { DRAIN_GRACE };
    Ok(WorkerConfig {
        coordinator: args.coordinator,
        ca_file: args.ca_file,
        ca_fingerprint: args.ca_fingerprint,
        insecure_http: args.insecure_http,
        token_file: args.token_file,
        device: device.choice,
        compute: device.compute,
        gpu: device.gpu,
        slurm,
        threads: args.threads.unwrap_or_else(|| device::threads(variable)),
        reduce_listen: args.reduce_listen,
        reduce_advertise: args.reduce_advertise,
        transport: args.transport,
        nccl: args.nccl,
        hub: args.hub.config()?,
        inputs: args.inputs.config()?,
        waits: Waits::default(),
        orphan_limit: args.orphan_limit,
        drain_grace: args.drain_grace.unwrap_or(drain_grace),
        pulse_file: args.pulse_file,
        launch: args.launch,
        exit_with_parent: args.exit_with_parent,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
