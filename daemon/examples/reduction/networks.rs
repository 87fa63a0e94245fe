//! What is assumed of networks and GPUs. Nothing here was measured but [`HOST`].
//!
//! Hops are of the size of those in NCCL's own tables (`src/graph/tuning.cc`, for NVLink and for InfiniBand); those of
//! 10 Gb are what TCP through the kernel takes. Bandwidths are a link's nominal one less what protocols take:
//! 450 GB/s a direction for an H100's NVLink, of which two thirds are reckoned with, and nine tenths of an adapter's.

use crate::loopback::Constants;

/// Of one core, over TCP, as `docs/scale.md` has measured it: the message as small ones alone, the byte as it was fitted.
pub(crate) const HOST: Constants = Constants { message: 21.0, byte: 3.39e-04 };

/// µs that the host takes to check and queue one send or receive of NCCL.
pub(crate) const QUEUE: f64 = 1.0;
/// µs of one addition of partial sums by torch, with the view that it needs: it is the launch that takes them.
pub(crate) const ADD: f64 = 8.0;
/// µs that launching and finding finished one NCCL operation takes.
pub(crate) const LAUNCH: f64 = 15.0;
/// Bytes a µs that a GPU's memory moves.
pub(crate) const MEMORY: f64 = 2e6;

/// What connects two GPUs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// µs of a hop of a ring or tree, by NCCL's protocol for short and for long buffers.
    pub(crate) hop: [f64; 2],
    /// µs of one message more to another peer.
    pub(crate) message: f64,
    /// Bytes a µs.
    pub(crate) bandwidth: f64,
}

/// GPUs in nodes, and what connects the nodes.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) name: &'static str,
    /// GPUs of a node, joined by NVLink.
    pub(crate) node: usize,
    /// Adapters of a node.
    pub(crate) adapters: usize,
    /// One adapter.
    pub(crate) between: Link,
    /// µs that a TCP message takes from one node to another.
    pub(crate) tcp: f64,
}

pub(crate) const NVLINK: Link = Link { hop: [0.6, 3.5], message: 1.0, bandwidth: 300e3 };

const RDMA: Link = Link { hop: [4.0, 14.0], message: 3.0, bandwidth: 0.0 };
const SOCKETS: Link = Link { hop: [30.0, 50.0], message: 15.0, bandwidth: 0.0 };

/// Of which tables are made.
pub(crate) static ALL: [Network; 4] = [
    Network {
        name: "NVLink, 400 Gb a GPU",
        node: 8,
        adapters: 8,
        between: Link { bandwidth: 45e3, ..RDMA },
        tcp: 20.0,
    },
    Network {
        name: "100 Gb a node of 8",
        node: 8,
        adapters: 1,
        between: Link { bandwidth: 11e3, ..RDMA },
        tcp: 25.0,
    },
    Network {
        name: "100 Gb a GPU",
        node: 1,
        adapters: 1,
        between: Link { bandwidth: 11e3, ..RDMA },
        tcp: 25.0,
    },
    Network {
        name: "10 Gb a GPU",
        node: 1,
        adapters: 1,
        between: Link { bandwidth: 1.1e3, ..SOCKETS },
        tcp: 40.0,
    },
];
