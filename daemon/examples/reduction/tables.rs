//! The tables of `docs/scale.md`.

use crate::networks::{ALL as NETWORKS, Network};
use crate::shapes::{ALL as SHAPES, Shape, TUNED, Tuned};
use crate::work::Work;
use crate::{nccl, tcp};
use std::error::Error;
use std::fmt::Write;

/// GPUs of the groups that are shown.
const WORLDS: [usize; 5] = [8, 16, 64, 256, 1024];
/// Workers of the groups over TCP.
const WORKERS: [usize; 5] = [2, 4, 8, 16, 64];
/// What `ordered` may cost more than `ring`, as a share of a step: beyond it, a job of this size wants `ring`.
const SHARE: f64 = 0.05;

type Told = Result<String, Box<dyn Error>>;

/// All tables.
pub(crate) fn all() -> Told {
    Ok(format!("{}\n{}\n{}", over_nccl(&SHAPES[0])?, until()?, over_tcp()?))
}

/// A slice for each GPU, so one partial sum each.
fn even(shape: &Shape, tuned: Tuned, world: usize) -> Result<Work, Box<dyn Error>> {
    Ok(Work::new(shape.values(tuned)?, u32::try_from(world)?, world))
}

/// One slice and two, in turn: what unlike slices or unlike cards lead to.
fn uneven(shape: &Shape, tuned: Tuned, world: usize) -> Result<Work, Box<dyn Error>> {
    Ok(Work::new(shape.values(tuned)?, u32::try_from(world * 3 / 2)?, world))
}

fn header(
    text: &mut String,
    first: &[&str],
    shape: &Shape,
    by_step: bool,
) -> Result<(), Box<dyn Error>> {
    let first = first.join(" | ");
    write!(text, "| {first} |")?;
    for tuned in TUNED {
        let megabytes = shape.values(tuned)? as f64 * 4e-6;
        write!(text, " {}: {megabytes:.1} MB", tuned.name)?;
        if by_step {
            write!(text, ", step {:.0} ms", shape.step(tuned) / 1e3)?;
        }
        write!(text, " |")?;
    }
    writeln!(text, "\n|{}", "---|".repeat(first.split('|').count() + TUNED.len()))?;
    Ok(())
}

/// Milliseconds of both ways, by network and group.
fn over_nccl(shape: &Shape) -> Told {
    let mut text = String::new();
    header(&mut text, &["network", "GPUs", "told before"], shape, true)?;
    for network in &NETWORKS {
        for world in WORLDS {
            let plan = ms(nccl::plan(network, world));
            write!(text, "| {} | {world} | {plan} |", network.name)?;
            for tuned in TUNED {
                let work = even(shape, tuned, world)?;
                let ordered = ms(nccl::ordered(network, &work));
                write!(text, " {ordered} / {} |", ms(nccl::all_reduce(network, &work)))?;
            }
            writeln!(text)?;
        }
    }
    Ok(text)
}

/// Up to how many GPUs the order costs little, with even and with uneven slices.
fn until() -> Told {
    let mut text = String::from("| network | backbone |");
    TUNED.iter().try_for_each(|tuned| write!(text, " {} |", tuned.name))?;
    writeln!(text, "\n|{}", "---|".repeat(2 + TUNED.len()))?;
    for network in &NETWORKS {
        for shape in &SHAPES {
            write!(text, "| {} | {} |", network.name, shape.name)?;
            for tuned in TUNED {
                let even = largest(network, shape, tuned, even)?;
                let uneven = largest(network, shape, tuned, uneven)?;
                write!(
                    text,
                    " {even}{} |",
                    if even == uneven { String::new() } else { format!(", {uneven}") }
                )?;
            }
            writeln!(text)?;
        }
    }
    Ok(text)
}

type Deal = fn(&Shape, Tuned, usize) -> Result<Work, Box<dyn Error>>;

/// The largest group of 2, 4, 8, … GPUs up to which `ordered` costs no more than so much of a step beyond `ring`.
fn largest(network: &Network, shape: &Shape, tuned: Tuned, deal: Deal) -> Told {
    let mut largest = None;
    for world in (1..=10).map(|power| 1 << power) {
        let work = deal(shape, tuned, world)?;
        let more = nccl::ordered(network, &work) - nccl::all_reduce(network, &work);
        if more > SHARE * shape.step(tuned) {
            break;
        }
        largest = Some(world);
    }
    Ok(largest.map_or("none".into(), |world: usize| world.to_string()))
}

/// Milliseconds over TCP, one worker a machine.
fn over_tcp() -> Told {
    let mut text = String::new();
    let alone: Vec<&Network> = NETWORKS.iter().filter(|network| network.node == 1).collect();
    for shape in [&SHAPES[0], &SHAPES[2]] {
        writeln!(text, "{}:\n", shape.name)?;
        header(&mut text, &["network", "workers"], shape, false)?;
        for network in &alone {
            for world in WORKERS {
                write!(text, "| {} | {world} |", network.name.replace("a GPU", "a worker"))?;
                for tuned in TUNED {
                    write!(text, " {} |", ms(tcp::ordered(network, &even(shape, tuned, world)?)))?;
                }
                writeln!(text)?;
            }
        }
        writeln!(text)?;
    }
    Ok(text.trim_end().to_string())
}

/// µs in ms, with two digits that say something.
fn ms(time: f64) -> String {
    let ms = time / 1e3;
    match ms {
        ..1.0 => format!("{ms:.2}"),
        ..10.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_holds_what_the_model_says() {
        const DOCUMENT: &str = include_str!("../../../docs/scale.md");
        for table in all().unwrap().split("\n\n") {
            let found = DOCUMENT.contains(table.trim());
            assert!(found, "renew docs/scale.md with `make bench-reduce`; it lacks:\n{table}");
        }
    }

    #[test]
    fn more_partial_sums_never_allow_a_larger_group() {
        let number = |text: String| text.parse::<usize>().unwrap_or(0);
        for (network, tuned) in NETWORKS.iter().flat_map(|network| TUNED.map(|one| (network, one)))
        {
            let [even, uneven] = [even as Deal, uneven]
                .map(|deal| number(largest(network, &SHAPES[0], tuned, deal).unwrap()));
            assert!(uneven <= even, "{}, {}: {even}, {uneven}", network.name, tuned.name);
        }
    }
}
