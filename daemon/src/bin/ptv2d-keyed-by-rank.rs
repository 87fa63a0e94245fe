//! ptv2d with dropout keyed by rank: the tests' negative control, never installed.

fn main() -> std::process::ExitCode {
    ptv2_daemon::cli::main()
}
