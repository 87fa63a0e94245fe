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
/// Bytes that are reduced in one go, so that short reductions are repeated.
const BYTES_IN_A_GO: usize = 100_000_000;
const REPEATS_MAX: usize = 200;
/// A stamp and a partial sum's place, as they go over TCP before each reduction over NCCL.
const SMALL: [u8; 41] = [0; 41];

/// What was measured: medians over the rounds.
#[derive(Debug)]
pub(crate) struct Found {
    /// Of all groups and lengths.
    pub(crate) reductions: Vec<Point>,
    /// Ranks of a group, and the µs that a small message of each to all others takes.
    pub(crate) small: Vec<(usize, f64)>,
}

/// Measures everything so many times, in turn.
pub(crate) fn all(rounds: usize) -> Result<Found, Box<dyn Error>> {
    let mut times = vec![vec![Vec::new(); VALUES.len()]; WORLDS.len()];
    let mut small = vec![Vec::new(); WORLDS.len()];
    for _ in 0..rounds {
        for (at, world) in WORLDS.into_iter().enumerate() {
            let found = round(world)?;
            small[at].push(found.small);
            times[at].iter_mut().zip(found.reductions).for_each(|(all, time)| all.push(time));
        }
    }
    let mut reductions = Vec::new();
    for (world, times) in WORLDS.into_iter().zip(times) {
        for (values, times) in VALUES.into_iter().zip(times) {
            let time = median(times).ok_or("no rounds")?;
            reductions.push(Point { work: Work::new(values, SLICES, world), time });
        }
    }
    let small = small.into_iter().map(|times| median(times).ok_or("no rounds"));
    let small = WORLDS.into_iter().zip(small.collect::<Result<Vec<_>, _>>()?).collect();
    Ok(Found { reductions, small })
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// µs of a group in one round.
struct Round {
    /// By length.
    reductions: Vec<f64>,
    small: f64,
}

/// Has a group come together, and its slowest rank say how long everything took.
fn round(world: usize) -> Result<Round, Box<dyn Error>> {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners = (0..world).map(|_| Listener::bind(local)).collect::<Result<Vec<_>, _>>()?;
    let ranks: Vec<_> = std::thread::scope(|scope| {
        let ranks = (0..world).map(|rank| {
            let (listener, spec) = (&listeners[rank], spec(&listeners, rank));
            scope.spawn(move || -> Result<Round, CollectiveError> {
                let mut group = listener.join(&spec, &AbortHandle::default())?;
                timed(&mut group, rank, world)
            })
        });
        // All begin before the first is waited for.
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().map_err(|_| "a rank panicked")).collect()
    });
    let mut slowest = Round { reductions: vec![0.0; VALUES.len()], small: 0.0 };
    for rank in ranks {
        let Round { reductions, small } = rank??;
        slowest.small = slowest.small.max(small);
        slowest.reductions.iter_mut().zip(reductions).for_each(|(all, one)| *all = all.max(one));
    }
    Ok(slowest)
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

fn timed(group: &mut impl Collective, rank: usize, world: usize) -> Result<Round, CollectiveError> {
    let mut step = 0;
    let mut reductions = Vec::new();
    for values in VALUES {
        let parts = parts(values, rank, world);
        let mut sum = vec![0.0; values];
        let repeats = (BYTES_IN_A_GO / (8 * values * world)).clamp(1, REPEATS_MAX);
        // The first has memory to fetch; and after it all ranks are at the same place.
        reductions.push(mean(group, repeats, |group| {
            step += 1;
            group.reduce(step, SLICES, &parts, &[0; 24], &mut sum).map(drop)
        })?);
    }
    let small = mean(group, REPEATS_MAX, |group| {
        step += 1;
        group.all_gather_bytes(step, &SMALL).map(drop)
    })?;
    Ok(Round { reductions, small })
}

/// µs of one operation, in which all ranks wait for each other, after one that does not count.
fn mean<G>(
    group: &mut G,
    repeats: usize,
    mut operation: impl FnMut(&mut G) -> Result<(), CollectiveError>,
) -> Result<f64, CollectiveError> {
    operation(group)?;
    let began = clock::now();
    for _ in 0..repeats {
        operation(group)?;
    }
    Ok(clock::now().saturating_duration_since(began).as_secs_f64() * 1e6 / repeats as f64)
}

pub(crate) fn parts(values: usize, rank: usize, world: usize) -> Vec<(Node, Vec<f32>)> {
    let run = &deal(&[1.0; SLICES as usize], &vec![1.0; world])[rank];
    covering(SLICES, run).into_iter().map(|node| (node, vec![1.0; values])).collect()
}

/// The table of what was measured beside the model, and how far off that is.
pub(crate) fn told(found: &Found) -> Result<String, Box<dyn Error>> {
    let is_fitted = |point: &&Point| FITTED.contains(&point.work.world());
    let fitted = Constants::fitted(found.reductions.iter().filter(is_fitted)).ok_or("no fit")?;
    let mut text = String::new();
    writeln!(
        text,
        "| ranks | values | MB sent by all | measured ms | model ms | model / measured |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    let mut off: Vec<f64> = Vec::new();
    for point in &found.reductions {
        let (model, work) = (fitted.time(&point.work), &point.work);
        let (ratio, is_fitted) = (model / point.time, is_fitted(&point));
        if !is_fitted {
            off.push((ratio.ln()).abs().exp());
        }
        writeln!(
            text,
            "| {}{} | {} | {:.1} | {:.2} | {:.2} | {ratio:.2} |",
            work.world(),
            if is_fitted { ", fitted" } else { "" },
            work.values,
            work.sent() as f64 / 1e6,
            point.time / 1e3,
            model / 1e3,
        )?;
    }
    off.sort_by(f64::total_cmp);
    let (middle, worst) = (median(off.clone()), off.last());
    writeln!(
        text,
        "\nA message takes {:.1} µs, a MB {:.0} µs.",
        fitted.message,
        fitted.byte * 1e6
    )?;
    if let (Some(middle), Some(worst)) = (middle, worst) {
        writeln!(
            text,
            "Off by a factor of {middle:.2} (median), {worst:.2} (worst), where not fitted."
        )?;
    }
    writeln!(
        text,
        "\n| ranks | a small message of each to all: µs | of each message |\n|---|---|---|"
    )?;
    for (world, time) in &found.small {
        writeln!(text, "| {world} | {time:.0} | {:.1} |", time / (world * (world - 1)) as f64)?;
    }
    writeln!(text, "\nThe tables were made with {HOST:?}.")?;
    Ok(text)
}
