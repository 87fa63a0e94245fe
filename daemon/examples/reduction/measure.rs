//! Takes the time of the real group over TCP, its ranks as threads of this process.

use crate::loopback::{Constants, Point};
use crate::networks::HOST;
use crate::work::Work;
use ptv2_common::ids::WorkerId;
use ptv2_daemon::clock;
use ptv2_daemon::collective::tcp::{GroupSpec, Listener, Peer, Waits};
use ptv2_daemon::collective::{AbortHandle, Collective, CollectiveError};
use ptv2_daemon::numerics::batches::deal;
use ptv2_daemon::numerics::tree::{Node, covering};
use std::error::Error;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// Of the default batch of 32 rows.
const SLICES: u32 = 8;
/// Values of a gradient, up to those of BERT-large at P = 128.
const VALUES: [usize; 5] = [1_000, 50_000, 400_000, 1_000_000, 6_300_000];
/// Ranks of the groups that the constants are fitted to.
const FITTED: [usize; 2] = [2, 4];
/// Ranks of all groups.
const WORLDS: [usize; 5] = [2, 3, 4, 6, 8];
/// What is sent in one go, so that short reductions are repeated: some tenths of a second of a core.
const BYTES_IN_A_GO: usize = 400_000_000;
const MESSAGES_IN_A_GO: usize = 20_000;
/// A stamp and a partial sum's place, as they go over TCP before each reduction over NCCL.
const SMALL: [u8; 41] = [0; 41];

/// What was measured: medians over the rounds.
#[derive(Debug)]
pub(crate) struct Found {
    /// Of all groups and lengths.
    pub(crate) reductions: Vec<Point>,
    /// Ranks of a group, and what a small message of each to all others takes.
    pub(crate) small: Vec<(usize, Took)>,
}

/// Measures everything so many times, in turn.
pub(crate) fn all(rounds: usize) -> Result<Found, Failure> {
    let mut times = vec![vec![Vec::new(); VALUES.len()]; WORLDS.len()];
    let mut small = vec![Vec::new(); WORLDS.len()];
    for _ in 0..rounds {
        for (at, world) in WORLDS.into_iter().enumerate() {
            let found = round(world)?;
            small[at].push(found.small);
            times[at].iter_mut().zip(found.reductions).for_each(|(all, time)| all.push(time));
        }
    }
    let mut found = Found { reductions: Vec::new(), small: Vec::new() };
    for ((world, times), small) in WORLDS.into_iter().zip(times).zip(small) {
        for (values, times) in VALUES.into_iter().zip(times) {
            let Took { clock, time } = Took::median(&times).ok_or("no rounds")?;
            found.reductions.push(Point { work: Work::new(values, SLICES, world), time, clock });
        }
        found.small.push((world, Took::median(&small).ok_or("no rounds")?));
    }
    Ok(found)
}

/// How long an operation took, in µs: by the clock, and of all cores together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    clock: f64,
    time: f64,
}

impl Took {
    /// Of each by itself.
    fn median(all: &[Self]) -> Option<Self> {
        let of = |each: fn(&Self) -> f64| median(all.iter().map(each).collect());
        Some(Self { clock: of(|one| one.clock)?, time: of(|one| one.time)? })
    }
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// What a group took in one round.
struct Round {
    /// By length.
    reductions: Vec<Took>,
    small: Took,
}

/// Has a group come together, and a rank of it say how long everything took.
fn round(world: usize) -> Result<Round, Failure> {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners = (0..world).map(|_| Listener::bind(local)).collect::<Result<Vec<_>, _>>()?;
    let ranks: Vec<_> = std::thread::scope(|scope| {
        let ranks = (0..world).map(|rank| {
            let (listener, spec) = (&listeners[rank], spec(&listeners, rank));
            scope.spawn(move || -> Result<Round, Failure> {
                let mut group = listener.join(&spec, &AbortHandle::default())?;
                timed(&mut group, rank, world)
            })
        });
        // All begin before the first is waited for.
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().map_err(|_| "a rank panicked")).collect()
    });
    let ranks = ranks.into_iter().map(|rank: Result<Result<Round, Failure>, &str>| rank?);
    // They wait for each other in each operation, so that one of them knows it all.
    ranks.collect::<Result<Vec<_>, Failure>>()?.pop().ok_or_else(|| "no ranks".into())
}

pub(crate) fn spec(listeners: &[Listener], rank: usize) -> GroupSpec {
    let peer = |(rank, listener): (usize, &Listener)| Peer {
        worker: WorkerId(format!("w{rank}")),
        address: listener.address(),
    };
    GroupSpec {
        job: "j1".into(),
        generation: 1,
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
        peers: listeners.iter().enumerate().map(peer).collect(),
        key: b"key".to_vec(),
        longest_frame: 1 << 30,
        waits: Waits { silence: Duration::from_secs(20), ..Waits::default() },
    }
}

