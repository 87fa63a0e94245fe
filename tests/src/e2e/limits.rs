//! What slow and greedy clients do to a coordinator, and to a job that trains meanwhile: nothing.

use super::harness::{Cluster, DEADLINE, coordinator_file, hash, poll, superglue, text, tiny_cb};
use futures_util::{SinkExt, StreamExt};
use ptv2_common::api::LogLevel;
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::session::{Envelope, Fingerprint, FromWorker, Hello, PROTOCOL, ToWorker};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Short, so that the test is.
const HTTP: &str = "[http]\nhead_timeout = \"1s\"\nbody_timeout = \"1s\"\nwrite_timeout = \"1s\"\n\
                    streams_per_token = 20\nrefusals_per_minute = 5\n";
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
    let paths = (&*cluster.state(), &*cluster.store());
    cluster.serve_by(&(coordinator_file("127.0.0.1:0", paths, &data, "") + HTTP));
    cluster.worker(1, &[]);
    let (address, token) = (cluster.listen().parse().unwrap(), cluster.token());
    let job = tiny_cb(&data, "");
    let long = ["--set", "training.epochs=60"];
    let calm = cluster.run(&job, &long);
    let target = Target { cluster, address, token };
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
    followers_that_do_not_read(&target, &id);

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

/// A worker that logs more than followers read: they are cut off, and go on where they were.
fn followers_that_do_not_read(target: &Target, id: &str) {
    let request = target.head(&format!("GET /v1/jobs/{id}/logs/stream")) + "\r\n";
    let mut followers: Vec<TcpStream> = (0..20).map(|_| small_connection(target)).collect();
    for follower in &mut followers {
        follower.write_all(request.as_bytes()).unwrap();
    }
    let lines = 1500;
    tokio::runtime::Runtime::new().unwrap().block_on(log(target, id, lines));
    for follower in &mut followers {
        // Not a byte is read: the end is seen by what can still be written.
        poll("the follower's end", || match follower.write_all(b"x") {
            Ok(()) => None,
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(()),
        });
    }
    // Whoever reads from where it was gets what is there.
    poll("the log", || {
        let all = target.cluster.json(&["logs", id]);
        let long =
            all.as_array()?.iter().filter(|line| line["message"].as_str().unwrap().len() > 8000);
        (long.count() == lines).then_some(())
    });
}

/// A connection for which the system holds little.
fn small_connection(target: &Target) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(&target.address.into()).unwrap();
    socket.into()
}

/// Joins as a worker of a kind of its own, and says so many long lines of a job.
async fn log(target: &Target, id: &str, lines: usize) {
    let mut request = format!("ws://{}/v1/session", target.address).into_client_request().unwrap();
    let token = std::fs::read_to_string(target.cluster.state().join("worker-token")).unwrap();
    let bearer = format!("Bearer {}", token.trim()).parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let hello = Hello {
        protocol: PROTOCOL,
        worker: WorkerId("w-loud".into()),
        host: "loud:1".into(),
        version: ptv2_common::VERSION.into(),
        fingerprint: Fingerprint {
            device: "loud".into(),
            instruction_set: "none".into(),
            libtorch: "none".into(),
            ptv2: ptv2_common::VERSION.into(),
            settings: "none".into(),
        },
        device: "cpu".into(),
        threads: 1,
        reduce_address: SocketAddr::from(([127, 0, 0, 1], 9)),
        slurm: None,
        visible_device: None,
        launch: None,
        attached: None,
    };
    let say = |seq, message| {
        let text = serde_json::to_string(&Envelope { seq, message }).unwrap();
        Message::Text(text.into())
    };
    socket.send(say(None, FromWorker::Hello(hello))).await.unwrap();
    for number in 1..=lines {
        let message = FromWorker::Log {
            job: JobId(id.into()),
            level: LogLevel::Info,
            message: format!("{number} {}", "x".repeat(8192)),
        };
        socket.send(say(Some(number as u64), message)).await.unwrap();
    }
    // What is not taken when the connection ends would have to be said again.
    while let Some(heard) = socket.next().await {
        let heard = heard.unwrap();
        match heard.to_text().ok().and_then(|text| serde_json::from_str(text).ok()) {
            Some(ToWorker::Taken { seq }) if seq >= lines as u64 => return,
            Some(_) | None => {}
        }
    }
    panic!("not all lines were taken");
}
