//! The order in which slices are summed: a fixed binary tree whose shape depends on the number of
//! slices only, so that the sum's bits do not depend on which rank computed which slice.

use std::collections::BTreeMap;
use std::ops::Range;

/// A node of the tree: the slices `start..end` below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// First slice.
    pub start: u32,
    /// One past the last slice.
    pub end: u32,
}

impl Node {
    /// The root over all slices of a batch.
    pub fn root(slices: u32) -> Self {
        Self { start: 0, end: slices }
    }

    /// Left and right child; none for a single slice. The left one is the larger by at most one.
    pub(crate) fn children(self) -> Option<(Self, Self)> {
        let count = self.end - self.start;
        if count < 2 {
            return None;
        }
        let middle = self.start + count.div_ceil(2);
        Some((Self { start: self.start, end: middle }, Self { start: middle, end: self.end }))
    }
}

/// The largest nodes that lie inside a run of slices, in order: what a rank sums by itself.
///
/// There are at most two for each level of the tree.
pub fn covering(slices: u32, run: &Range<u32>) -> Vec<Node> {
    let mut found = Vec::new();
    cover(Node::root(slices), run, &mut found);
    found
}

fn cover(node: Node, run: &Range<u32>, found: &mut Vec<Node>) {
    if node.start >= node.end || node.end <= run.start || node.start >= run.end {
        return;
    }
    if run.start <= node.start && node.end <= run.end {
        found.push(node);
        return;
    }
    if let Some((left, right)) = node.children() {
        cover(left, run, found);
        cover(right, run, found);
    }
}

/// Sums a node's slices in tree order; `leaf` gives each slice's values once, in order.
pub fn sum(node: Node, leaf: &mut impl FnMut(u32) -> Vec<f32>) -> Vec<f32> {
    match node.children() {
        None => leaf(node.start),
        Some((left, right)) => {
            let mut total = sum(left, leaf);
            add(&mut total, &sum(right, leaf));
            total
        }
    }
}

/// As [`sum`], of whatever can be added, which may fail.
///
/// # Errors
/// Those of `leaf` and `add`.
pub fn fold<T, E>(
    node: Node,
    leaf: &mut impl FnMut(u32) -> Result<T, E>,
    add: &mut impl FnMut(T, T) -> Result<T, E>,
) -> Result<T, E> {
    match node.children() {
        None => leaf(node.start),
        Some((left, right)) => {
            let total = fold(left, leaf, add)?;
            let other = fold(right, leaf, add)?;
            add(total, other)
        }
    }
}

/// Sums partial sums that tile the slices, in tree order. `None` when they do not tile them.
pub fn combine(slices: u32, parts: &BTreeMap<Node, Vec<f32>>) -> Option<Vec<f32>> {
    gather(Node::root(slices), parts)
}

fn gather(node: Node, parts: &BTreeMap<Node, Vec<f32>>) -> Option<Vec<f32>> {
    if let Some(part) = parts.get(&node) {
        return Some(part.clone());
    }
    let (left, right) = node.children()?;
    let mut total = gather(left, parts)?;
    let other = gather(right, parts)?;
    if total.len() != other.len() {
        return None;
    }
    add(&mut total, &other);
    Some(total)
}

fn add(total: &mut [f32], other: &[f32]) {
    for (sum, value) in total.iter_mut().zip(other) {
        *sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(slice: u32) -> Vec<f32> {
        // Numbers whose sum depends on the order.
        (0..3_u16)
            .map(|at| (f32::from(at) + 0.1) * 1.3_f32.powi(slice as i32 % 17) + 1e-3)
            .collect()
    }

    #[test]
    fn five_slices_are_summed_as_drawn() {
        // ((0+1)+2)+(3+4)
        let expected: Vec<f32> = (0..3)
            .map(|at| {
                ((values(0)[at] + values(1)[at]) + values(2)[at]) + (values(3)[at] + values(4)[at])
            })
            .collect();
        assert_eq!(sum(Node::root(5), &mut values), expected);
        let mut add = |mut total: Vec<f32>, other: Vec<f32>| {
            add(&mut total, &other);
            Ok::<_, ()>(total)
        };
        let folded = fold(Node::root(5), &mut |slice| Ok(values(slice)), &mut add);
        assert_eq!(folded, Ok(expected));
    }

    proptest! {
        #[test]
        fn any_deal_gives_the_same_bits(
            slices in 1_u32..40,
            mut cuts in proptest::collection::vec(0_u32..40, 0..5),
        ) {
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(slices));
            cuts.sort_unstable();
            cuts.insert(0, 0);
            cuts.push(slices);
            let mut parts = BTreeMap::new();
            for ends in cuts.windows(2) {
                let nodes = covering(slices, &(ends[0]..ends[1]));
                let levels = 32 - slices.leading_zeros();
                prop_assert!(nodes.len() <= 2 * levels as usize);
                for node in nodes {
                    parts.insert(node, sum(node, &mut values));
                }
            }
            let found = combine(slices, &parts).unwrap();
            let whole = sum(Node::root(slices), &mut values);
            let bits = |all: &[f32]| all.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&found), bits(&whole));
        }
    }

    #[test]
    fn a_hole_is_noticed() {
        let mut parts = BTreeMap::new();
        for node in covering(7, &(0..5)) {
            parts.insert(node, sum(node, &mut values));
        }
        assert_eq!(combine(7, &parts), None);
    }
}
