//! What a reduction over TCP takes, each rank on a machine of its own, in µs.

use crate::networks::{HOST, Network};
use crate::work::Work;

/// Messages to and from each peer, twice; bytes as fast as the wire or one core, whichever is slower.
pub(crate) fn ordered(network: &Network, work: &Work) -> f64 {
    let messages = 2.0 * (work.world() - 1) as f64 * HOST.message;
    let sent = (0..work.world()).map(|rank| work.sent_by(rank)).max().unwrap_or(0) as f64;
    let sharing = (network.node / network.adapters) as f64;
    let byte = HOST.byte.max(sharing / network.between.bandwidth);
    2.0 * network.tcp + messages + sent * byte
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::ALL;

    #[test]
    fn eight_workers_by_hand() {
        let work = Work::new(1_000_000, 8, 8);
        for network in ALL.iter().filter(|network| network.node == 1) {
            // Two buffers less an eighth, and headers; two messages to each of 7 peers.
            let byte = HOST.byte.max(1.0 / network.between.bandwidth);
            let expected = 7e6 * byte + 14.0 * HOST.message + 2.0 * network.tcp;
            let found = ordered(network, &work);
            assert!((expected..expected + 2.0).contains(&found), "{found}, expected {expected}");
        }
    }
}
