//! Messages over a worker's WebSocket: too large, too many, of no known type, out of order, and in another's
//! name or about another's job. Whoever sends them has a worker's token.

use super::greedy::again;
use super::http;
use super::report::Table;
use super::{Effort, Target};
use ptv2_common::access::{SESSION_HEADER, Scope};
use ptv2_common::api::{Checkpoint, MetricsRow, StepMetrics};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::place::{DevicePhase, Place};
use ptv2_common::session::{
    Attached, Envelope, Fingerprint, FromWorker, Hello, LeaveReason, PROTOCOL, Stage,
};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

type Socket = WebSocket<TcpStream>;

/// Whatever a message leads to has happened after this long.
const SOON: Duration = Duration::from_secs(15);

/// All of this file, each a row of the table.
pub(super) fn all(target: &Target, effort: Effort, table: &mut Table) {
    table.during("before hello: all kinds of nonsense", target, || before_hello(target));
    table.during("a message of 16 MB", target, || too_large(target));
    table.during("a message in endless parts", target, || endless_parts(target));
    table.during("these three, again and again", target, || {
        let rounds = again(|| {
            before_hello(target);
            too_large(target);
            endless_parts(target);
        });
        format!("{rounds} times the same")
    });
    let count = effort.of(50_000, 1_000_000);
    table.during(&format!("{count} pings"), target, || {
        flood(target, count, &Message::Ping("x".into()))
    });
    let count = effort.of(5_000, 400_000);
    let beat = text(None, heartbeat(None));
    table.during(&format!("{count} heartbeats"), target, || flood(target, count, &beat));
    table.during("hello twice", target, || hello_twice(target));
    table.during("another worker's id", target, || anothers_id(target));
    table.during("a worker that speaks of another's job", target, || anothers_job(target));
    table.during("a late generation", target, || late_generation(target));
    table.during("a worker whose words steer terminals", target, || words(target));
}

/// What a stranger says first, as the worker of an id.
pub(crate) fn hello(id: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        worker: WorkerId(id.into()),
        host: "attack:1".into(),
        version: ptv2_common::VERSION.into(),
        // Of a kind of its own, so that it is given no work.
        fingerprint: Fingerprint {
            device: "attack".into(),
            instruction_set: "none".into(),
            libtorch: "none".into(),
            ptv2: ptv2_common::VERSION.into(),
            settings: "none".into(),
        },
        device: "cpu".into(),
        threads: 1,
        reduce_address: SocketAddr::from(([127, 0, 0, 1], 9)),
        launch: None,
        attached: None,
        slurm: None,
        visible_device: None,
    }
}

fn heartbeat(serving: Option<(JobId, Generation)>) -> FromWorker {
    FromWorker::Heartbeat {
        serving,
        place: None,
        phase: DevicePhase::Idle,
        phase_age_ms: 0,
        backbone_loads: 0,
        speed: None,
    }
}

fn text(seq: Option<u64>, message: FromWorker) -> Message {
    Message::Text(serde_json::to_string(&Envelope { seq, message }).unwrap().into())
}

/// A worker's connection, before it said anything.
fn dial(target: &Target, secret: &str) -> Socket {
    let mut request = format!("ws://{}/v1/session", target.address).into_client_request().unwrap();
    let bearer = format!("Bearer {}", target.token(Scope::Worker)).parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    request.headers_mut().insert(SESSION_HEADER, secret.parse().unwrap());
    let stream = http::connect(target.address);
    stream.set_read_timeout(Some(SOON)).unwrap();
    client(request, stream).unwrap().0
}

/// A worker that has joined.
fn joined(target: &Target, number: u8) -> Socket {
    let mut socket = dial(target, &format!("{number:064}"));
    socket.send(text(None, FromWorker::Hello(hello(&format!("w{number:010x}"))))).unwrap();
    let said = said(&mut socket).expect("a welcome");
    assert!(said.contains("welcome"), "{said}");
    socket
}

/// The next text, or why there is none.
fn said(socket: &mut Socket) -> Result<String, String> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => return Ok(text.to_string()),
            Ok(Message::Close(frame)) => {
                return Err(frame.map_or_else(String::new, |frame| frame.reason.to_string()));
            }
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Why the coordinator ends a connection; that it does within [`SOON`].
fn ended(socket: &mut Socket) -> String {
    loop {
        match said(socket) {
            Ok(_) => {}
            Err(why) => {
                assert!(!why.contains("os error 11"), "it is still open: {why}");
                return why;
            }
        }
    }
}

