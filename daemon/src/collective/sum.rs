//! Sums in tree order on a device: the additions that [`crate::numerics::tree::combine`] makes, by torch. An fp32
//! addition gives the same bits everywhere.

use super::{CollectiveError, Result, device};
use crate::numerics::tree::Node;
use std::collections::BTreeMap;
use tch::{TchError, Tensor};

/// A partial sum.
pub(super) struct Part {
    pub(super) values: Tensor,
    /// Whether it may be added to in place.
    pub(super) is_own: bool,
}

/// Sums parts, which must tile the slices.
///
/// # Errors
/// Of this rank's protocol, where they do not.
pub(super) fn total(rank: u32, slices: u32, mut parts: BTreeMap<Node, Part>) -> Result<Tensor> {
    let total = gather(Node::root(slices), &mut parts).map_err(device)?;
    total.map(|part| part.values).ok_or_else(|| CollectiveError::Protocol {
        rank,
        detail: "the ranks' partial sums do not tile the slices".into(),
    })
}

/// Sums parts that tile the slices below `node`; nothing where they do not.
fn gather(
    node: Node,
    parts: &mut BTreeMap<Node, Part>,
) -> std::result::Result<Option<Part>, TchError> {
    if let Some(part) = parts.remove(&node) {
        return Ok(Some(part));
    }
    let Some((left, right)) = node.children() else { return Ok(None) };
    let Some(left) = gather(left, parts)? else { return Ok(None) };
    let Some(right) = gather(right, parts)? else { return Ok(None) };
    add(left, &right).map(Some)
}

/// One addition.
fn add(left: Part, right: &Part) -> std::result::Result<Part, TchError> {
    let Part { mut values, is_own } = left;
    let values =
        if is_own { values.f_add_(&right.values)? } else { values.f_add(&right.values)? };
    Ok(Part { values, is_own: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::tree::{combine, covering, sum};
    use std::ops::Range;

    fn values(slice: u32) -> Vec<f32> {
        (0..7_u16).map(|at| (f32::from(at) + 0.1) * 1.3_f32.powi(slice as i32) + 1e-3).collect()
    }

    fn parts(runs: &[Range<u32>]) -> BTreeMap<Node, Vec<f32>> {
        let nodes = runs.iter().flat_map(|run| covering(7, run));
        nodes.map(|node| (node, sum(node, &mut values))).collect()
    }

    #[test]
    fn torch_adds_as_the_loops_do_and_leaves_what_is_not_its_own() {
        for runs in [vec![0..7, 7..7], vec![0..3, 3..7], vec![0..1, 1..2, 2..5, 5..7]] {
            let found = parts(&runs);
            let expected = combine(7, &found).unwrap();
            let tensors: Vec<Tensor> =
                found.values().map(|part| Tensor::from_slice(part)).collect();
            let mut given = found.keys().copied().zip(&tensors).map(|(node, values)| {
                // Every second one is somebody else's.
                (node, Part { values: values.shallow_clone(), is_own: node.start % 2 == 1 })
            });
            let mut given: BTreeMap<_, _> = given.by_ref().collect();
            let total = gather(Node::root(7), &mut given).unwrap().unwrap();
            let bits = |all: &[f32]| all.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&Vec::<f32>::try_from(&total.values).unwrap()), bits(&expected));
            for ((node, before), after) in found.iter().zip(&tensors) {
                let kept = Vec::<f32>::try_from(after).unwrap() == *before;
                assert!(kept || node.start % 2 == 1, "{node:?} was changed");
            }
        }
        let mut hole: BTreeMap<Node, Part> = BTreeMap::new();
        assert!(gather(Node::root(7), &mut hole).unwrap().is_none());
    }
}
