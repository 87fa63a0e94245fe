//! Who has which partial sums: told over the TCP group before a reduction, since NCCL moves only what both sides
//! expect.

use crate::collective::Stamp;
use crate::numerics::tree::Node;
use ptv2_common::spec::Reduction;
use std::collections::BTreeSet;
use std::ops::Range;

/// What one rank brings to a reduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) stamp: Stamp,
    pub(super) reduction: Reduction,
    /// Length of the buffer.
    pub(super) elements: u64,
    /// Its partial sums, in order.
    pub(super) nodes: Vec<Node>,
}

impl Plan {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.stamp.to_vec();
        bytes.push(u8::from(self.reduction == Reduction::Ring));
        bytes.extend(self.elements.to_le_bytes());
        for node in &self.nodes {
            bytes.extend(node.start.to_le_bytes());
            bytes.extend(node.end.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` if it is something else.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (stamp, rest) = bytes.split_first_chunk()?;
        let (reduction, rest) = rest.split_first()?;
        let (elements, rest) = rest.split_first_chunk()?;
        let (nodes, rest) = rest.as_chunks::<8>();
        let node = |bytes: &[u8; 8]| {
            let all = u64::from_le_bytes(*bytes);
            let start = u32::try_from(all & u64::from(u32::MAX)).ok()?;
            Some(Node { start, end: u32::try_from(all >> 32).ok()? })
        };
        rest.is_empty().then_some(())?;
        Some(Self {
            stamp: *stamp,
            reduction: match reduction {
                0 => Reduction::Ordered,
                1 => Reduction::Ring,
                _ => return None,
            },
            elements: u64::from_le_bytes(*elements),
            nodes: nodes.iter().map(node).collect::<Option<_>>()?,
        })
    }
}

/// Whether partial sums are those of the whole batch, each slice once.
pub(super) fn tile(slices: u32, nodes: &[Node]) -> bool {
    fn used(node: Node, all: &BTreeSet<Node>) -> Option<usize> {
        if all.contains(&node) {
            return Some(1);
        }
        let (left, right) = node.children()?;
        Some(used(left, all)? + used(right, all)?)
    }
    let all: BTreeSet<Node> = nodes.iter().copied().collect();
    all.len() == nodes.len() && used(Node::root(slices), &all) == Some(nodes.len())
}

/// The elements that a rank sums for all, and how far apart the ranks' ranges begin: all are of one length but for
/// the last ones that have any, so that they can be gathered at once.
pub(super) fn aligned_range_of(rank: u32, world: u32, elements: usize) -> (Range<usize>, usize) {
    /// Floats of 16 bytes, which devices move at once.
    const TOGETHER: usize = 4;
    let length = elements.div_ceil(world as usize).next_multiple_of(TOGETHER);
    let at = |rank: usize| (rank * length).min(elements);
    (at(rank as usize)..at(rank as usize + 1), length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::tree::covering;
    use proptest::prelude::*;

    #[test]
    fn a_plan_survives_the_wire() {
        for reduction in [Reduction::Ordered, Reduction::Ring] {
            let nodes = covering(7, &(2..6));
            let plan = Plan { stamp: [7; 24], reduction, elements: 1 << 40, nodes };
            assert_eq!(Plan::from_bytes(&plan.to_bytes()), Some(plan));
        }
        assert_eq!(Plan::from_bytes(&[2; 33]), None);
    }

    #[test]
    fn holes_and_overlaps_are_noticed() {
        let of =
            |runs: &[Range<u32>]| runs.iter().flat_map(|run| covering(7, run)).collect::<Vec<_>>();
        assert!(tile(7, &of(&[0..3, 3..7])));
        assert!(tile(7, &covering(7, &(0..7))));
        assert!(!tile(7, &of(&[0..3, 4..7])));
        assert!(!tile(7, &of(&[0..4, 3..7])));
        assert!(!tile(7, &of(&[0..7, 0..7])));
        assert!(!tile(7, &[]));
    }

    proptest! {
        #[test]
        fn ranges_are_all_elements_once(elements in 0_usize..5000, world in 1_u32..9) {
            let mut next = 0;
            for rank in 0..world {
                let (range, length) = aligned_range_of(rank, world, elements);
                prop_assert_eq!(range.start, next);
                prop_assert!(range.is_empty() || range.start == rank as usize * length);
                prop_assert!(range.len() <= length);
                next = range.end;
            }
            prop_assert_eq!(next, elements);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            drop(Plan::from_bytes(&bytes));
        }
    }
}