fn before_hello(target: &Target) -> String {
    let mut first = String::new();
    let (job, generation) = (JobId(target.job.clone()), Generation(1));
    let hash = "0".repeat(64);
    let old = Hello { protocol: PROTOCOL + 1, ..hello("w00000000aa") };
    for message in [
        text(None, heartbeat(None)),
        text(Some(1), FromWorker::Finished { job, generation, tuned_sha256: hash }),
        Message::Text("{\"message\": {\"type\": \"kill\"}}".into()),
        Message::Text("{\"message\": {\"type\": \"hello\"}}".into()),
        Message::Text("[".repeat(100_000).into()),
        Message::Text("".into()),
        Message::Binary(vec![0xff; 1000].into()),
        text(None, FromWorker::Hello(hello("../../w"))),
        text(None, FromWorker::Hello(hello(""))),
        text(None, FromWorker::Hello(old)),
    ] {
        let mut socket = dial(target, &"a".repeat(64));
        socket.send(message).unwrap();
        let why = ended(&mut socket);
        if first.is_empty() {
            first = why;
        }
    }
    format!("closed: {first}")
}

fn too_large(target: &Target) -> String {
    let mut socket = joined(target, 1);
    // It is cut off while it sends.
    drop(socket.send(Message::Text("x".repeat(16 << 20).into())));
    ended(&mut socket);
    "closed".into()
}

fn endless_parts(target: &Target) -> String {
    let mut socket = joined(target, 2);
    let part = |opcode| {
        let header = FrameHeader { is_final: false, opcode, ..FrameHeader::default() };
        Message::Frame(Frame::from_payload(header, vec![b'x'; 1 << 16].into()))
    };
    let mut sent = 0_u32;
    let mut opcode = OpCode::Data(Data::Text);
    while sent < 1 << 14 && socket.send(part(opcode)).is_ok() {
        opcode = OpCode::Data(Data::Continue);
        sent += 1;
    }
    assert!(sent < 1 << 12, "{sent} parts of 64 KiB were taken");
    "closed".into()
}

/// Many messages of a worker that has joined, which is still there afterwards, or was cut off.
fn flood(target: &Target, count: usize, message: &Message) -> String {
    let mut socket = joined(target, 3);
    let mut answers = socket.get_ref().try_clone().unwrap();
    let reads = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    let sent = (0..count).try_for_each(|_| socket.write(message.clone()));
    let sent = sent.and_then(|()| socket.flush());
    // It may have been shut by the other side.
    drop(socket.get_ref().shutdown(Shutdown::Both));
    drop(reads.join().unwrap());
    sent.map_or_else(|error| format!("closed: {error}"), |()| "taken, in turn".into())
}

fn hello_twice(target: &Target) -> String {
    let mut socket = joined(target, 4);
    socket.send(text(None, FromWorker::Hello(hello("w0000000004")))).unwrap();
    // A third one, of another id, in the middle of the session.
    socket.send(text(None, FromWorker::Hello(hello("w00000000ff")))).unwrap();
    socket.send(text(None, heartbeat(None))).unwrap();
    let workers = target.get("/v1/workers").text();
    assert!(!workers.contains("w00000000ff"), "{workers}");
    "not heard".into()
}

/// The worker that trains, by its id, in the words of someone else.
fn anothers_id(target: &Target) -> String {
    let workers = target.get("/v1/workers").json();
    let workers = workers.as_array().unwrap();
    let real = workers.iter().find(|worker| worker["job"] == target.job.as_str()).unwrap();
    let id = real["id"].as_str().unwrap();
    let mut socket = dial(target, &"b".repeat(64));
    let attached =
        Attached { job: JobId(target.job.clone()), generation: Generation(1), stage: Stage::Left };
    let message = Hello { attached: Some(attached), ..hello(id) };
    socket.send(text(None, FromWorker::Hello(message))).unwrap();
    let answer = said(&mut socket).unwrap_or_else(|why| why);
    assert!(!answer.contains("welcome"), "{answer}");
    ended(&mut socket);
    target.is_as_it_was();
    "refused".into()
}

