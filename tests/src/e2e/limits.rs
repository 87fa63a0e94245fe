//! What slow and greedy clients do to a coordinator, and to a job that trains meanwhile: nothing.

use super::harness::usage::Growth;
use super::harness::{Cluster, DEADLINE, coordinator_file, hash, poll, superglue, tiny_cb};
use crate::attack::GROWTH_MAX;
use crate::attack::greedy::slow;
use crate::attack::pours::pours;
use ptv2_common::api::LogLevel;
use ptv2_common::ids::JobId;
use ptv2_daemon::coordinator::journal::{Entry, Journal};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Short, so that the test is.
const HTTP: &str = "[http]\nhead_timeout = \"3s\"\nbody_timeout = \"1s\"\nwrite_timeout = \"1s\"\n\
                    streams_per_token = 20\nrefusals_per_minute = 5\n";
/// Lines of a log, of 8 KiB each.
const LINES: usize = 1500;

/// A coordinator under attack.
struct Target {
    cluster: Cluster,
    address: SocketAddr,
    token: String,
}

impl Target {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// The head of a request, without the empty line at its end.
    fn head(&self, request: &str) -> String {
        format!("{request} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {}\r\n", self.token)
    }
}

#[test]
fn slow_and_greedy_clients_hold_nobody_up() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::new("ptv2d");
    let config = |cluster: &Cluster, listen: &str| {
        coordinator_file(listen, (&cluster.state(), &cluster.store()), &data, "") + HTTP
    };
    cluster.serve_by(&config(&cluster, "127.0.0.1:0"));
    cluster.worker(1, &[]);
    let (listen, token) = (cluster.listen(), cluster.token());
    let job = tiny_cb(&data, "");
    let long = ["--set", "training.epochs=60"];
    let calm = cluster.run(&job, &long);
    let ended = calm["id"].as_str().unwrap();
    drop(cluster.daemon.take());
    log_much(&cluster, ended);
    cluster.serve_by(&config(&cluster, &listen));
    cluster.has_workers(1);
    let target = Target { cluster, address: listen.parse().unwrap(), token };
    let memory = Growth::of([target.cluster.daemon.as_ref().unwrap().pid()]);
    let id = target.cluster.submit(&job, &long);
    target.cluster.reaches(&id, 1);

    endless_requests(&target);
    slow_requests(&target);
    strangers(&target);
    idle_connections(&target);
    followers_that_do_not_read(&target, ended);

    let status = target.cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    assert_eq!(status["generation"], 1, "no worker was lost: {status:#}");
    println!("memory: {} KiB more at the highest", memory.most() >> 10);
    assert!(memory.most() < GROWTH_MAX, "{} bytes", memory.most());
}

/// Bodies of ten gigabytes, a million headers and the like are refused, and whoever sends them hears so.
fn endless_requests(target: &Target) {
    for pour in pours(&target.token, &target.token) {
        let back = pour.at(target.address);
        println!("{}: {back}", pour.name);
        assert!(!back.starts_with("closed"), "{}", pour.name);
    }
}

/// Heads and bodies that stop in the middle are cut off in time.
#[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
fn slow_requests(target: &Target) {
    let body = target.head("POST /v1/jobs") + "content-length: 1000\r\n\r\n{";
    for (count, begun) in [(200, target.head("GET /v1/jobs")), (1, body)] {
        let began = Instant::now();
        let back = slow(target.address, count, begun.as_bytes(), b"");
        println!("{back}");
        assert!(began.elapsed() < Duration::from_secs(60), "{back}");
        assert!(count > 1 || back.contains("408"), "{back}");
    }
}

/// Who has no token is told so a few times a minute; who has one is heard all the same.
fn strangers(target: &Target) {
    let mut answers = Vec::new();
    for _ in 0..10 {
        let mut stream = target.connect();
        stream
            .write_all(b"GET /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answers.push(answer);
    }
    let told = |status: &str| answers.iter().filter(|answer| answer.contains(status)).count();
    // One more where they took so long that there is room for it.
    assert_eq!(told(" 401 ") + told(" 429 "), 10, "{answers:?}");
    assert!((5..7).contains(&told(" 401 ")), "{answers:?}");
    assert!(answers[9].to_lowercase().contains("retry-after: "), "{}", answers[9]);
    assert!(target.cluster.ctl(&["status"]).status.success());
}

/// Thousands of connections that do nothing: `status` is answered as ever.
#[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
fn idle_connections(target: &Target) {
    let connect = |_| TcpStream::connect(target.address);
    // This process may have a bound of its own.
    let idle: Vec<TcpStream> = (0..2000).map_while(|number| connect(number).ok()).collect();
    let mut took: Vec<Duration> = Vec::new();
    let request = target.head("GET /v1/jobs") + "connection: close\r\n\r\n";
    for _ in 0..50 {
        let began = Instant::now();
        let mut stream = target.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        took.push(began.elapsed());
    }
    took.sort_unstable();
    println!("{} idle connections: status p50 {:?}, max {:?}", idle.len(), took[25], took[49]);
    assert!(took[25] < Duration::from_secs(2) && took[49] < DEADLINE, "{took:?}");
}

/// Followers of a long log who read nothing are cut off; who goes on where one was gets the rest.
fn followers_that_do_not_read(target: &Target, ended: &str) {
    let path = format!("/v1/jobs/{ended}/logs/stream");
    let mut followers: Vec<TcpStream> = (0..20).map(|_| small_connection(target)).collect();
    for follower in &mut followers {
        let request = target.head(&format!("GET {path}")) + "\r\n";
        follower.write_all(request.as_bytes()).unwrap();
    }
    for follower in &mut followers {
        // Not a byte is read: the end is seen by what can still be written.
        poll("the follower's end", || follower.write_all(b"x").err());
    }
    let all = target.cluster.json(&["logs", ended]);
    let seqs: Vec<u64> =
        all.as_array().unwrap().iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert!(seqs.len() >= LINES);
    let (seen, rest) = seqs.split_at(LINES / 3);
    let mut again = target.connect();
    let last = format!("last-event-id: {}\r\nconnection: close\r\n\r\n", seen.last().unwrap());
    again.write_all((target.head(&format!("GET {path}")) + &last).as_bytes()).unwrap();
    let mut text = String::new();
    again.read_to_string(&mut text).unwrap();
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse::<u64>().ok());
    assert!(ids.eq(rest.iter().copied()), "each line once");
}

/// A connection for which the system holds little.
fn small_connection(target: &Target) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(&target.address.into()).unwrap();
    socket.into()
}

/// Writes many long lines into the log of a job, while no coordinator runs.
fn log_much(cluster: &Cluster, id: &str) {
    let (journal, _) = Journal::open(&cluster.state().join("journal.sqlite")).unwrap();
    let line = |number| Entry::Log {
        job: JobId(id.into()),
        unix_ms: 1,
        level: LogLevel::Info,
        source: "test".into(),
        message: format!("{number} {}", "x".repeat(8192)),
    };
    let lines: Vec<Entry> = (0..LINES).map(line).collect();
    tokio::runtime::Runtime::new().unwrap().block_on(journal.write(lines)).unwrap();
}