type Failure = Box<dyn Error + Send + Sync>;

fn timed(group: &mut impl Collective, rank: usize, world: usize) -> Result<Round, Failure> {
    let mut step = 0;
    let mut reductions = Vec::new();
    for values in VALUES {
        let (parts, work) = (parts(values, rank, world), Work::new(values, SLICES, world));
        let mut sum = vec![0.0; values];
        let repeats = (BYTES_IN_A_GO / work.sent()).min(MESSAGES_IN_A_GO / work.messages());
        // The first has memory to fetch; and after it all ranks are at the same place.
        reductions.push(mean(group, repeats.max(1), |group| {
            step += 1;
            group.reduce(step, SLICES, &parts, &[0; 24], &mut sum).map(drop)
        })?);
    }
    let small = mean(group, MESSAGES_IN_A_GO / (world * (world - 1)), |group| {
        step += 1;
        group.all_gather_bytes(step, &SMALL).map(drop)
    })?;
    Ok(Round { reductions, small })
}

/// What one operation takes, in which all ranks wait for each other, after one that does not count.
fn mean<G>(
    group: &mut G,
    repeats: usize,
    mut operation: impl FnMut(&mut G) -> Result<(), CollectiveError>,
) -> Result<Took, Failure> {
    operation(group)?;
    let (began, before) = (clock::now(), processor_time()?);
    for _ in 0..repeats {
        operation(group)?;
    }
    let clock = clock::now().saturating_duration_since(began).as_secs_f64() * 1e6;
    let time = processor_time()? - before;
    Ok(Took { clock: clock / repeats as f64, time: time / repeats as f64 })
}

/// µs that all threads of this process have had, to a hundredth of a second.
fn processor_time() -> Result<f64, Failure> {
    const TICK: f64 = 1e4;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the program's name, which may hold blanks: the twelfth and thirteenth, in user and in kernel mode.
    let rest = stat.rsplit_once(')').ok_or("/proc/self/stat has no name")?.1;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? * TICK)
}

pub(crate) fn parts(values: usize, rank: usize, world: usize) -> Vec<(Node, Vec<f32>)> {
    let run = &deal(&[1.0; SLICES as usize], &vec![1.0; world])[rank];
    covering(SLICES, run).into_iter().map(|node| (node, vec![1.0; values])).collect()
}

/// The table of what was measured beside the model, and how far off that is.
pub(crate) fn told(found: &Found) -> Result<String, Box<dyn Error>> {
    let is_fitted = |point: &&Point| FITTED.contains(&point.work.world());
    let fitted = Constants::fitted(found.reductions.iter().filter(is_fitted)).ok_or("no fit")?;
    let cores = std::thread::available_parallelism()?.get() as f64;
    let mut text = String::new();
    writeln!(
        text,
        "| ranks | values | MB sent by all | clock, ms | processor, ms | model, ms | model / processor |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|")?;
    let mut off: Vec<f64> = Vec::new();
    for point in &found.reductions {
        let (model, work) = (fitted.time(&point.work), &point.work);
        let (ratio, is_fitted) = (model / point.time, is_fitted(&point));
        if !is_fitted {
            off.push(ratio.ln().abs().exp());
        }
        let (world, values, sent) = (work.world(), work.values, work.sent() as f64 / 1e6);
        let mark = if is_fitted { ", fitted" } else { "" };
        let [clock, time, model] =
            [point.clock, point.time / cores, model / cores].map(|us| us / 1e3);
        writeln!(
            text,
            "| {world}{mark} | {values} | {sent:.1} | {clock:.2} | {time:.2} | {model:.2} | {ratio:.2} |"
        )?;
    }
    writeln!(text, "\nProcessor time is that of {cores} cores at once.")?;
    writeln!(
        text,
        "A message takes {:.1} µs of a core, a MB {:.0} µs.",
        fitted.message,
        fitted.byte * 1e6
    )?;
    let worst = off.iter().copied().fold(1.0, f64::max);
    let middle = median(off).ok_or("nothing to check against")?;
    writeln!(
        text,
        "Where it was not fitted it is off by a factor of {middle:.2} (median), {worst:.2} (worst)."
    )?;
    writeln!(
        text,
        "\n| ranks | small messages of each to all: clock, µs | of a core, for each, µs |"
    )?;
    writeln!(text, "|---|---|---|")?;
    for (world, Took { clock, time }) in &found.small {
        writeln!(text, "| {world} | {clock:.0} | {:.1} |", time / (world * (world - 1)) as f64)?;
    }
    writeln!(text, "\nThe model's tables are made with {HOST:?}.")?;
    Ok(text)
}
