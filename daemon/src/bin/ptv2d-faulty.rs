//! ptv2d with faults on demand, for the tests; never installed.

fn main() -> std::process::ExitCode {
    ptv2_daemon::cli::main()
}
