//! A network between the processes that a test can cut: every connection goes through a proxy, which
//! knows whose it is.
//!
//! A cut passes no bytes in one direction between two nodes, and keeps what is connected; new
//! connections are accepted and say nothing. What was sent meanwhile arrives when the cut is healed,
//! as TCP would send it again.

use super::clock::{now, within};
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// A worker's slot; or the coordinator.
pub(crate) type Node = usize;

/// A socket that is closed by a reset says so at once.
const AT_ONCE: Option<Duration> = Some(Duration::ZERO);

/// One connection through a proxy: the dialler's end and the listener's.
struct Connection {
    nodes: [Node; 2],
    sockets: [TcpStream; 2],
    is_reset: AtomicBool,
}

impl Connection {
    /// Ends it in both directions as a crashed machine would: what was on its way is lost.
    fn reset(&self) {
        self.is_reset.store(true, Ordering::SeqCst);
        for socket in &self.sockets {
            // An error means that the connection is gone already. The reset itself goes out when both
            // threads that carry have let go.
            drop(SockRef::from(socket).set_linger(AT_ONCE));
            drop(socket.shutdown(Shutdown::Read));
        }
    }
}

#[derive(Default)]
struct Rules {
    /// Directions that pass nothing.
    cuts: Vec<(Node, Node)>,
    /// Process of each worker, by slot.
    processes: Vec<(Node, u32)>,
    connections: Vec<Weak<Connection>>,
    ends: bool,
}

/// What all proxies of a test share.
#[derive(Default)]
pub(crate) struct Network {
    rules: Mutex<Rules>,
    changed: Condvar,
}

impl Network {
    /// A slot has another process.
    pub(crate) fn occupied(&self, slot: Node, process: u32) {
        let mut rules = self.rules.lock().unwrap();
        rules.processes.retain(|(one, _)| *one != slot);
        rules.processes.push((slot, process));
    }

    /// Passes nothing from one node to another from now on.
    pub(crate) fn cut(&self, directions: &[(Node, Node)]) {
        self.rules.lock().unwrap().cuts.extend(directions);
    }

    /// Passes everything again, and first what has waited.
    pub(crate) fn heal(&self) {
        self.rules.lock().unwrap().cuts.clear();
        self.changed.notify_all();
    }

    /// Resets the newest connection between two nodes, whoever dialled; false if there is none.
    pub(crate) fn reset(&self, one: Node, other: Node) -> bool {
        let rules = self.rules.lock().unwrap();
        let live = rules.connections.iter().rev().filter_map(Weak::upgrade);
        let between = |connection: &Arc<Connection>| {
            let mut nodes = connection.nodes;
            nodes.sort_unstable();
            nodes == [one.min(other), one.max(other)] && !connection.is_reset.load(Ordering::SeqCst)
        };
        let found = live.into_iter().find(between);
        if let Some(connection) = &found {
            connection.reset();
        }
        drop(rules);
        self.changed.notify_all();
        found.is_some()
    }

    /// Waits while a direction is cut, as bytes on their way do.
    fn passes(&self, connection: &Connection, direction: (Node, Node)) {
        let mut rules = self.rules.lock().unwrap();
        while rules.cuts.contains(&direction)
            && !rules.ends
            && !connection.is_reset.load(Ordering::SeqCst)
        {
            rules = self.changed.wait(rules).unwrap();
        }
    }

    /// The slot whose process holds the other end of a connection.
    fn dialler(&self, near: &TcpStream) -> Option<Node> {
        let processes = self.rules.lock().unwrap().processes.clone();
        let ends = near.peer_addr().ok().zip(near.local_addr().ok())?;
        // The kernel's table may lack a line while others change.
        let inode = within(Duration::from_millis(100), || inode(ends))?;
        let socket = format!("socket:[{inode}]");
        let holds = |process: u32| {
            let files = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?;
            let mut links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
            links.any(|link| link.as_os_str() == socket.as_str()).then_some(())
        };
        processes.into_iter().find(|(_, process)| holds(*process).is_some()).map(|(slot, _)| slot)
    }

