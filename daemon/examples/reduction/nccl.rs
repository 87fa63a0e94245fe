//! What a reduction over NCCL takes on an assumed network, in µs.

use crate::networks::{ADD, HOST, LAUNCH, Link, MEMORY, NVLINK, Network, QUEUE};
use crate::work::Work;

/// Of the bandwidth, by protocol: the one for short buffers sends a flag with each word, and waits for none.
const SHARES: [f64; 2] = [0.25, 1.0];
/// A tree's share of a ring's bandwidth.
const TREE: f64 = 0.9;

/// The ranks of a group in their nodes.
struct Places {
    world: f64,
    nodes: f64,
    /// GPUs of a node.
    node: f64,
}

impl Places {
    fn new(network: &Network, world: usize) -> Self {
        let node = network.node.min(world);
        Self { world: world as f64, nodes: world.div_ceil(node) as f64, node: node as f64 }
    }

    /// Bytes a µs of a ring through all of them: as many rings as a node has adapters.
    fn ring(&self, network: &Network) -> f64 {
        let between = network.adapters as f64 * network.between.bandwidth;
        let within = NVLINK.bandwidth;
        match (self.node > 1.0, self.nodes > 1.0) {
            (true, true) => within.min(between),
            (true, false) => within,
            (false, _) => between,
        }
    }
}

/// The message over TCP before each reduction: to each peer, and from each.
pub(crate) fn plan(network: &Network, world: usize) -> f64 {
    network.tcp + (world - 1) as f64 * HOST.message
}

/// Sends and receives of partial sums, additions in tree order, an all-gather of the sums.
pub(crate) fn ordered(network: &Network, work: &Work) -> f64 {
    let places = Places::new(network, work.world());
    let (parts, gradient) = (work.parts_of_a_rank(), work.gradient());
    let (within, between) = (places.node - 1.0, places.world - places.node);
    let queued = 2.0 * parts * (within + between) * QUEUE;
    let a_peer = parts * gradient / places.world;
    let through = |link: &Link, peers: f64, sharing: f64| {
        if peers > 0.0 {
            link.hop[1] + peers * (parts * link.message).max(sharing * a_peer / link.bandwidth)
        } else {
            0.0
        }
    };
    // Ranks of a node send to other nodes at once, through the adapters that they share.
    let sharing = places.node / network.adapters as f64;
    let wire = through(&NVLINK, within, 1.0).max(through(&network.between, between, sharing));
    let added = (parts * places.world - 1.0) * ADD + 3.0 * parts * gradient / MEMORY;
    let gathered = ring(network, &places, gradient, 1.0);
    2.0 * LAUNCH + queued + wire + added + gathered
}

/// NCCL's all-reduce: a ring or a tree, whichever is faster.
pub(crate) fn all_reduce(network: &Network, work: &Work) -> f64 {
    let places = Places::new(network, work.world());
    let (parts, gradient) = (work.parts_of_a_rank(), work.gradient());
    let added = (parts - 1.0) * ADD + 3.0 * parts * gradient / MEMORY;
    let fastest = ring(network, &places, gradient, 2.0).min(tree(network, &places, gradient));
    LAUNCH + added + fastest
}

/// A ring that the buffer goes around once, as in an all-gather, or twice, by the better protocol.
fn ring(network: &Network, places: &Places, bytes: f64, rounds: f64) -> f64 {
    let bandwidth = places.ring(network);
    fastest(|protocol| {
        let between = (places.nodes - 1.0) * network.between.hop[protocol];
        let hops = (places.world - places.nodes) * NVLINK.hop[protocol] + between;
        let moved = bytes * (places.world - 1.0) / places.world;
        rounds * (hops + moved / (SHARES[protocol] * bandwidth))
    })
}

/// Up a tree of nodes and down again, in each node along a chain.
fn tree(network: &Network, places: &Places, bytes: f64) -> f64 {
    let bandwidth = places.ring(network);
    fastest(|protocol| {
        let levels = places.nodes.log2().ceil() * network.between.hop[protocol];
        let hops = (places.node - 1.0) * NVLINK.hop[protocol] + levels;
        2.0 * (hops + bytes / (TREE * SHARES[protocol] * bandwidth))
    })
}

fn fastest(time: impl Fn(usize) -> f64) -> f64 {
    time(0).min(time(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::ALL;

    fn on(name: &str) -> &'static Network {
        ALL.iter().find(|network| network.name == name).unwrap()
    }

    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found}, expected {expected}");
    }

    #[test]
    fn two_gpus_of_two_nodes_by_hand() {
        let (network, work) = (on("100 Gb a GPU"), Work::new(11_000_000, 2, 2));
        let gradient = 44e6;
        // Half of the buffer each way, 2 ms; one addition; half of the buffer again.
        let half = 22e6 / 11e3;
        let added = 8.0 + 3.0 * gradient / 2e6;
        close(ordered(network, &work), 30.0 + 2.0 + (14.0 + half) + added + (14.0 + half));
        // Twice around a ring of two.
        close(all_reduce(network, &work), 15.0 + 3.0 * gradient / 2e6 + 2.0 * (14.0 + half));
        close(plan(network, 2), network.tcp + HOST.message);
    }

    #[test]
    fn ranks_of_a_node_share_its_adapter() {
        let work = Work::new(25_000_000, 64, 64);
        let [shared, own] = ["100 Gb a node of 8", "100 Gb a GPU"].map(on);
        // 8 ranks send 56 of 64 parts through one adapter; of a ring each adapter carries the buffer once.
        let least = 8.0 * 100e6 * 56.0 / 64.0 / 11e3;
        assert!((least..2.0 * least).contains(&ordered(shared, &work)));
        assert!(ordered(own, &work) < ordered(shared, &work) / 3.0);
        let ratio = all_reduce(own, &work) / all_reduce(shared, &work);
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn short_buffers_go_up_a_tree() {
        let network = on("10 Gb a GPU");
        let work = Work::new(1000, 1024, 1024);
        // Ten levels up and down, and not 2,046 hops.
        let bytes = 4000.0 / (0.9 * 0.25 * 1.1e3);
        close(all_reduce(network, &work), 15.0 + 3.0 * 4000.0 / 2e6 + 2.0 * (300.0 + bytes));
    }
}
