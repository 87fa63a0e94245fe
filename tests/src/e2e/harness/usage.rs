//! What a process uses, as the system counts it.

use std::time::Duration;

/// Ticks of a processor's time in `/proc`: 100 a second on every Linux that ptv2 runs on.
const TICKS_PER_S: f64 = 100.0;

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Processor time of all its threads.
    pub(crate) cpu: Duration,
    /// Bytes of resident memory.
    pub(crate) resident: u64,
    /// The most of it so far, or since a [`Growth`] began.
    pub(crate) peak: u64,
}

impl Usage {
    pub(crate) fn resident_mib(self) -> f64 {
        mib(self.resident)
    }

    pub(crate) fn peak_mib(self) -> f64 {
        mib(self.peak)
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What a process has used; nothing of one that has ended.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: state is the first, times the 12th and 13th.
    let ticks = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
    };
    let cpu = Duration::from_secs_f64(ticks / TICKS_PER_S);
    Some(Usage { cpu, resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
}

/// By how much processes grow from now on, at their highest.
pub(crate) struct Growth(Vec<(u32, u64)>);

impl Growth {
    pub(crate) fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        let begin = |pid| {
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
            (pid, usage(pid).unwrap().resident)
        };
        Self(pids.into_iter().map(begin).collect())
    }

    /// Bytes of the one that has grown most.
    pub(crate) fn most(&self) -> u64 {
        let grown = |(pid, before): &(u32, u64)| usage(*pid).unwrap().peak.saturating_sub(*before);
        self.0.iter().map(grown).max().unwrap()
    }
}
