//! ptv2d: see `ptv2d --help`.

fn main() -> std::process::ExitCode {
    ptv2_daemon::cli::main()
}
