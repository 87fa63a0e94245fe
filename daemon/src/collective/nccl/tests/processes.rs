//! Ranks in processes of their own: this test program, started again. Each takes its orders by lines, and answers
//! each by a line.

mod rank;

use super::stand_in;
use crate::collective::tests::{SLICES, values};
use crate::numerics::tree::{Node, sum};
use rank::{AT, BEGUN, FOLDER, digest};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);
/// Milliseconds that tell an end that was brought about from one that comes by itself, after 20 s, on a machine that
/// does other things besides. What it takes is printed.
const BOUND: u64 = 10_000;

/// A rank's process. It is killed when the test is over.
struct Rank {
    process: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
    address: String,
}

impl Drop for Rank {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Rank {
    fn start(folder: &TempDir, faults: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", rank::NAME])
            .env(FOLDER, folder.path())
            .env("PTV2_STAND_IN_DIR", folder.path())
            .env("PTV2_STAND_IN", faults)
            .env("PTV2_STAND_IN_CALLS", folder.path().join(BEGUN))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, answers) = channel();
        let said = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            // The test's name may stand before the first answer.
            let lines = said.lines().map_while(Result::ok);
            for answer in lines.filter_map(|line| Some(line.split_once(AT)?.1.to_owned())) {
                if sender.send(answer).is_err() {
                    return;
                }
            }
        });
        let orders = process.stdin.take().unwrap();
        let mut started = Self { process, orders, answers, address: String::new() };
        started.address = started.answer();
        started
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    fn answer(&self) -> String {
        self.answers.recv_timeout(DEADLINE).unwrap()
    }

    fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }
}

/// Ranks with these faults, in a folder of their own, which must be empty at the end.
struct Group {
    ranks: Vec<Rank>,
    generation: u64,
    folder: TempDir,
}

impl Group {
    fn start(faults: &[&str]) -> Self {
        stand_in();
        let folder = tempfile::tempdir().unwrap();
        let ranks = faults.iter().map(|faults| Rank::start(&folder, faults)).collect();
        Self { ranks, generation: 0, folder }
    }

    /// The next generation of all processes that are left; a rank's time to connect is told in milliseconds.
    fn join_within(&mut self, ms: impl Fn(usize) -> u64) -> Vec<String> {
        self.generation += 1;
        let addresses: Vec<&str> = self.ranks.iter().map(|rank| rank.address.as_str()).collect();
        let (generation, addresses) = (self.generation, addresses.join(","));
        self.all(|rank| format!("join {generation} {rank} {addresses} {}", ms(rank)))
    }

    fn join(&mut self) {
        let found = self.join_within(|_| 20_000);
        assert!(found.iter().all(|answer| answer == "ok"), "{found:?}");
    }

    /// Has all do something side by side.
    fn all(&mut self, order: impl Fn(usize) -> String) -> Vec<String> {
        for (number, rank) in self.ranks.iter_mut().enumerate() {
            rank.tell(&order(number));
        }
        self.ranks.iter().map(Rank::answer).collect()
    }

    /// All reduce, and have the tree's bits.
    fn reduces(&mut self, step: u64) {
        let expected = format!("sum {}", digest(&sum(Node::root(SLICES), &mut values)));
        let found = self.all(|_| format!("reduce {step}"));
        assert!(found.iter().all(|answer| *answer == expected), "{found:?}, not {expected}");
    }

    fn leave(&mut self) {
        self.all(|_| "leave".into());
    }
}

/// What a rank has said of an error: after how many milliseconds, from the abort where there was one, and which.
fn error(answer: &str) -> (u64, String) {
    let rest = answer.strip_prefix("error ").unwrap_or_else(|| panic!("no error: {answer}"));
    let (ms, what) = rest.split_once(' ').unwrap();
    (ms.parse().unwrap(), what.to_owned())
}

#[test]
fn processes_sum_to_the_trees_bits_in_one_generation_after_the_other() {
    let mut group = Group::start(&["", "", ""]);
    for step in 0..2 {
        group.join();
        group.reduces(step);
        group.reduces(step + 1);
        group.leave();
    }
    // The next is smaller, and sums to the same.
    drop(group.ranks.pop());
    group.join();
    group.reduces(9);
    group.leave();
    let left = group.folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.map(|name| name.into_string().unwrap()).eq([BEGUN]), "files are left behind");
}

#[test]
fn a_ring_gives_all_ranks_the_same() {
    let mut group = Group::start(&["", "", ""]);
    group.all(|_| "ring".into());
    group.join();
    let found = group.all(|_| "reduce 0".into());
    assert!(found[0].starts_with("sum "), "{found:?}");
    assert!(found.iter().all(|answer| *answer == found[0]), "{found:?}");
}

#[test]
fn an_asynchronous_error_is_this_ranks_own_and_the_next_generation_goes_on() {
    // The second operation of a reduction is its all-gather.
    let mut group = Group::start(&["", "async-error=2"]);
    group.join();
    let [one, other] = &mut group.ranks[..] else { panic!() };
    one.tell("reduce 0");
    let (_, own) = error(&other.ask("reduce 0"));
    assert!(own.starts_with("Transport(") && own.contains("a cable was pulled"), "{own}");
    assert!(own.contains("unhandled system error") && own.contains("on rank 1"), "{own}");
    other.ask("leave");
    let (_, theirs) = error(&one.answer());
    assert!(theirs.starts_with("PeerLost { rank: 1"), "{theirs}");
    one.ask("leave");
    group.join();
    group.reduces(0);
}

