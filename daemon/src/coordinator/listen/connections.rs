//! The open connections, bounded in all and for each address. Where there are too many, the one that has been
//! without a request for longest gives way: idle connections keep nobody out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Those that are open.
pub(super) struct Connections {
    table: Mutex<Table>,
    in_all: usize,
    per_peer: usize,
}

#[derive(Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, (IpAddr, Arc<Work>)>,
    of_peer: BTreeMap<IpAddr, usize>,
    is_full: bool,
}

/// A connection's place. It is free again when this is dropped.
pub(super) struct Place {
    number: u64,
    connections: Arc<Connections>,
    work: Arc<Work>,
}

/// What a connection has to do.
#[derive(Default)]
struct Work {
    requests: AtomicUsize,
    gives_way: CancellationToken,
}

/// A request that is being answered. Its connection does not give way meanwhile.
pub(super) struct Busy {
    work: Arc<Work>,
    for_good: AtomicBool,
}

impl Connections {
    pub(super) fn new(in_all: usize, per_peer: usize) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), in_all, per_peer })
    }

    /// A place for a connection of a peer. Nothing, where there is none and all others are at work.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = whose(peer);
        let mut table = self.table();
        let of_peer = table.of_peer.get(&peer).copied().unwrap_or(0);
        let has_place = if of_peer >= self.per_peer {
            table.make_way(Some(peer))
        } else {
            table.open.len() < self.in_all || table.make_way(None)
        };
        if !has_place {
            if !std::mem::replace(&mut table.is_full, true) {
                tracing::warn!(%peer, "too many connections: new ones are closed");
            }
            return None;
        }
        table.is_full = false;
        let (number, work) = (table.next, Arc::<Work>::default());
        table.next += 1;
        table.open.insert(number, (peer, Arc::clone(&work)));
        *table.of_peer.entry(peer).or_default() += 1;
        Some(Place { number, connections: Arc::clone(self), work })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Takes the place of the oldest connection (of a peer, or at all) that has nothing to do.
    fn make_way(&mut self, of: Option<IpAddr>) -> bool {
        let idle = self.open.iter().find(|(_, (peer, work))| {
            of.is_none_or(|of| of == *peer) && work.requests.load(Ordering::Acquire) == 0
        });
        let Some(number) = idle.map(|(number, _)| *number) else { return false };
        if let Some((_, work)) = self.open.get(&number) {
            work.gives_way.cancel();
        }
        self.free(number);
        true
    }

    fn free(&mut self, number: u64) {
        let Some((peer, _)) = self.open.remove(&number) else { return };
        if let Some(count) = self.of_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.of_peer.remove(&peer);
            }
        }
    }
}

impl Place {
    /// A request has come.
    pub(super) fn begin(&self) -> Busy {
        self.work.requests.fetch_add(1, Ordering::AcqRel);
        Busy { work: Arc::clone(&self.work), for_good: AtomicBool::new(false) }
    }

    /// Waits until the connection has to make way for another.
    pub(super) async fn gives_way(&self) {
        self.work.gives_way.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.table().free(self.number);
    }
}

impl Busy {
    /// The connection is another's from now on, which has no requests: a worker's session.
    pub(super) fn stays(&self) {
        self.for_good.store(true, Ordering::Release);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if !self.for_good.load(Ordering::Acquire) {
            self.work.requests.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Whose an address is: of IPv6 a network of 64 bits is one machine's to choose from.
pub(in crate::coordinator) fn whose(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn has_given_way(place: &Place) -> bool {
        place.work.gives_way.is_cancelled()
    }

    #[test]
    fn the_longest_idle_gives_way_and_never_one_at_work() {
        let connections = Connections::new(3, 3);
        let places: Vec<Place> = (0..3).map(|n| connections.take(ip(n)).unwrap()).collect();
        let busy = places[0].begin();
        let fourth = connections.take(ip(9)).unwrap();
        let given: Vec<bool> = places.iter().map(has_given_way).collect();
        assert_eq!(given, [false, true, false]);
        let (_third, _fourth) = (places[2].begin(), fourth.begin());
        assert!(connections.take(ip(9)).is_none(), "all are at work");
        drop(busy);
        assert!(connections.take(ip(9)).is_some());
        assert!(has_given_way(&places[0]));
    }

    #[test]
    fn one_peer_takes_places_from_itself_only() {
        let connections = Connections::new(10, 2);
        let other = connections.take(ip(1)).unwrap();
        let (first, second) = (connections.take(ip(2)).unwrap(), connections.take(ip(2)).unwrap());
        let _third = connections.take(ip(2)).unwrap();
        assert!(has_given_way(&first) && !has_given_way(&second) && !has_given_way(&other));
    }

    #[test]
    fn a_place_is_free_again_but_for_sessions_that_stay() {
        let connections = Connections::new(1, 1);
        let place = connections.take(ip(1)).unwrap();
        place.begin().stays();
        assert!(connections.take(ip(1)).is_none());
        drop(place);
        assert!(connections.take(ip(1)).is_some());
        assert!(connections.table().open.is_empty() && connections.table().of_peer.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let whose = |text: &str| whose(text.parse().unwrap()).to_string();
        assert_eq!(whose("fd00::1:2:3:4"), "fd00::");
        assert_eq!(whose("::ffff:10.0.0.7"), "10.0.0.7");
        assert_eq!(whose("10.0.0.7"), "10.0.0.7");
    }
}
