//! A coordinator and its workers as processes of their own, each connection of which goes through a
//! proxy. All of it ends with the test, also when the test fails.

use super::clock::within;
use super::proxy::{Diallers, Network, Node, Proxy};
use super::pulses::{Pulse, Watch, trains};
use super::signals::signal;
use crate::e2e::harness::{Cluster, binary, coordinator_file, device, root};
use ptv2_common::place::PulseRecord;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Workers at most.
pub(crate) const SLOTS: usize = 4;
/// The coordinator's number among the nodes; the workers' are their slots.
pub(crate) const COORDINATOR: Node = SLOTS;
/// Anything that takes longer than this has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A worker's process.
pub(crate) struct Worker {
    child: Child,
    pub(crate) pulse: Arc<Pulse>,
}

impl Worker {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// A place for a worker: whoever is started here is reached through the same proxies.
struct Slot {
    worker: Option<Worker>,
    session: Proxy,
    reduction: Proxy,
}

/// The processes of a run.
pub(crate) struct Nest {
    /// Folder and client.
    pub(crate) cluster: Cluster,
    pub(crate) network: Arc<Network>,
    pub(crate) watch: Watch,
    data: PathBuf,
    coordinator: Option<Child>,
    slots: Vec<Slot>,
    started: u32,
    seed: u64,
}

impl Nest {
    /// Starts a coordinator, and no worker yet.
    pub(crate) fn new(data: &Path, seed: u64) -> Self {
        let network = Arc::new(Network::default());
        let slot = |number| Slot {
            worker: None,
            session: Proxy::in_front_of(COORDINATOR, Diallers::Only(number), &network),
            reduction: Proxy::in_front_of(number, Diallers::Workers, &network),
        };
        let slots = (0..SLOTS).map(slot).collect();
        let mut nest = Self {
            cluster: Cluster::new("ptv2d"),
            network,
            watch: Watch::start(),
            data: data.to_owned(),
            coordinator: None,
            slots,
            started: 0,
            seed,
        };
        nest.start_coordinator("127.0.0.1:0");
        let address = nest.cluster.listen().parse().unwrap();
        nest.slots.iter().for_each(|slot| slot.session.leads_to(address));
        nest
    }

    fn start_coordinator(&mut self, listen: &str) {
        let (state, store) = (self.cluster.state(), self.cluster.store());
        let limits = "growth_delay = \"100ms\"\npair_cooldown = \"10s\"\n";
        let config = coordinator_file(listen, (&state, &store), &self.data, limits);
        let file = self.cluster.file("coordinator.toml", &config);
        let address = state.join("address");
        drop(std::fs::remove_file(&address));
        let child = Command::new(binary("ptv2d"))
            .args(["coordinator", "--config", &file])
            .stderr(self.log("coordinator.log"))
            .spawn()
            .unwrap();
        self.coordinator = Some(child);
        let is_there = || std::fs::read_to_string(&address).ok().filter(|url| url.ends_with('\n'));
        within(PATIENCE, is_there).unwrap_or_else(|| panic!("no coordinator"));
    }