#[test]
fn a_refused_call_is_named() {
    let mut group = Group::start(&["", "refuse=ncclAllGather"]);
    group.join();
    let [one, other] = &mut group.ranks[..] else { panic!() };
    one.tell("reduce 0");
    let (_, own) = error(&other.ask("reduce 0"));
    assert!(own.contains("ncclAllGather failed on rank 1"), "{own}");
    assert!(own.contains("ncclAllGather was told to fail"), "{own}");
    other.ask("leave");
    let (_, theirs) = error(&one.answer());
    assert!(theirs.starts_with("PeerLost { rank: 1"), "{theirs}");
}

/// A peer hangs in the midst of an operation: it lives, so only an abort ends the wait.
#[test]
fn a_hang_is_ended_by_an_abort_from_another_thread() {
    let mut group = Group::start(&["", "hang=1"]);
    group.join();
    let [one, other] = &mut group.ranks[..] else { panic!() };
    other.tell("reduce 0");
    one.ask("abort-at hang");
    let (ms, own) = error(&one.ask("reduce 0"));
    assert_eq!(own, "Aborted");
    println!("ended by an abort after {ms} ms");
    assert!(ms < BOUND, "{ms} ms");
    one.ask("leave");
    let (_, theirs) = error(&other.answer());
    assert!(theirs.starts_with("PeerLost { rank: 0"), "{theirs}");
    other.ask("leave");
    group.join();
    group.reduces(0);
}

/// A call that should not block does, an abort fails, and an abort hangs: none of it holds up the device thread
/// without bound.
#[test]
fn what_should_not_block_is_not_waited_for() {
    for fault in ["stuck=1", "hang=1,abort-fails", "hang=1,abort-hangs=20000"] {
        let mut group = Group::start(&[fault, ""]);
        group.join();
        let [one, other] = &mut group.ranks[..] else { panic!() };
        other.tell("reduce 0");
        one.ask(&format!("abort-at {}", &fault[..fault.find('=').unwrap()]));
        let (ms, own) = error(&one.ask("reduce 0"));
        assert_eq!(own, "Aborted", "{fault}");
        println!("{fault}: ended by an abort after {ms} ms");
        assert!(ms < BOUND, "{fault}: {ms} ms");
    }
}

/// Whoever looks after an operation, or begins the next, does not wait for an abort that hangs.
#[test]
fn an_operations_thread_is_told_of_the_end_while_the_abort_hangs() {
    let mut group = Group::start(&["hang=1,abort-hangs=20000"]);
    let (ms, found) = error(&group.ranks[0].ask("beside-an-abort"));
    println!("told after {ms} ms: {found}");
    assert!(found.contains("Ended { operation: \"ncclCommGetAsyncError\""), "{found}");
    assert!(found.contains("Ended { operation: \"ncclAllReduce\""), "{found}");
    assert!(ms < BOUND, "{ms} ms");
}

/// A call does not return: an abort goes before it after its patience, and whoever waits for it goes at once.
#[test]
fn whoever_waits_for_a_stuck_call_is_told_of_the_end_at_once() {
    let mut group = Group::start(&["stuck=1"]);
    let (ms, found) = error(&group.ranks[0].ask("behind-a-stuck-call"));
    println!("told after {ms} ms: {found}");
    assert!(found.starts_with("Ended { operation: \"ncclCommGetAsyncError\""), "{found}");
    let (_, ended) = found.split_once("ncclAllReduce ").unwrap();
    let ended: u64 = ended.parse().unwrap();
    assert!((1000..BOUND).contains(&ended), "{found}");
    assert!(ms < ended, "{ms} ms, and the call ended after {ended}");
}

#[test]
fn a_killed_process_is_named_and_the_others_go_on() {
    let mut group = Group::start(&["", "", "hang=1"]);
    group.join();
    group.ranks.iter_mut().for_each(|rank| rank.tell("reduce 0"));
    // All are in the midst of it now, or soon.
    let mut last = group.ranks.pop().unwrap();
    last.process.kill().unwrap();
    for rank in &group.ranks {
        let (_, found) = error(&rank.answer());
        assert!(found.starts_with("PeerLost { rank: 2"), "{found}");
    }
    group.leave();
    group.join();
    group.reduces(0);
}

#[test]
fn a_late_peer_is_waited_for_and_named_after_the_deadline() {
    let mut group = Group::start(&["", "late=4000"]);
    group.join();
    group.reduces(0);
    group.leave();
    let found = group.join_within(|_| 300);
    let (ms, first) = error(&found[0]);
    assert!(first.starts_with("PeerLost { rank: 1, silent: true"), "{first}");
    assert!(first.contains("it sent nothing for 300ms") && ms >= 300, "{ms} ms: {first}");
    error(&found[1]);
}

/// All have begun, and NCCL does not connect them: nobody is to blame, so people are told where to look. Rank 1 never
/// comes, and is the first whose time is over; rank 0 hears that it has gone.
#[test]
fn ranks_that_cannot_connect_are_told_where_to_look() {
    let mut group = Group::start(&["", "absent"]);
    let found = group.join_within(|rank| [20_000, 5_000][rank]);
    let (_, first) = error(&found[1]);
    assert!(first.starts_with("Transport(") && first.contains("NCCL_SOCKET_IFNAME"), "{first}");
    let (_, other) = error(&found[0]);
    assert!(other.starts_with("PeerLost { rank: 1"), "{other}");
}
