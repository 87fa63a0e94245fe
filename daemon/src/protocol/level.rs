//! How the ranks of a new generation become level: all go on from the furthest state that any holds.

use ptv2_common::place::Place;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What a rank says of itself before the first step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// How far its state is; none without one.
    pub place: Option<Place>,
    /// Hash of the state.
    pub hash: u64,
}

/// Where the state comes from, and who receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levelling {
    /// The rank that sends.
    pub source: u32,
    /// Whether it first takes a checkpoint, or makes the first values: nobody is further than the
    /// store, or those who are do not agree.
    pub from_store: bool,
    /// The ranks that lack the source's state.
    pub receivers: Vec<u32>,
}

/// Decides, from all ranks' standings and the step of the newest checkpoint. Every rank decides the
/// same.
///
/// Of the ranks that have applied the most steps, most must hold the same state: a rank whose memory was
/// damaged just before its group broke is outvoted, and a tie goes back to the store. Of those that hold
/// it, one that has evaluated it already is the source.
pub fn level(standings: &[Standing], stored: Option<u64>) -> Levelling {
    let ranks = || (0_u32..).zip(standings);
    let state_of = |one: &Standing| one.place.map(|place| place.state());
    let furthest = standings.iter().filter_map(state_of).max();
    let agreed = furthest
        .filter(|(step, _)| stored.is_none_or(|stored| stored <= *step))
        .and_then(|state| majority(standings.iter().filter(|one| state_of(one) == Some(state))));
    let Some(agreed) = agreed else {
        let receivers = ranks().map(|(rank, _)| rank).skip(1).collect();
        return Levelling { source: 0, from_store: true, receivers };
    };
    let source = ranks().find(|(_, one)| *one == agreed).map_or(0, |(rank, _)| rank);
    let lacking = ranks().filter(|(_, one)| *one != agreed).map(|(rank, _)| rank);
    Levelling { source, from_store: false, receivers: lacking.collect() }
}

/// The furthest standing with the state that most of these share; `None` for a tie.
fn majority<'a>(standings: impl Iterator<Item = &'a Standing>) -> Option<&'a Standing> {
    let mut counts: BTreeMap<u64, (usize, &Standing)> = BTreeMap::new();
    for one in standings {
        let (count, furthest) = counts.entry(one.hash).or_insert((0, one));
        *count += 1;
        if one.place > furthest.place {
            *furthest = one;
        }
    }
    let mut counts: Vec<(usize, &Standing)> = counts.into_values().collect();
    counts.sort_by_key(|(count, _)| Reverse(*count));
    match counts.as_slice() {
        [(_, only)] => Some(only),
        [(most, first), (next, _), ..] if most > next => Some(first),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::place::PlacePhase;

    fn at(step: u64, hash: u64) -> Standing {
        Standing { place: Some(Place { step, ..Place::default() }), hash }
    }

    const NEW: Standing = Standing { place: None, hash: 0 };

    fn found(standings: &[Standing], stored: Option<u64>) -> (u32, bool, Vec<u32>) {
        let Levelling { source, from_store, receivers } = level(standings, stored);
        (source, from_store, receivers)
    }

    #[test]
    fn the_furthest_gives_to_those_who_lack_it() {
        assert_eq!(found(&[at(7, 1), at(8, 2), NEW], None), (1, false, vec![0, 2]));
        assert_eq!(found(&[at(8, 2), at(8, 2)], Some(8)), (0, false, vec![]));
    }

    #[test]
    fn the_store_gives_where_nobody_is_further() {
        assert_eq!(found(&[NEW, NEW], None), (0, true, vec![1]), "the first values");
        assert_eq!(found(&[at(7, 1), NEW], Some(9)), (0, true, vec![1]));
        assert_eq!(found(&[NEW], Some(3)), (0, true, vec![]));
    }

    #[test]
    fn a_damaged_state_is_outvoted_and_a_tie_goes_back() {
        assert_eq!(found(&[at(8, 9), at(8, 2), at(8, 2), at(7, 1)], None), (1, false, vec![0, 3]));
        assert_eq!(found(&[at(8, 9), at(8, 2)], Some(5)), (0, true, vec![1]));
        // One that has evaluated already is outvoted like the others.
        let evaluated = |hash| {
            let place = Place { step: 8, phase: PlacePhase::Evaluated, evaluation_slice: 0 };
            Standing { place: Some(place), hash }
        };
        assert_eq!(found(&[evaluated(9), at(8, 2), at(8, 2)], None), (1, false, vec![0]));
        assert_eq!(found(&[at(8, 2), evaluated(2), NEW], None), (1, false, vec![0, 2]));
    }
}
