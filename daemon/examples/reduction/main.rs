//! What the reduction of a step costs: counted, measured here, and modelled for networks that are not here.
//!
//! `reduction tables` prints what `docs/scale.md` quotes of the model. `reduction measure 9` takes the time of the real
//! group over TCP on this machine, in so many rounds, fits the two constants of the model to half of it and says how
//! far off the other half is. `make bench-reduce` does both. It needs no torch.
//!
//! [`work`] counts what a reduction sends, by the daemon's own deal of slices and its tree; [`loopback`] is the
//! model of ranks that share one machine, [`measure`] the measurement; [`networks`] holds what is assumed of
//! networks and GPUs, [`nccl`] and [`tcp`] what a reduction takes there, [`tables`] how that is told.

#![expect(clippy::print_stdout, reason = "it prints tables")]

mod loopback;
mod measure;
mod nccl;
mod networks;
mod shapes;
mod tables;
mod tcp;
#[cfg(test)]
mod wire;
mod work;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tables"] => println!("{}", tables::all()?),
        ["measure", rounds] => {
            let found =
                measure::all(rounds.parse()?).map_err(|failure| -> Box<dyn Error> { failure })?;
            println!("{}", measure::told(&found)?);
        }
        _ => return Err("expected `tables`, or `measure` and a number of rounds".into()),
    }
    Ok(())
}