/// All that could end or change a job, of a worker that has no part in it.
fn anothers_job(target: &Target) -> String {
    let mut socket = joined(target, 5);
    let job = || JobId(target.job.clone());
    let generation = Generation(1);
    let hash = "0".repeat(64);
    let row = StepMetrics {
        step: 999_999_999,
        epoch: 1,
        loss: 666.0,
        learning_rate: 1.0,
        seed: None,
        grad_norm: 1.0,
        rows_per_s: 1.0,
        tokens_per_s: 1.0,
    };
    let checkpoint = Checkpoint {
        key: "../../state/token".into(),
        step: 999_999_999,
        generation: 1,
        is_best: true,
        metric: Some(1.0),
        run: 0,
        seed: None,
        ends_run: true,
        ends_job: true,
        bytes: 1,
        tuned_sha256: hash.clone(),
    };
    let place = Place { step: 999_999_999, ..Place::default() };
    let error = || Explained::new("it cannot be done");
    let report =
        |outcome| FromWorker::CheckpointReport { job: job(), generation, outcome, waited_ms: 0 };
    let messages = [
        FromWorker::Running { job: job(), generation, place },
        FromWorker::Progress { job: job(), generation, metrics: vec![MetricsRow::Step(row)] },
        report(Ok(checkpoint)),
        report(Err(error())),
        FromWorker::Finished { job: job(), generation, tuned_sha256: hash },
        FromWorker::Left { job: job(), generation, place: None, reason: LeaveReason::Stopped },
        FromWorker::JobFailed { job: job(), generation, error: error() },
        FromWorker::Damaged { error: error(), jobs: vec![job()] },
        FromWorker::Ready { job: job(), outcome: Err(error()) },
        heartbeat(Some((job(), generation))),
    ];
    for (number, message) in (1..).zip(messages) {
        socket.send(text(Some(number), message)).unwrap();
    }
    // What comes after them was heard, so they were, too.
    loop {
        let answer = said(&mut socket).unwrap();
        if answer.contains("taken") && answer.contains("10") {
            break;
        }
    }
    target.is_as_it_was();
    let status = target.get(&format!("/v1/jobs/{}", target.job)).json();
    assert!(status["step"].as_u64().unwrap() < 999_999_999, "{status:#}");
    assert!(status["loss"].as_f64().unwrap() < 600.0, "{status:#}");
    assert!(!status.to_string().contains("cannot be done"), "{status:#}");
    "not heard".into()
}

/// Of a generation that there never was, and of one that is long over.
fn late_generation(target: &Target) -> String {
    let mut socket = joined(target, 6);
    for (number, generation) in (1..).zip([0, 2, u64::MAX]) {
        let (job, generation) = (JobId(target.job.clone()), Generation(generation));
        let error = Explained::new("late");
        socket.send(text(Some(number), FromWorker::JobFailed { job, generation, error })).unwrap();
    }
    while !said(&mut socket).unwrap().contains('3') {}
    target.is_as_it_was();
    "not heard".into()
}

/// What a worker says of itself is logged and shown.
fn words(target: &Target) -> String {
    let evil = "\u{1b}]0;owned\u{7}\r\n2026-11-25T00:00:00Z  INFO all is well\u{202e}\u{9b}2J";
    let mut socket = dial(target, &"c".repeat(64));
    let message = Hello {
        host: evil.into(),
        version: evil.into(),
        device: evil.into(),
        fingerprint: Fingerprint { device: evil.into(), ..hello("w").fingerprint },
        ..hello("w00000000ee")
    };
    socket.send(text(None, FromWorker::Hello(message))).unwrap();
    assert!(said(&mut socket).unwrap().contains("welcome"));
    let log = FromWorker::Log {
        job: JobId(target.job.clone()),
        level: ptv2_common::api::LogLevel::Warn,
        message: evil.into(),
    };
    socket.send(text(Some(1), log)).unwrap();
    while !said(&mut socket).unwrap().contains("taken") {}
    let job = target.job.as_str();
    for args in [&["workers"][..], &["status", job], &["logs", job], &["events", job]] {
        let run = target.cluster.ctl(args);
        for bytes in [&run.stdout, &run.stderr] {
            let shown = String::from_utf8(bytes.clone()).unwrap();
            let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
            assert!(!shown.contains(steers), "{args:?}: {shown:?}");
        }
    }
    "shown without what steers".into()
}