    /// Kills the coordinator.
    pub(crate) fn kill_coordinator(&mut self) {
        if let Some(mut child) = self.coordinator.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again, in the same folder and on the same port.
    pub(crate) fn restart_coordinator(&mut self) {
        let listen = self.cluster.listen();
        self.start_coordinator(&listen);
    }

    /// Waits until the coordinator knows the workers that there are, and no others.
    pub(crate) fn are_registered(&self) {
        let count = self.occupied().len();
        let are = || (self.cluster.json(&["workers"]).as_array()?.len() == count).then_some(());
        within(PATIENCE, are).unwrap_or_else(|| panic!("not {count} workers"));
    }

    fn log(&self, name: &str) -> File {
        let path = self.cluster.folder.path().join(name);
        File::options().create(true).append(true).open(path).unwrap()
    }

    /// Starts a worker in a slot that is empty.
    pub(crate) fn spawn(&mut self, slot: Node) {
        self.started += 1;
        let path = self.cluster.folder.path().join(format!("pulse-{slot}-{}", self.started));
        let listen = own_port(slot);
        let place = &self.slots[slot];
        assert!(place.worker.is_none(), "slot {slot} has a worker");
        place.reduction.leads_to(listen);
        let mut child = Command::new(binary("ptv2d"))
            .args(["worker", "--threads", "1", "--exit-with-parent", "--device", &device()])
            .args(["--coordinator", &format!("http://{}", place.session.address())])
            .args(["--reduce-listen", &listen.to_string()])
            .args(["--reduce-advertise", &place.reduction.address().to_string()])
            .arg("--token-file")
            .arg(self.cluster.state().join("worker-token"))
            .arg("--pulse-file")
            .arg(&path)
            // Held open as long as this process lives, so that no worker outlives a killed test.
            .stdin(Stdio::piped())
            .stderr(self.log(&format!("worker-{slot}.log")))
            .spawn()
            .unwrap();
        assert!(child.try_wait().unwrap().is_none(), "{:?}", child.wait());
        self.network.occupied(slot, child.id());
        let pulse = Arc::new(Pulse::at(path));
        self.watch.add(Arc::clone(&pulse));
        self.slots[slot].worker = Some(Worker { child, pulse });
    }

    /// Takes a killed worker's remains away, and gives its pulse.
    pub(crate) fn bury(&mut self, slot: Node) -> Arc<Pulse> {
        let mut worker = self.slots[slot].worker.take().unwrap();
        worker.child.wait().unwrap();
        self.watch.remove(&worker.pulse);
        worker.pulse
    }

    /// Has this many workers, in the first slots.
    pub(crate) fn resize(&mut self, count: usize) {
        for slot in 0..SLOTS {
            match (self.slots[slot].worker.is_some(), slot < count) {
                (false, true) => self.spawn(slot),
                (true, false) => {
                    signal(self.worker(slot).pid(), libc::SIGKILL);
                    self.bury(slot);
                }
                _ => {}
            }
        }
        self.are_registered();
    }

    pub(crate) fn worker(&self, slot: Node) -> &Worker {
        self.slots[slot].worker.as_ref().unwrap()
    }

    /// Slots that have a worker.
    pub(crate) fn occupied(&self) -> Vec<Node> {
        (0..SLOTS).filter(|slot| self.slots[*slot].worker.is_some()).collect()
    }

    /// What the live workers say of the present job, by slot.
    pub(crate) fn records(&self) -> Vec<(Node, PulseRecord)> {
        let is_of = |slot: &Slot, pulse: &Arc<Pulse>| {
            slot.worker.as_ref().is_some_and(|worker| Arc::ptr_eq(&worker.pulse, pulse))
        };
        let slot_of = |pulse: &Arc<Pulse>| self.slots.iter().position(|slot| is_of(slot, pulse));
        let records = self.watch.records();
        records.into_iter().filter_map(|(pulse, record)| Some((slot_of(&pulse)?, record))).collect()
    }

    /// Of those, the workers that train in the newest generation that any of them serves.
    pub(crate) fn training(&self) -> Vec<(Node, PulseRecord)> {
        let records = self.records();
        let newest = records.iter().map(|(_, record)| record.generation).max();
        let is_in = |record: &PulseRecord| trains(record) && Some(record.generation) == newest;
        records.into_iter().filter(|(_, record)| is_in(record)).collect()
    }

    /// A process that ended by itself is a failure.
    pub(crate) fn all_live(&mut self) {
        let coordinator =
            self.coordinator.iter_mut().map(|child| ("the coordinator".into(), child));
        let workers = self.slots.iter_mut().enumerate().filter_map(|(slot, place)| {
            Some((format!("the worker of slot {slot}"), &mut place.worker.as_mut()?.child))
        });
        for (who, child) in coordinator.chain(workers) {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{who} ended by itself: {status}");
            }
        }
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        let workers =
            self.slots.iter_mut().filter_map(|slot| Some(&mut slot.worker.as_mut()?.child));
        for child in workers.chain(&mut self.coordinator) {
            // An error means that it has ended.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() || super::asked::<u8>("KEEP").is_some() {
            self.keep_logs();
        }
    }
}

impl Nest {
    /// Adds a line to the log of what was done to the processes.
    pub(crate) fn note(&self, line: &str) {
        writeln!(self.log("faults.log"), "{line}").unwrap();
    }

    /// Copies the processes' logs to where they can be read afterwards; of a failure it prints their ends.
    fn keep_logs(&self) {
        let kept = root().join(format!("target/chaos-{}", self.seed));
        drop(std::fs::create_dir_all(&kept));
        println!("seed {}: whole logs are in {}", self.seed, kept.display());
        let Ok(entries) = std::fs::read_dir(self.cluster.folder.path()) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = path.file_name().filter(|_| path.is_file()) else { continue };
            drop(std::fs::copy(&path, kept.join(name)));
            if std::thread::panicking() && path.extension().is_some_and(|one| one == "log") {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(40)..];
                println!("--- {}, its end:\n{}", name.display(), last.join("\n"));
            }
        }
    }
}

/// A port that nobody else takes between its choice and its use: of an address of the loopback
/// network that is this process's and slot's own.
fn own_port(slot: Node) -> SocketAddr {
    let [_, high, low, last] = std::process::id().to_be_bytes();
    let slot = u8::try_from(slot).unwrap();
    let host = Ipv4Addr::new(127, 64 + slot * 16 + (high & 15), low, last);
    let probe = TcpListener::bind((IpAddr::V4(host), 0)).unwrap();
    probe.local_addr().unwrap()
}
