//! What slow and greedy clients do to a coordinator, and to a job that trains meanwhile: nothing.

use super::harness::{Cluster, DEADLINE, coordinator_file, hash, poll, superglue, text, tiny_cb};
use ptv2_common::api::LogLevel;
use ptv2_common::ids::JobId;
use ptv2_daemon::coordinator::journal::{Entry, Journal};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Short, so that the test is.
const HTTP: &str = "[http]\nhead_timeout = \"1s\"\nbody_timeout = \"1s\"\nwrite_timeout = \"1s\"\n\
                    streams_per_token = 20\nrefusals_per_minute = 5\n";
/// Lines of a log, of 8 KiB each.
const LINES: usize = 1500;
/// What a coordinator may grow by, whatever clients do.
const GROWTH_KIB: u64 = 64 << 10;

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

    /// Sends what comes out of `next` again and again until it is taken no more; the answer, and how many
    /// bytes were taken.
    fn pour(&self, head: &str, next: impl Fn(u64) -> String + Send + 'static) -> (String, u64) {
        let mut stream = self.connect();
        let mut writer = stream.try_clone().unwrap();
        writer.write_all(head.as_bytes()).unwrap();
        let poured = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&poured);
        let pours = std::thread::spawn(move || {
            for round in 0.. {
                let part = next(round);
                if writer.write_all(part.as_bytes()).is_err() {
                    return;
                }
                count.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
        });
        let mut answer = Vec::new();
        // The end of the connection may be a reset: there was more to read.
        drop(stream.read_to_end(&mut answer));
        drop(stream);
        pours.join().unwrap();
        (text(&answer), poured.load(Ordering::Relaxed))
    }

    fn memory_kib(&self, what: &str) -> u64 {
        let pid = self.cluster.daemon.as_ref().unwrap().pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
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
    let pid = target.cluster.daemon.as_ref().unwrap().pid();
    // From now on the highest mark is of what follows.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    let before = target.memory_kib("VmRSS");
    let id = target.cluster.submit(&job, &long);
    target.cluster.reaches(&id, 1);

    slow_heads(&target);
    endless_bodies(&target);
    endless_heads(&target);
    strangers(&target);
    idle_connections(&target);
    followers_that_do_not_read(&target, ended);

    let status = target.cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    assert_eq!(status["generation"], 1, "no worker was lost: {status:#}");
    let grown = target.memory_kib("VmHWM").saturating_sub(before);
    println!("memory: {before} KiB before, {grown} KiB more at the highest");
    assert!(grown < GROWTH_KIB, "{grown} KiB");
}

/// Heads that never end are cut off in time.
#[expect(clippy::disallowed_methods, reason = "measures how long it takes")]
fn slow_heads(target: &Target) {
    let began = Instant::now();
    let head = target.head("GET /v1/jobs");
    let mut slow: Vec<TcpStream> = (0..200).map(|_| target.connect()).collect();
    for stream in &mut slow {
        stream.write_all(head.as_bytes()).unwrap();
    }
    for mut stream in slow {
        drop(stream.read_to_end(&mut Vec::new()));
    }
    let took = began.elapsed();
    println!("200 heads that never end: all cut off after {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// Bodies of ten gigabytes are refused at the beginning.
fn endless_bodies(target: &Target) {
    let part = "x".repeat(1 << 16);
    let told = target.head("POST /v1/jobs") + "content-length: 10737418240\r\n\r\n";
    let plain = part.clone();
    let (answer, taken) = target.pour(&told, move |_| plain.clone());
    println!("10 GB with their length told: {taken} bytes taken");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(taken < 16 << 20, "{taken}");
    let untold = target.head("POST /v1/jobs") + "transfer-encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{part}\r\n", part.len());
    let (answer, taken) = target.pour(&untold, move |_| chunk.clone());
    println!("10 GB in chunks: {taken} bytes taken");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(taken < 16 << 20, "{taken}");
    // One that stops in the middle.
    let mut stream = target.connect();
    let slow = target.head("POST /v1/jobs") + "content-length: 1000\r\n\r\n{";
    stream.write_all(slow.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

/// A million headers are refused after the first few.
fn endless_heads(target: &Target) {
    let head = target.head("GET /v1/jobs");
    let (answer, taken) = target
        .pour(&head, |round| (0..1000).map(|number| format!("h{round}-{number}: x\r\n")).collect());
    println!("a million headers: {taken} bytes taken");
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(taken < 16 << 20, "{taken}");
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
    assert_eq!((told(" 401 "), told(" 429 ")), (5, 5), "{answers:?}");
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
    assert!(took[49] < Duration::from_secs(2), "{took:?}");
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