    fn carry(self: &Arc<Self>, nodes: [Node; 2], near: TcpStream, far: TcpStream) {
        let nodelay = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
        if nodelay.is_err() {
            return;
        }
        let sockets = [near, far];
        let connection = Arc::new(Connection { nodes, sockets, is_reset: AtomicBool::new(false) });
        let mut rules = self.rules.lock().unwrap();
        if rules.ends {
            return;
        }
        rules.connections.retain(|one| one.strong_count() > 0);
        rules.connections.push(Arc::downgrade(&connection));
        drop(rules);
        for from in [0, 1] {
            let (network, connection) = (Arc::clone(self), Arc::clone(&connection));
            std::thread::spawn(move || pump(&network, &connection, from));
        }
    }

    /// Ends all connections.
    fn end(&self) {
        let mut rules = self.rules.lock().unwrap();
        rules.ends = true;
        rules.connections.iter().filter_map(Weak::upgrade).for_each(|one| one.reset());
        drop(rules);
        self.changed.notify_all();
    }
}

/// Carries what one end sends to the other.
fn pump(network: &Network, connection: &Connection, from: usize) {
    let direction = (connection.nodes[from], connection.nodes[1 - from]);
    let [mut source, mut sink] = [&connection.sockets[from], &connection.sockets[1 - from]];
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = source.read(&mut buffer);
        network.passes(connection, direction);
        if connection.is_reset.load(Ordering::SeqCst) {
            return;
        }
        match read {
            Ok(0) => {
                drop(sink.shutdown(Shutdown::Write));
                return;
            }
            Ok(length) if sink.write_all(&buffer[..length]).is_ok() => {}
            Ok(_) | Err(_) => {
                connection.reset();
                network.changed.notify_all();
                return;
            }
        }
    }
}

/// The kernel's number of the socket with these addresses: its own, and that of whom it dialled. Its
/// own alone would not do: a port serves connections to several others at once.
fn inode((own, other): (SocketAddr, SocketAddr)) -> Option<String> {
    let (own, other) = (in_table(own)?, in_table(other)?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.get(1..3) == Some(&[own.as_str(), other.as_str()]))?;
    line.get(9).map(|inode| (*inode).to_owned())
}

/// An address as the kernel's table has it.
fn in_table(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(v4) = address else { return None };
    let host = u32::from_ne_bytes(v4.ip().octets());
    Some(format!("{host:08X}:{:04X}", v4.port()))
}

/// Who dials a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Diallers {
    /// This node alone.
    Only(Node),
    /// Any worker: whose socket it is tells.
    Workers,
}

/// A listener in front of one node.
pub(crate) struct Proxy {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    network: Arc<Network>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on any free port. It has no target yet.
    pub(crate) fn in_front_of(node: Node, diallers: Diallers, network: &Arc<Network>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (target, ends) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (target, ends) = (Arc::clone(&target), Arc::clone(&ends));
            let network = Arc::clone(network);
            std::thread::spawn(move || {
                for near in listener.incoming().flatten() {
                    if ends.load(Ordering::SeqCst) {
                        return;
                    }
                    let target = *target.lock().unwrap();
                    let far = target.and_then(|to| TcpStream::connect(to).ok());
                    let dialler = match diallers {
                        Diallers::Only(dialler) => Some(dialler),
                        Diallers::Workers => network.dialler(&near),
                    };
                    // Who has died meanwhile, or is not there, is refused: the connection is closed.
                    if let (Some(dialler), Some(far)) = (dialler, far) {
                        network.carry([dialler, node], near, far);
                    }
                }
            })
        };
        Self { address, target, network: Arc::clone(network), ends, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections go from now on.
    pub(crate) fn leads_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = Some(target);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.network.end();
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the thread, which waits for a connection.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[test]
fn a_cut_holds_bytes_back_and_a_reset_ends_a_connection() {
    let network = Arc::new(Network::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::in_front_of(1, Diallers::Only(0), &network);
    proxy.leads_to(listener.local_addr().unwrap());
    let mut near = TcpStream::connect(proxy.address()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let mut byte = [0];
    near.write_all(b"a").unwrap();
    far.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"a");

    network.cut(&[(0, 1)]);
    near.write_all(b"b").unwrap();
    far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let began = now();
    assert!(far.read_exact(&mut byte).is_err());
    assert!(began.elapsed() >= Duration::from_millis(40));
    // The other direction passes.
    far.write_all(b"c").unwrap();
    near.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"c");
    network.heal();
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    far.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"b");

    assert!(network.reset(1, 0));
    let error = near.read(&mut byte).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(!network.reset(1, 0), "it is gone");
}
